"""A study with references and a random network that scores images of any program; fixtures to import."""

import pyarrow.parquet as pq
import pytest
import torch
from toy_images import COUNT, SIZE, folder, pixels
from toy_scored import stand_for_the_emoji

from mixar.data.manifest import SPLITS, ingest_manifest
from mixar.scoring.networks.subgroup_cnn import PixelSubgroupCNN, build_network
from mixar.stages.features import reference_features
from mixar.stages.score_images import score_images
from mixar.storage.files import write_table
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.weights import save_weights


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 60 images in three class folders: what the study is made of."""
    root = tmp_path_factory.mktemp("pictures")
    for label in range(3):
        folder(root / f"class{label}", pixels(20, seed=100 + label))
    return root


@pytest.fixture
def house(smoke, pictures, tmp_path, monkeypatch):
    """A study with a random feature network and its references; returns (study, layout)."""
    smoke["data"] = {"source": "folder", "path": str(pictures), "held_out_rate": 0.4, "image_size": SIZE,
                     "num_classes": 3, "num_shards": 2}  # fmt: skip
    smoke["evaluation"] = {"num_images": COUNT, "shard_size": COUNT}
    smoke["hardware"] = {"device": "cpu", "results": str(tmp_path / "results")}
    study = parse_study(smoke)
    layout = Layout(study)
    write_table(layout.manifest, ingest_manifest(study.data))
    torch.manual_seed(0)
    network = build_network(study.scoring.extractor, num_classes=6, image_size=SIZE)
    save_weights(layout.extractor(), network.state_dict(), {})
    stand_for_the_emoji(monkeypatch, study, layout)
    for split in SPLITS:
        reference_features(study, layout, split)
    return study, layout


def scored(house, path, label=None, protocol=None, replace=False, **how):
    return score_images(*house, path, label, protocol, replace, **how)


@pytest.fixture
def forward_passes():
    """A list that grows by one with every forward pass of the study's feature network."""
    seen = []

    def note(module, _inputs):
        if isinstance(module, PixelSubgroupCNN):
            seen.append(module)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield seen
    handle.remove()


def values(layout, name):
    return {r["metric"]: (r["value"], r["low"], r["high"]) for r in rows(layout, name)}


def rows(layout, name):
    return pq.read_table(layout.scores("own", name)).to_pylist()
