"""A study without networks, and result rows as its stages would have written them, with invented values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mixar.data.images import load_images, write_images
from mixar.data.manifest import ingest_manifest
from mixar.reporting.results import SCHEMA, make_rows, write_rows
from mixar.reporting.summary import Summary, summarise
from mixar.storage.files import write_table
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.study.sections import Study

PROTOCOL = "toy-gfd"
HASHES = {"extractor": "e" * 64, "extractor_name": "toy-net-0123abcd", "reference": "f" * 64}
TOKENS = {"none": (24, 0), "dc_mix": (24, 0), "dc_sa": (40, 0), "dc_ca": (24, 16)}  # self-attention, memory
FD = {
    "mar": {0: 208.0, 1: 219.0},
    "dc_mix": {0: 161.0, 1: 166.0},
    "dc_sa": {0: 158.0},
    "dc_ca": {0: 171.0},
    "long": {0: 150.0, 1: 155.0},
    "timix": {0: 131.0, 1: 138.0},
    "maskbit": {0: 190.0},
}


def reported_study(root: Path = Path("results"), seeds: tuple[int, ...] = (), **changes) -> Study:
    """Six runs in the manner of the demo: four strategies, and DC-Mix continued with and without TI-Mix.

    seeds: of every run; default: two of most.
    """
    trained = {"train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}}
    tokenizer = {"channels": 32, "multipliers": [1, 1, 1, 1], **trained}
    mix = {"strategy": "dc_mix"}
    child = {"model": "s", "guidance": mix, "parent": "dc_mix", "seeds": [0, 1], "training": {"epochs": 20}}
    content = {
        "study": "reported",
        "title": "Invented study",
        "data": {"source": "emoji", "path": "resources/noto-emoji-32.parquet", "image_size": 32, "num_classes": 9},
        "continuous": {**tokenizer, "attention_levels": []},
        "discrete": {**tokenizer, "bits": 4},
        "generator": {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16, **trained},
        "models": {"s": {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "head_depth": 1,
                         "head_width": 16}},
        "training": {"epochs": 40, "batch_size": 8, "learning_rate": 0.1},
        "samplers": {"default": {}, "quick": {"num_iterations": 4}},
        "runs": {
            "mar": {"label": "MAR", "model": "s", "seeds": [0, 1]},
            "dc_mix": {"label": "DC-Mix", "model": "s", "guidance": mix, "seeds": [0, 1]},
            "dc_sa": {"label": "DC-SA", "model": "s", "guidance": {"strategy": "dc_sa"}},
            "dc_ca": {"label": "DC-CA", "model": "s", "guidance": {"strategy": "dc_ca"}},
            "long": {"label": "DC-Mix, continued", **child},
            "timix": {"label": "DC-Mix, continued with TI-Mix", "ti_mix": {}, **child},
        },
        "evaluation": {"num_images": 72, "shard_size": 40},
        "scoring": {"protocol": PROTOCOL, "kid_subset_size": 50, "extractor": {"network": "subgroup-cnn", **trained}},
        "report": {
            "figure8": {"parent": "dc_mix", "plain": "long", "ti_mix": "timix"},
            "claims": {"baseline": "mar", "guided": "dc_mix", "self_attention": "dc_sa", "final": "timix"},
        },
        "hardware": {"results": str(root)},
    }  # fmt: skip
    for run in content["runs"].values() if seeds else ():
        run["seeds"] = list(seeds)
    for section, value in changes.items():
        content[section] = {**content.get(section, {}), **value}
    return parse_study(content)


def score_rows(
    study: Study, run: str, seed: int, fd: float, half: float = 8.0, n: int = 72, sampler="default", cfg=3.0, **how
):
    """The rows that `score` writes for one run and seed."""
    scores = {"fd": (fd, half), "is": (9 - fd / 50, 0.3), "kid": (fd / 2000, half / 2000), "precision": (0.7, 0.03),
              "recall": (0.5, 0.04)}  # fmt: skip
    values = [
        {"metric": m, "value": v, "low": v - h, "high": v + h, "n": n, "cfg": cfg} for m, (v, h) in scores.items()
    ]
    how = {"protocol": PROTOCOL, "hashes": HASHES, **how}
    return make_rows(study, run, source="sample", seed=seed, sampler=sampler, values=values, **how)


def sweep_rows(study: Study, run: str, distances: dict[float, float], sampler="default", **how) -> list[dict]:
    """The rows that `score --sweep` writes: a distance for each guidance scale, and ten replicates close to it."""
    wave = np.linspace(-1, 1, 10)
    values = [
        {"metric": "fd", "value": v, "low": v - 4, "high": v + 4, "n": 50, "cfg": cfg, "replicates": list(v + 2 * wave)}
        for cfg, v in distances.items()
    ]
    how = {"protocol": PROTOCOL, "hashes": HASHES, **how}
    return make_rows(study, run, source="sweep", seed=0, sampler=sampler, values=values, **how)


def reconstruction_rows(study: Study, kind: str) -> list[dict]:
    value = {"continuous": 12.5, "discrete": 60.25}[kind]
    values = [{"metric": "rfd", "value": value, "low": value - 1, "high": value + 1, "n": 30},
              {"metric": "psnr", "value": 24.0 - value / 20, "n": 30, "unit": "dB"}]  # fmt: skip
    return make_rows(study, kind, source="reconstruct", values=values, protocol="toy-rfd", hashes=HASHES)


def measure_rows(study: Study, run: str, device: str = "cpu, 2 threads") -> list[dict]:
    attended, memory = TOKENS.get(study.runs[run].guidance.strategy, (24, 0))
    fixed = {
        "parameters": 2_050_000 + 21_000 * (attended + memory),
        "flops_train": 3.1e8,
        "minutes_per_epoch": 0.031,
        "flops_train_counted": 3.11e8,
        "flops_per_second_train": 2.5e10,
        "peak_memory_gib": 0.84,
        "peak_memory_train_gib": 0.31,
        "tokens_total": attended + memory,
        "tokens_self_attention": attended,
        "tokens_memory": memory,
        "class_tokens": 8,
    }
    common = {"source": "measure", "protocol": "batch 64, random weights", "device": device}
    rows = make_rows(study, run, values=[{"metric": m, "value": v} for m, v in fixed.items()], **common)
    for sampler in study.runs[run].samplers:
        timed = [{"metric": "seconds_per_image", "value": 0.0121, "low": 0.012, "high": 0.0124, "n": 3},
                 {"metric": "flops_sample", "value": 2.4e9}, {"metric": "flops_sample_counted", "value": 2.4e9},
                 {"metric": "flops_per_second_sample", "value": 1.9e11},
                 {"metric": "peak_memory_sample_gib", "value": 0.12}]  # fmt: skip
        rows += make_rows(study, run, sampler=sampler, values=timed, **common)
    return rows


def all_rows(study: Study, fd: dict[str, dict[int, float]] = FD) -> list[dict]:
    """Every row of a whole study."""
    rows = [row for kind in ("continuous", "discrete") for row in reconstruction_rows(study, kind)]
    rows += [
        row for run, seeds in fd.items() for seed, value in seeds.items() for row in score_rows(study, run, seed, value)
    ]
    return rows + [row for run in study.runs for row in measure_rows(study, run)]


def frame_of(rows: list[dict]) -> pd.DataFrame:
    """The rows as `read_rows` gives them."""
    return pd.DataFrame(rows, columns=SCHEMA.names).astype({"seed": "Int64", "n": "Int64"})


def summary_of(study: Study, rows: list[dict]) -> Summary:
    return summarise(study, frame_of(rows))


def write_study(study: Study, rows: list[dict]) -> Layout:
    """The rows in the files that the stages write them to."""
    layout, by_file = Layout(study), {}
    for row in rows:
        if row["source"] == "measure":
            path = layout.measures(row["run"])
        elif row["source"] == "reconstruct":
            path = layout.scores("reconstruct", row["run"])
        else:
            path = layout.scores("sample", row["run"], row["seed"], row["sampler"])
        by_file.setdefault(path, []).append(row)
    for path, part in by_file.items():
        write_rows(path, part)
    return layout


def loss_curve(seed: int, epochs: int, level: float = 0.4, per_epoch: int = 23) -> pd.DataFrame:
    """A loss that falls and is noisy, in the columns of a loss file."""
    step = np.arange(1, epochs * per_epoch + 1)
    noise = np.random.default_rng(seed).normal(0, 0.02, len(step))
    loss = level + 0.6 * np.exp(-step / (3 * per_epoch)) + 0.1 * np.exp(-step / (20 * per_epoch)) + noise
    fixed = {"learning_rate": 1e-3, "grad_norm": 1.0, "guidance_rate": 1.0, "seconds": 0.1}
    return pd.DataFrame({"step": step, "epoch": step / per_epoch, "loss": loss, **fixed})


def on_disk(study: Study, rows: list[dict]) -> Layout:
    """The rows, and the manifest, images and losses that a report of them needs."""
    layout, size = write_study(study, rows), study.data.image_size
    manifest = ingest_manifest(study.data)
    write_table(layout.manifest, manifest)
    labels, index = np.arange(72) % 9, np.arange(72)
    drawn = np.random.default_rng(0).integers(0, 256, (72, size, size, 3), dtype=np.uint8)
    for run, seeds in {"maskbit": (0,), **{name: r.seeds for name, r in study.runs.items()}}.items():
        for shard, part in enumerate((slice(0, 40), slice(40, 72))):
            write_images(layout.samples(run, seeds[0], "default", shard), index[part], labels[part], drawn[part])
        for seed in seeds if run in study.runs else ():
            curve = loss_curve(seed, study.training_of(run).epochs, per_epoch=4)
            write_table(layout.losses(run, seed), pa.Table.from_pandas(curve, preserve_index=False))
    held_out = manifest.filter(pc.equal(manifest["split"], "held_out"))
    for name in ("continuous", "discrete"):
        images = load_images(held_out, size)
        write_images(layout.reconstruction(name, 0), held_out["index"], held_out["label"], images)
    return layout
