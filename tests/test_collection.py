"""Collections of images: read in parts, with index and labels, whatever they lie in."""

import numpy as np
from toy_images import COUNT, SIZE, folder, pixels

from mixar.data.collection import checked, iter_pixels, open_collection
from mixar.data.images import write_images


def test_an_array_is_read_in_parts_from_anywhere(tmp_path):
    images = pixels()
    np.savez_compressed(tmp_path / "a.npz", arr_0=images, arr_1=np.arange(COUNT) % 3)

    collection = open_collection(tmp_path / "a.npz")

    for start, stop in ((0, 5), (10, 24), (3, 6)):
        found = [image for _, image in iter_pixels(collection, start, stop)]
        assert np.array_equal(found, images[start:stop])
    assert collection.labels.tolist() == [i % 3 for i in range(COUNT)]


def test_class_folders_give_labels_and_numbered_names_the_index(tmp_path):
    pictures = folder(tmp_path / "classes" / "a", pixels(20)).parent
    for name in ("b", "c"):
        folder(pictures / name, pixels(20))
    flat = folder(tmp_path / "flat", pixels(3))
    (flat / "00001.png").rename(flat / "00007.png")

    classes, numbered = open_collection(pictures), open_collection(flat)

    assert classes.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert classes.index.tolist() == list(range(60))
    assert numbered.index.tolist() == [0, 2, 7] and set(numbered.labels.tolist()) == {-1}


def test_a_name_with_more_digits_than_an_index_may_have_is_a_name(tmp_path):
    flat = folder(tmp_path, pixels(3))
    (flat / "00001.png").rename(flat / f"{'9' * 23}.png")

    assert open_collection(flat).index.tolist() == [0, 1, 2]


def test_parquet_files_of_a_folder_are_one_set_with_their_own_index(tmp_path):
    images = pixels(6)
    write_images(tmp_path / "b.parquet", [0, 1, 2], [0, 1, 2], images[:3])
    write_images(tmp_path / "a.parquet", [5, 4, 3], [2, 1, 0], images[[5, 4, 3]])

    collection = open_collection(tmp_path)

    found = np.stack([image for _, image in iter_pixels(collection, 0, 6)])
    assert collection.index.tolist() == [5, 4, 3, 0, 1, 2]
    assert np.array_equal(found, images[collection.index])


def test_the_check_tells_one_set_of_images_from_another(tmp_path):
    images, seen = pixels(), []
    a, b = (open_collection(folder(tmp_path / n, i)) for n, i in (("a", images), ("b", images[::-1])))

    digests = [checked(c, SIZE, lambda done, total: seen.append((done, total))) for c in (a, a, b)]

    assert digests[0] == digests[1] != digests[2]
    assert seen[:COUNT] == [(i + 1, COUNT) for i in range(COUNT)]
