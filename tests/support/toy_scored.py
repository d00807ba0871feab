"""A small study of drawn discs, ready to be scored: images, network, references, and fixtures for tests to import."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from toy_tokenizers import Darker

from mixar.data.images import write_images
from mixar.data.manifest import SPLITS, ingest_manifest
from mixar.data.selection import reference_rows
from mixar.scoring.networks.subgroup_cnn import build_network
from mixar.scoring.protocols import DATA, PROTOCOLS
from mixar.scoring.reference import read_reference, reference_of
from mixar.stages.features import image_features, reference_features
from mixar.storage.files import write_table
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.weights import read_weights, save_weights, tensors_sha256

SIZE, SHARD, NUM_IMAGES, BATCH = 16, 20, 60, 12
SMOKE_ID = "emoji-gfd[is_splits=2, kid_subsets=4, kid_subset_size=16]"  # the smoke study's own settings


def drawing(rng, label: int) -> np.ndarray:
    """A disc on white whose colour tells the class, uint8 [SIZE, SIZE, 3]."""
    y, x = np.mgrid[:SIZE, :SIZE]
    centre, radius = rng.uniform(5, 11, 2), rng.uniform(3, 6)
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2, label] = rng.integers(0, 120)
    return image


def drawings(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([drawing(rng, i % 3) for i in range(n)])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 90 images in three class folders."""
    root = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(drawings(90, 0)):
        (root / f"class{i % 3}").mkdir(exist_ok=True)
        Image.fromarray(image).save(root / f"class{i % 3}" / f"{i}.png")
    return root


@pytest.fixture
def house(smoke, pictures, tmp_path, monkeypatch):
    """A study with a manifest, a random feature network and both references; returns (study, layout).

    Its images and network take the place of those that the emoji protocols are defined for.
    """
    smoke["data"] = {"source": "folder", "path": str(pictures), "held_out_rate": 0.4, "image_size": SIZE,
                     "num_classes": 3, "num_shards": 2}  # fmt: skip
    smoke["evaluation"] = {"num_images": NUM_IMAGES, "shard_size": SHARD}
    smoke["hardware"] = {"device": "cpu", "results": str(tmp_path)}
    smoke["scoring"] |= {"jackknife_groups": 5, "copies": False}
    study = parse_study(smoke)
    layout = Layout(study)
    write_table(layout.manifest, ingest_manifest(study.data))
    new_network(study, layout, seed=0)
    stand_for_the_emoji(monkeypatch, study, layout)
    for split in SPLITS:
        reference_features(study, layout, split)
    return study, layout


def stand_for_the_emoji(monkeypatch, study, layout):
    """Define the emoji protocols for this study's images and network."""
    monkeypatch.setitem(DATA, "emoji", lambda *_: True)
    sha256 = tensors_sha256(read_weights(layout.extractor()))
    known = {"image_size": SIZE, "num_classes": study.data.num_classes, "extractor_sha256": sha256}
    for name in ("emoji-gfd", "emoji-rfd"):
        monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], **known))


def new_network(study, layout, seed):
    torch.manual_seed(seed)
    network = build_network(study.scoring.extractor, num_classes=6, image_size=SIZE)
    save_weights(layout.extractor(), network.state_dict(), {})


def draw(layout, images, run="mar", seed=0, shards=(0, 1, 2)):
    for shard in shards:
        rows = np.arange(shard * SHARD, (shard + 1) * SHARD)
        write_images(layout.samples(run, seed, "default", shard), rows, rows % 3, images[rows])


def features(study, layout, run="mar", seed=0, shards=(0, 1, 2)):
    for shard in shards:
        image_features(study, layout, layout.samples(run, seed, "default", shard))


def reference(study, layout, split):
    """The reference's features, as `score` reads them."""
    return read_reference(study, layout, split, reference_rows(layout.manifest, *reference_of(study, split)))


def rows_of(path):
    return {row["metric"]: row for row in pq.read_table(path).to_pylist()}


def darkened(study, layout):
    """The study with a continuous tokenizer whose reconstructions are Darker.share times as bright."""
    study = study.model_copy(
        update={"continuous": study.continuous.model_copy(update={"network": "toy_tokenizers:Darker", "train": None})}
    )
    save_weights(layout.tokenizer("continuous"), Darker(study.continuous).state_dict(), {})
    layout.study = study
    return study


def changed(study, **changes):
    """The study with other settings of `scoring`."""
    return study.model_copy(update={"scoring": study.scoring.model_copy(update=changes)})
