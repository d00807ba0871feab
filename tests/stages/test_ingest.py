"""`ingest`: the manifest, what it was made of, and what the stage prints."""

import pytest
from toy_images import folder, pixels
from toy_runs import toy_study

from mixar.data.manifest import read_manifest
from mixar.stages.ingest import ingest
from mixar.study import inventory
from mixar.study.layout import Layout


@pytest.fixture
def house(tmp_path):
    for label in range(3):
        folder(tmp_path / "images" / f"class{label}", pixels(10, seed=label, size=8))
    data = {"source": "folder", "path": str(tmp_path / "images"), "image_size": 16, "held_out_rate": 0.3}
    study = toy_study(tmp_path / "results", data=data)
    return study, Layout(study)


def test_the_printed_counts_are_those_of_the_manifest(house, capsys):
    study, layout = house

    ingest(study, layout)

    train, held_out = (len(read_manifest(layout.manifest, split)) for split in ("train", "held_out"))
    printed = " ".join(capsys.readouterr().out.split())
    assert train + held_out == 30 and held_out
    assert f"ingest: {train} training and {held_out} held-out images" in printed
    assert "30 images are smaller than 16 pixels; the ADM crop enlarges them to 16" in printed


def test_the_inventory_is_of_the_images_in_the_manifest(house):
    study, layout = house
    before = inventory.stamp(study.data, layout.inventory)

    ingest(study, layout)

    assert inventory.stamp(study.data, layout.inventory) == before


def test_a_failed_ingest_leaves_no_manifest_and_no_inventory(house, tmp_path):
    study, layout = house
    next((tmp_path / "images" / "class1").iterdir()).write_bytes(b"no image")

    with pytest.raises(ValueError, match="class1"):
        ingest(study, layout)

    assert not layout.manifest.exists() and not layout.inventory.exists()
