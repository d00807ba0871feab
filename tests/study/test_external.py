"""The external files that a study names, and which of them are missing."""

import os

import pytest

from mixar.assets.table import ASSETS
from mixar.study import external
from mixar.study.load import load_study, parse_study


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path))


@pytest.fixture
def paper(root):
    return load_study(root / "config" / "imagenet256.yaml")


def test_the_paper_study_misses_everything_on_an_empty_machine(paper):
    missing = external.missing(paper)

    assert missing == external.references(paper)
    assert {"asset:vavae-f16d32", "asset:maskbit-generator-14bit", "asset:inception", "asset:adm-statistics"} <= set(
        missing.values()
    )


def test_a_protocol_of_the_reconstructions_needs_its_statistics_too(smoke):
    extractor = {"network": "inception-v3", "weights": "asset:inception"}
    smoke["scoring"] |= {"reconstructions": "mar-train-rfid", "extractor": extractor}

    named = external.references(parse_study(smoke))

    assert named["scoring.reconstructions mar-train-rfid"] == "asset:adm-statistics"


def test_what_is_there_is_not_missing(paper):
    os.makedirs(ASSETS["imagenet-train"].path)
    ASSETS["vavae-f16d32"].path.touch()

    missing = external.missing(paper)

    assert not {"data.path", "continuous.weights"} & set(missing)


def test_start_files_are_named_for_every_seed(smoke):
    smoke["runs"]["dc_mix"]["start"] = "nowhere/dc_mix-{seed}.safetensors"

    missing = external.missing(parse_study(smoke))

    assert set(missing.values()) == {f"nowhere/dc_mix-{seed}.safetensors" for seed in (0, 1)}
