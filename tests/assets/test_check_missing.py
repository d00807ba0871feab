"""A stage that misses an external file: it says what it is and what gets it, before any work."""

import numpy as np
import pytest
from released_files import released_state, write_released
from toy_runs import toy_study

from mixar.assets.check import asset_named, describe, require
from mixar.assets.table import ASSETS
from mixar.data.images import write_images
from mixar.stages.extractor import extractor
from mixar.stages.features import image_features, reference_features
from mixar.stages.generator import generator
from mixar.stages.ingest import ingest
from mixar.stages.tokenizer import tokenizer
from mixar.stages.train import train
from mixar.study.layout import Layout

VAE = {"channels": 32, "multipliers": (1, 1), "num_res_blocks": 1, "latent_channels": 8, "attention_levels": ()}


def no_statistics(root):
    """The weights are there; the statistics are read after them."""
    write_released(root / "v.pt", "vavae", released_state("vavae", dims=VAE))
    named = {"weights": str(root / "v.pt"), "statistics": "asset:vavae-f16d32-statistics"}
    return {"continuous": named}, lambda study, layout: tokenizer(study, layout, "continuous")


def no_generator(root):
    return {"generator": {"weights": "asset:maskbit-generator-14bit"}}, generator


def no_extractor(root):
    return {"scoring": {"extractor": {"network": "inception-v3", "weights": "asset:inception"}}}, extractor


def no_held_out_images(root):
    """The training images come first, and there is no such folder either."""
    data = {"source": "folder", "path": str(root / "images"), "held_out_path": "asset:imagenet-val"}
    return {"data": data}, ingest


def no_network(root):
    """The study's own extractor comes first, and is not there either."""

    def run(study, layout):
        image_features(study, layout, layout.samples("mar", 0, "default", 0))

    return {"scoring": {"further": {"vgg16": "asset:vgg16"}}}, run


def no_network_for_references(root):
    further = {"further": {"dinov2-vitl14": "asset:dinov2-vitl14"}}
    return {"scoring": further}, lambda study, layout: reference_features(study, layout, "train")


def no_start(root):
    """The token shards come first, and are not there either."""
    runs = {"more": {"label": "MAR, continued", "model": "s", "start": "asset:mar-b"}}
    return {"runs": runs}, lambda study, layout: train(study, layout, "more", 0)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (no_statistics, "vavae-f16d32-statistics"),
        (no_generator, "maskbit-generator-14bit"),
        (no_extractor, "inception"),
        (no_held_out_images, "imagenet-val"),
        (no_network, "vgg16"),
        (no_network_for_references, "dinov2-vitl14"),
        (no_start, "mar-b"),
    ],
)
def test_a_stage_that_misses_an_asset_says_so_before_any_work(stage, name, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path / "assets"))
    changes, run = stage(tmp_path)
    study = toy_study(tmp_path, **changes)
    layout = Layout(study)
    write_images(layout.samples("mar", 0, "default", 0), [0], [0], np.zeros((1, 8, 8, 3), np.uint8))
    before = set(tmp_path.rglob("*"))

    with pytest.raises(ValueError) as caught:
        run(study, layout)

    assert describe(asset_named(name)) in str(caught.value)
    assert set(tmp_path.rglob("*")) == before


def test_everything_that_is_missing_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path))

    with pytest.raises(ValueError) as caught:
        require("asset:kl16", None, "asset:inception", str(tmp_path / "own.pt"))

    for name in ("kl16", "inception"):
        assert describe(ASSETS[name]) in str(caught.value)
    assert f"{tmp_path / 'own.pt'}: no such file or folder" in str(caught.value)
