"""User-defined sources: one function and one line of the study."""

import numpy as np
import pytest
from toy_images import folder, pixels

from mixar.data.manifest import count_images, ingest_manifest
from mixar.study import inventory
from mixar.study.sections import Data


@pytest.fixture
def data(tmp_path):
    for name, seed in (("cat", 0), ("dog", 1)):
        for path in folder(tmp_path / "drawn", pixels(12, seed, 8)).iterdir():
            path.rename(tmp_path / f"{name}-{path.name}")
    (tmp_path / "drawn").rmdir()
    return Data(source="toy_own:flat", path=str(tmp_path), image_size=8, num_classes=2, held_out_rate=0.5)


def test_its_images_are_indexed_as_those_of_a_built_in_source(data):
    manifest = ingest_manifest(data, say=lambda text: None)

    assert np.bincount(manifest["label"]).tolist() == [12, 12]
    assert set(manifest["class_name"].to_pylist()) == {"cat", "dog"}
    held_out = manifest["split"].to_pylist().count("held_out")
    assert count_images(data) == {"train": 24 - held_out, "held_out": held_out}


def test_its_files_are_watched_whatever_their_suffix(data, tmp_path):
    before = inventory.stamp(data, tmp_path / "no record")

    (tmp_path / "fox-0.tar").write_bytes(b"new")

    assert inventory.stamp(data, tmp_path / "no record") != before


def test_what_it_returns_is_checked(data):
    with pytest.raises(ValueError, match="data.source 'toy_own:nothing': returned a list; expected an Originals"):
        ingest_manifest(data.model_copy(update={"source": "toy_own:nothing"}))
