"""`features`: one file of features for each file of images and for each reference."""

import os

import numpy as np
import pytest
from toy_scored import SHARD, draw, drawings
from toy_scored import house as house
from toy_scored import pictures as pictures

from mixar.data.images import write_images
from mixar.scoring.files import read_features
from mixar.stages.features import extraction, image_features, reference_features


def test_features_keep_the_rows_of_their_images(house):
    study, layout = house
    draw(layout, drawings(SHARD, 1), shards=(0,))
    images = layout.samples("mar", 0, "default", 0)

    image_features(study, layout, images)

    found = read_features([layout.features(images)]).features
    assert found.index.tolist() == list(range(SHARD))
    assert found.labels.tolist() == [i % 3 for i in range(SHARD)]
    assert len(found.features) == SHARD == len(found.logits)


def test_one_start_extracts_from_several_files_what_several_do(house):
    study, layout = house
    draw(layout, drawings(2 * SHARD, 1), shards=(0, 1))
    paths = [layout.samples("mar", 0, "default", shard) for shard in (0, 1)]
    for path in paths:
        image_features(study, layout, path)
    alone = [read_features([layout.features(path)]).features.features for path in paths]

    extract = extraction(study, layout)
    for path in paths:
        extract(path)

    together = [read_features([layout.features(path)]).features.features for path in paths]
    assert all(map(np.array_equal, alone, together))


def test_reference_features_that_fit_are_kept_and_damaged_or_foreign_ones_are_made_again(house):
    study, layout = house
    path, other = layout.reference_features("train"), layout.reference_features("held_out")
    for split in ("train", "held_out"):
        reference_features(study, layout, split)

    def is_written():
        before = path.stat().st_ino
        os.utime(path, (0, 0))
        reference_features(study, layout, "train")
        assert path.stat().st_mtime > 0  # for Snakemake, newer than what it was made from
        return path.stat().st_ino != before

    assert not is_written()
    path.write_bytes(b"cut off")
    assert is_written()
    path.write_bytes(other.read_bytes())  # of other images
    assert is_written()


def test_unfit_files_of_images_and_splits_are_refused(house, tmp_path):
    study, layout = house
    write_images(tmp_path / "elsewhere.parquet", [0], [0], drawings(1, 0))
    write_images(layout.samples("mar", 0, "default", 0), [0], [0], np.zeros((1, 8, 8, 3), np.uint8))

    for path, message in (
        (layout.samples("mar", 0, "default", 5), "no such file of images"),
        (tmp_path / "elsewhere.parquet", "not a file of this study"),
        (layout.samples("mar", 0, "default", 0), "16 x 16"),
    ):
        with pytest.raises(ValueError, match=message):
            image_features(study, layout, path)
    with pytest.raises(ValueError, match="--reference: 'test' is unknown; choose from train, held_out, reconstructed"):
        reference_features(study, layout, "test")
