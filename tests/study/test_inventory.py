"""What tells changed images from touched ones, without reading them all."""

import os
import shutil

import pytest
from toy_images import folder, pixels, png

from mixar.study import inventory
from mixar.study.sections import Data


@pytest.fixture
def data(tmp_path):
    for seed, name in enumerate(("train/cat", "train/dog/more", "val/cat", "val/dog")):
        folder(tmp_path / name, pixels(6, seed, 8))
    paths = {"path": str(tmp_path / "train"), "held_out_path": str(tmp_path / "val")}
    return Data(source="folder", image_size=8, num_classes=2, **paths)


def record(data, folder):
    inventory.record(inventory.taken(data, folder / "inventory.json"), folder / "inventory.json")


def touched(path):
    """Give the file another time, as a copy or an editor would."""
    now = os.stat(path).st_mtime_ns
    os.utime(path, ns=(now, now + 10**9))


def replaced(path):
    path.write_bytes(png(pixels(1, 99, 8)[0]))
    touched(path)


CHANGES = {
    "an image added to a class folder": lambda root: shutil.copy(root / "val/cat/00000.png", root / "train/cat/a.png"),
    "an image overwritten": lambda root: replaced(root / "train/cat/00003.png"),
    "an image in a nested folder overwritten": lambda root: replaced(root / "train/dog/more/00000.png"),
    "a held-out image overwritten": lambda root: replaced(root / "val/dog/00001.png"),
    "an image removed": lambda root: (root / "val/dog/00001.png").unlink(),
    "an image renamed": lambda root: (root / "train/cat/00000.png").rename(root / "train/cat/9.png"),
}


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_give_another_stamp(data, tmp_path, change, is_recorded):
    if is_recorded:
        record(data, tmp_path)
    before = inventory.stamp(data, tmp_path / "inventory.json")
    assert before == inventory.stamp(data, tmp_path / "inventory.json")

    CHANGES[change](tmp_path)

    assert inventory.stamp(data, tmp_path / "inventory.json") != before


def test_files_that_no_image_is_read_from_change_nothing(data, tmp_path):
    before = inventory.stamp(data, tmp_path / "none")

    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "cat" / "._00000.png").write_text("")
    (tmp_path / "train" / "README.md").write_text("")

    assert inventory.stamp(data, tmp_path / "none") == before


def test_touched_and_copied_files_of_a_small_set_are_the_same_data(data, tmp_path):
    record(data, tmp_path)
    before = inventory.stamp(data, tmp_path / "inventory.json")

    touched(tmp_path / "train" / "cat" / "00000.png")
    shutil.move(tmp_path / "val" / "cat", tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "val" / "cat", copy_function=shutil.copyfile)

    assert inventory.stamp(data, tmp_path / "inventory.json") == before
    record(data, tmp_path)  # as another `ingest` does
    assert inventory.stamp(data, tmp_path / "inventory.json") == before


def test_a_change_while_the_images_are_read_shows_afterwards(data, tmp_path):
    found = inventory.taken(data, tmp_path / "inventory.json")
    replaced(tmp_path / "train" / "cat" / "00003.png")
    inventory.record(found, tmp_path / "inventory.json")

    recorded = " ".join(part["stamp"] for part in found.values())
    assert inventory.stamp(data, tmp_path / "inventory.json") != recorded


def test_large_sets_are_never_read_for_the_stamp(data, tmp_path):
    found = inventory.taken(data, tmp_path / "inventory.json", read_again=10)
    inventory.record(found, tmp_path / "inventory.json")
    assert [part["files"] for part in found.values()] == [None, None]  # no hashes of what they hold
    before = inventory.stamp(data, tmp_path / "inventory.json")

    touched(tmp_path / "train" / "cat" / "00000.png")

    assert inventory.stamp(data, tmp_path / "inventory.json") != before


def test_images_that_were_deleted_after_use_are_no_change(data, tmp_path):
    record(data, tmp_path)
    before = inventory.stamp(data, tmp_path / "inventory.json")

    for split in ("train", "val"):
        shutil.rmtree(tmp_path / split)
        assert inventory.stamp(data, tmp_path / "inventory.json") == before

    assert inventory.stamp(data, tmp_path / "none") != before


def test_a_listing_that_fails_has_a_stamp_so_that_ingest_tells_why(data, tmp_path):
    before = inventory.stamp(data, tmp_path / "none")
    (tmp_path / "train" / "loop").symlink_to(".")

    assert inventory.stamp(data, tmp_path / "none") not in (before, None)


DAMAGED = ['{"stamp": 1', "[]", "null", "7", '{"path": 1}', '{"path": {"stamp": "a"}}', "[" * 100_000,
           '{"path": {"stamp": "a", "listing": "b", "files": [1]}}']  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_record_counts_as_none(data, tmp_path, content):
    (tmp_path / "inventory.json").write_text(content)

    assert inventory.stamp(data, tmp_path / "inventory.json") == inventory.stamp(data, tmp_path / "none")


@pytest.mark.parametrize("path", ["p", "p/*.parquet", "p/a.parquet"])
def test_parquet_files_patterns_and_folders_are_known_alike(tmp_path, path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.parquet").write_text("a")
    data = Data(source="parquet", path=str(tmp_path / path), image_size=8, num_classes=2)
    before = inventory.stamp(data, tmp_path / "none")

    (tmp_path / "p" / "a.parquet").write_text("changed")

    assert inventory.stamp(data, tmp_path / "none") != before


def test_recording_lists_every_source_once(data, tmp_path, monkeypatch):
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))

    inventory.taken(data, tmp_path / "none")

    assert [path for path in listed if path in (data.path, data.held_out_path)] == [data.path, data.held_out_path]
