"""Collections of images in every format: read in parts, with index and labels."""

import os

import numpy as np
import pytest
from toy_images import COUNT, SIZE, folder, pixels, png

from mixar.data.collection import checked, iter_pixels, open_collection
from mixar.data.images import write_images


def test_an_array_is_read_in_parts_from_anywhere(tmp_path):
    images = pixels()
    np.savez_compressed(tmp_path / "a.npz", arr_0=images, arr_1=np.arange(COUNT) % 3)

    collection = open_collection(tmp_path / "a.npz")

    for start, stop in ((0, 5), (10, 24), (3, 6)):
        found = [image for _, image, _ in iter_pixels(collection, start, stop)]
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


def test_images_behind_links_count_and_those_of_service_folders_do_not(tmp_path):
    folder(tmp_path / "elsewhere", pixels(12))
    folder(tmp_path / "images" / "a", pixels(12, seed=1))
    (tmp_path / "images" / "b").symlink_to(tmp_path / "elsewhere")
    folder(tmp_path / "images" / "a" / ".ipynb_checkpoints", pixels(3))
    folder(tmp_path / "images" / "__MACOSX", pixels(3))
    (tmp_path / "images" / "b" / "more.bmp").write_text("")
    said = []

    collection = open_collection(tmp_path / "images", said.append)

    assert collection.labels.tolist() == [0] * 12 + [1] * 12
    assert said == [
        f"{tmp_path}/images: skipped: 1 .bmp (not read); 2 hidden or service entries (1 .ipynb_checkpoints, 1 __MACOSX)"
    ]


def test_a_loop_of_links_is_refused(tmp_path):
    folder(tmp_path / "a", pixels(3))
    (tmp_path / "a" / "again").symlink_to(tmp_path)

    with pytest.raises(ValueError, match="a/again: a link to .*, a folder that contains it"):
        open_collection(tmp_path)


def parts(root, starts, each, first=None):
    """Folders named after numbers, each with `each` images, numbered on from its own number or from `first`."""
    for start in starts:
        for i, image in enumerate(pixels(each, seed=start)):
            (root / f"{start:06}").mkdir(parents=True, exist_ok=True)
            (root / f"{start:06}" / f"{(start if first is None else first) + i:06}.png").write_bytes(png(image))
    return root


@pytest.mark.parametrize("first", [None, 0])
def test_folders_of_a_numbered_set_are_no_classes(tmp_path, first):
    said = []

    collection = open_collection(parts(tmp_path, (0, 128, 256, 384), 6, first), said.append)

    assert set(collection.labels.tolist()) == {-1}
    assert "no labels, for the folders 000000, 000128, …" in said[0]
    running = [start + i for start in (0, 128, 256, 384) for i in range(6)]
    assert collection.index.tolist() == (running if first is None else list(range(24)))


def test_folders_that_are_numbered_as_classes_are(tmp_path):
    assert open_collection(parts(tmp_path, range(4), 6, first=0)).labels.tolist() == [n // 6 for n in range(24)]


def test_several_splits_in_one_folder_are_refused(tmp_path):
    folder(tmp_path / "a" / "train", pixels(3))
    folder(tmp_path / "a" / "val", pixels(3))
    (tmp_path / "b").mkdir()
    write_images(tmp_path / "b" / "train-0.parquet", [0], [0], pixels(1))
    write_images(tmp_path / "b" / "test-0.parquet", [1], [0], pixels(1))

    for name, splits in (("a", "train, validation"), ("b", "test, train")):
        with pytest.raises(ValueError, match=f"{name}: images of several splits .{splits}.; give"):
            open_collection(tmp_path / name)


@pytest.mark.parametrize("where", ["image", "folder", "itself"])
def test_a_name_that_is_not_utf_8_is_named(tmp_path, where):
    folder(tmp_path / "a" / "b", pixels(3))
    old = {"image": "a/b/00001.png", "folder": "a/b", "itself": "a"}[where]
    new = os.path.join(os.path.dirname(os.fsencode(tmp_path / old)), b"\xff.png")
    os.rename(tmp_path / old, new)

    with pytest.raises(ValueError, match=r"\\xff.png': a name that is not UTF-8"):
        open_collection(os.fsdecode(new) if where == "itself" else tmp_path / "a")


def test_parquet_files_of_a_folder_are_one_set_with_their_own_index(tmp_path):
    images = pixels(6)
    write_images(tmp_path / "b.parquet", [0, 1, 2], [0, 1, 2], images[:3])
    write_images(tmp_path / "a.parquet", [5, 4, 3], [2, 1, 0], images[[5, 4, 3]])

    collection = open_collection(tmp_path)

    found = np.stack([image for _, image, _ in iter_pixels(collection, 0, 6)])
    assert collection.index.tolist() == [5, 4, 3, 0, 1, 2]
    assert np.array_equal(found, images[collection.index])


def test_the_check_tells_one_set_of_images_from_another(tmp_path):
    images, seen = pixels(), []
    a, b = (open_collection(folder(tmp_path / n, i)) for n, i in (("a", images), ("b", images[::-1])))

    digests = [checked(c, SIZE, 8, lambda done, total: seen.append((done, total))) for c in (a, a, b)]

    assert digests[0] == digests[1] != digests[2]
    assert [len(digest.parts) for digest in digests] == [COUNT // 8] * 3
    assert len({*digests[0].parts, *digests[2].parts}) == 2 * COUNT // 8
    assert seen[: COUNT + 1] == [(i, COUNT) for i in range(COUNT + 1)]
