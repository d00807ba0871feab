"""Images as ADM's evaluator reads them: every image once, with its label, in a random order that is always the same."""

import numpy as np
import pytest
from toy_scored import NUM_IMAGES, SIZE, draw, drawings
from toy_scored import house as house
from toy_scored import pictures as pictures

from mixar.data.images import write_images
from mixar.stages.export import export


def exported(house, tmp_path, images):
    study, layout = house
    draw(layout, images)
    return export(study, layout, "mar", 0, "default", tmp_path / "out" / "mar.npz"), tmp_path / "out" / "mar.npz"


def test_every_image_is_there_once_with_its_label_and_not_sorted(house, tmp_path):
    images = drawings(NUM_IMAGES, 1)

    count, path = exported(house, tmp_path, images)

    with np.load(path, allow_pickle=False) as found:
        pixels, labels = found["arr_0"], found["arr_1"]
    assert count == NUM_IMAGES and pixels.shape == (NUM_IMAGES, SIZE, SIZE, 3) and pixels.dtype == np.uint8
    place = [int((pixels == image).all(axis=(1, 2, 3)).nonzero()[0][0]) for image in images]
    assert sorted(place) == list(range(NUM_IMAGES)) != place
    assert labels[place].tolist() == (np.arange(NUM_IMAGES) % 3).tolist()
    assert [file.name for file in path.parent.iterdir()] == ["mar.npz"]


def test_two_exports_have_the_same_order(house, tmp_path):
    images = drawings(NUM_IMAGES, 1)
    files = [exported(house, tmp_path / str(i), images)[1] for i in range(2)]

    first, second = (np.load(file)["arr_0"] for file in files)
    assert np.array_equal(first, second)


def test_missing_and_foreign_images_are_named_and_nothing_is_written(house, tmp_path):
    study, layout = house
    images = drawings(NUM_IMAGES, 1)
    draw(layout, images, shards=(0, 2))
    arguments = study, layout, "mar", 0, "default"

    with pytest.raises(ValueError, match=r"shard-00001.parquet: no images; run `sample`"):
        export(*arguments, tmp_path / "mar.npz")
    write_images(layout.samples("mar", 0, "default", 1), np.arange(20) + NUM_IMAGES, np.zeros(20), images[:20])
    with pytest.raises(ValueError, match=r"shard-00001.parquet: not images of this study"):
        export(*arguments, tmp_path / "mar.npz")
    write_images(layout.samples("mar", 0, "default", 1), np.arange(20), np.zeros(20), images[:20])
    with pytest.raises(ValueError, match="20 of 60 images are missing"):
        export(*arguments, tmp_path / "mar.npz")
    with pytest.raises(ValueError, match="ends in .npz"):
        export(*arguments, tmp_path / "mar.zip")
    assert not [path for path in tmp_path.iterdir() if "mar" in path.name]
