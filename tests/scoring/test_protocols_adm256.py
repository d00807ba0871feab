"""The `adm256-gfid` path from the command line on 200 images: a small network replaces Inception, every file is real.

Inception itself, with random weights, scores four brought images here, and 200 drawn ones in
benchmarks/scoring/adm256_path.py.
"""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from inception_file import write_random_inception
from PIL import Image
from typer.testing import CliRunner

from mixar.__main__ import app
from mixar.assets.table import ASSETS
from mixar.data.images import write_images
from mixar.scoring.networks import inception
from mixar.scoring.statistics import save_statistics
from mixar.storage.files import file_sha256
from mixar.study.layout import Layout
from mixar.study.load import load_study

IMAGES, SIZE, WIDTH = 200, 256, 2048


class Stand(torch.nn.Module):
    """2048 features and three logits of 8 x 8 thumbnails, built as torch-fidelity builds Inception."""

    def __init__(self, _name, _layers, feature_extractor_weights_path):
        super().__init__()
        self.mix = torch.nn.Parameter(torch.zeros(3 * 64, WIDTH), requires_grad=False)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))

    def forward(self, pixels):
        small = torch.nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 8).flatten(1)
        return (small @ self.mix).relu(), 10 * small[:, ::64]


def picture(rng, label: int) -> np.ndarray:
    image = np.full((SIZE, SIZE, 3), 200, np.uint8)
    image[: rng.integers(20, 200), rng.integers(0, 100) :, label] = rng.integers(0, 100)
    return image


@pytest.fixture
def staged(root, tmp_path, monkeypatch):
    """The paper's study, 200 images of three classes, with a stand-in for ADM's statistics; no weights yet."""
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setitem(ASSETS, "adm-statistics", replace(ASSETS["adm-statistics"], git_blob=None))
    save_statistics(tmp_path / "assets" / "adm_in256_stats.npz", {"mu": np.zeros(WIDTH), "sigma": np.eye(WIDTH)})
    study = yaml.safe_load((root / "config" / "imagenet256.yaml").read_text())
    study |= {"study": "adm", "hardware": {"device": "cpu", "results": str(tmp_path / "results")}}
    study["data"] = {"source": "folder", "path": str(tmp_path / "data"), "image_size": SIZE, "num_classes": 3,
                     "held_out_rate": 0.5}  # fmt: skip
    study["evaluation"] |= {"num_images": IMAGES, "shard_size": 100}
    study["scoring"] |= {"extractor": {"network": "inception-v3", "weights": str(tmp_path / "random.pth")},
                         "kid_subset_size": 20, "jackknife_groups": 2}  # fmt: skip
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


@pytest.fixture
def study_file(staged, tmp_path, monkeypatch):
    """The same with a folder of pictures, and a small network behind Inception's name."""
    monkeypatch.setitem(inception.INCEPTIONS, "tensorflow-1", Stand)
    rng = np.random.default_rng(0)
    for i in range(60):
        (tmp_path / "data" / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(rng, i % 3)).save(tmp_path / "data" / f"class{i % 3}" / f"{i}.png")
    mix = torch.randn(3 * 64, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.save({"mix": mix}, tmp_path / "random.pth")
    return staged


def call(*arguments):
    run = CliRunner().invoke(app, [str(a) for a in arguments])
    if run.exception:
        raise run.exception
    return run.output


@pytest.mark.full_size
def test_the_whole_path_runs_and_its_rows_say_what_they_are(study_file, tmp_path):
    layout, rng = Layout(load_study(study_file)), np.random.default_rng(1)
    shards = [layout.samples("control_l", 0, "default", shard) for shard in range(2)]
    for path, rows in zip(shards, np.arange(IMAGES).reshape(2, -1), strict=True):
        write_images(path, rows, rows % 3, np.stack([picture(rng, i % 3) for i in rows]))

    for verb, *rest in (
        ("ingest",),
        ("extractor",),
        *(("features", "--reference", split) for split in ("train", "held_out")),
        *(("features", "--images", path) for path in shards),
    ):
        call(verb, "--study", study_file, *rest)
    said = call("score", "--study", study_file, "--run", "control_l")

    rows = {row["metric"]: row for row in pq.read_table(layout.scores("sample", "control_l", 0, "default")).to_pylist()}
    sha256 = file_sha256(tmp_path / "random.pth")
    assert list(rows) == ["fd", "is", "kid", "precision", "recall", "fd_held_out"]
    for metric, row in rows.items():
        reference = ", reference=held_out" if metric == "fd_held_out" else ""
        data = json.loads(row["hashes"])["data"]
        settings = f"kid_subset_size=20, n=200, num_classes=3, data={data[:8]}, extractor={sha256[:8]}"
        assert row["n"] == IMAGES and np.isfinite(row["value"]) and row["low"] <= row["value"] <= row["high"]
        assert row["protocol"] == f"adm256-gfid[{settings}{reference}]"
        assert sha256 in row["hashes"]
    assert "FID" not in said and f"fd = FD-{layout.study.study}, n = {IMAGES}, adm256-gfid[" in said


def test_other_bytes_under_the_released_name_stop_the_path_at_its_first_step(study_file, tmp_path):
    named = tmp_path / ASSETS["inception"].file_name
    (tmp_path / "random.pth").rename(named)
    study_file.write_text(study_file.read_text().replace("random.pth", named.name))

    with pytest.raises(ValueError, match="a file of this name must be .*sha256 6726825d"):
        call("extractor", "--study", study_file)


def test_without_adms_statistics_nothing_is_measured(study_file, tmp_path):
    call("ingest", "--study", study_file)
    call("extractor", "--study", study_file)
    (tmp_path / "assets" / "adm_in256_stats.npz").unlink()

    with pytest.raises(ValueError, match="asset 'adm-statistics' is missing"):
        call("features", "--study", study_file, "--reference", "train")


def test_an_empty_folder_of_images_is_refused_before_anything(study_file, tmp_path):
    for file in (tmp_path / "data" / "class1").iterdir():
        file.unlink()

    with pytest.raises(ValueError, match="class folder .*class1 has no image"):
        call("ingest", "--study", study_file)


@pytest.mark.full_size
def test_brought_images_go_through_inception_itself(staged, tmp_path):
    sha256 = file_sha256(write_random_inception(tmp_path / "random.pth"))
    staged.write_text(staged.read_text().replace("is_splits: 10", "is_splits: 2"))
    rng = np.random.default_rng(2)
    np.savez(tmp_path / "brought.npz", arr_0=np.stack([picture(rng, i) for i in (0, 1, 2, 0)]), arr_1=[0, 1, 2, 0])

    call("extractor", "--study", staged)
    said = call("score-images", tmp_path / "brought.npz", "--study", staged, "--protocol", "adm256-gfid")

    rows = pq.read_table(Layout(load_study(staged)).scores("own", "own_brought")).to_pylist()
    assert [row["metric"] for row in rows] == ["fd", "is"]  # no reference images: the statistics alone
    for row in rows:
        assert row["n"] == 4 and np.isfinite(row["value"]) and row["low"] <= row["value"] <= row["high"]
        settings = f"is_splits=2, kid_subset_size=20, n=4, num_classes=3, extractor={sha256[:8]}"
        assert row["protocol"] == f"adm256-gfid[{settings}]" and sha256 in row["hashes"]
    assert "no kid, precision, recall without reference images" in said
