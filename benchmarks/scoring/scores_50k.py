"""What it costs to score 50,000 images from 16 feature files: CPU seconds and memory, of the command and its parts.

    python benchmarks/scoring/scores_50k.py [--images 50000] [--out benchmarks/scoring] [--neighbours]

The features are synthetic: 2048 of them with a falling spectrum, 1008 logits. They lie where a study under
`adm256-gfid` has them, with as many held-out images as drawn ones and 10,000 training images. Each line is a process of
its own. The first is `mixar score --run` itself, all that it does: merging, references and their hashes, the scores,
fd_held_out, intervals, rows. The others merge the files (where they need them) and then do one thing; their seconds are
of that thing alone, their memory is the whole process. --neighbours: the command with precision and recall, too. Writes
scores_50k.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from mixar.scoring.catalogue import METRICS
from mixar.scoring.files import read_features, write_features
from mixar.scoring.intervals import jackknife_groups
from mixar.scoring.metrics.frechet import frechet
from mixar.scoring.statistics import Sums, load_statistics, save_statistics
from mixar.scoring.values import replicates_of, value_of
from mixar.stages.score import score_samples
from mixar.storage.files import write_text
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.study.sections import Study

ROOT = Path(__file__).parents[2]
WIDTH, CLASSES, SHARDS, REFERENCE = 2048, 1008, 16, 10_000
RUN, HEADER = "control_l", {"extractor": "synthetic", "sha256": "0" * 64, "protocol": "adm256-gfid"}
COMMAND, WITH_NEIGHBOURS = "mixar score --run", "mixar score --run, with precision and recall"


def draw(count: int, seed: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features like Inception's: not negative, half of the variance in the first few dozen directions."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.Generator().manual_seed(0)
    basis = torch.randn(WIDTH, WIDTH, generator=mix) / WIDTH**0.5 * torch.linspace(1, WIDTH, WIDTH).pow(-0.5)
    features = (torch.randn(count, WIDTH, generator=rng) @ basis.T * 4 + 0.4 + shift).relu()
    return features, 2 * torch.randn(count, CLASSES, generator=rng)


def study_of(folder: Path, images: int, neighbours: bool = False) -> Study:
    """The paper's study with so many images in 16 shards and all its results in `folder`."""
    study = yaml.safe_load((ROOT / "config" / "imagenet256.yaml").read_text(encoding="utf-8"))
    study["hardware"] |= {"results": str(folder), "device": "cpu"}
    study["evaluation"] |= {"num_images": images, "shard_size": -(-images // SHARDS)}
    study["scoring"]["metrics"] = ["fd", "is", "kid", *(("precision", "recall") if neighbours else ())]
    return parse_study(study)


def prepare(folder: Path, images: int) -> None:
    """Write 16 files of drawn images in random parts, both references, and the statistics of as many other images."""
    layout = Layout(study_of(folder, images))
    features, logits = draw(images, 1, 0.02)
    for shard, rows in enumerate(np.array_split(np.random.default_rng(0).permutation(images), SHARDS)):
        keep = torch.from_numpy(rows)
        write_features(_shard(layout, shard), rows, rows % 1000, (features[keep], logits[keep]), HEADER)
    for split, seed, count in (("train", 2, min(REFERENCE, images)), ("held_out", 3, images)):
        features, logits = draw(images, seed, 0.0)
        part = np.arange(count)
        path = layout.reference_features(split)
        write_features(path, part, part % 1000, (features[:count], logits[:count]), HEADER)
        if split == "train":
            save_statistics(folder / "adm_in256_stats.npz", Sums.of(features).moments)


def _shard(layout: Layout, shard: int) -> Path:
    return layout.features(layout.samples(RUN, 0, "default", shard))


def merged(layout: Layout):
    return read_features([_shard(layout, i) for i in range(SHARDS)]).features


def reference(layout: Layout, folder: Path):
    train = read_features([layout.reference_features("train")]).features
    return train.standing_for(load_statistics(folder / "adm_in256_stats.npz")).keeping_root_in(folder)


def measured(task: str, folder: Path, images: int) -> dict:
    """One line of the table: CPU and wall seconds of the task alone, peak memory of this process, and what came out."""
    study = study_of(folder, images, neighbours=task == WITH_NEIGHBOURS)
    layout, settings = Layout(study), study.scoring
    if task in (COMMAND, WITH_NEIGHBOURS):
        return _timed(task, lambda: score_samples(study, layout, RUN, 0, "default") or np.nan)
    if task == "merge":
        return _timed(task, lambda: len(merged(layout)))
    sample, other = merged(layout), reference(layout, folder)
    if task == "fd, by a factor":
        return _timed(task, lambda: frechet(sample.moments, other.moments, other.root))
    name, _, interval = task.partition(", ")
    if not interval:
        return _timed(task, lambda: value_of(METRICS[name], sample, other, settings))
    groups = jackknife_groups(sample.index, settings.jackknife_groups, sample.labels)
    sample.moments  # noqa: B018 - the score before it has them already
    return _timed(task, lambda: replicates_of(METRICS[name], sample, other, settings, groups).std())


def _timed(task: str, action) -> dict:
    cpu, wall = time.process_time(), time.perf_counter()
    value = float(action())
    used = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"task": task, **used, "peak_gib": peak_gib, "value": value}


TASKS = (
    *(COMMAND, "merge", "fd", "fd, by a factor", "fd, interval", "is", "is, interval", "kid", "kid, interval"),
    *("fd_infinity", "precision", "precision, interval", "recall, interval"),
)


def table(rows: list[dict], images: int) -> str:
    lines = ["| task | CPU s | wall s | peak GiB |", "|---|---:|---:|---:|"]
    lines += [f"| {r['task']} | {r['cpu_s']:.1f} | {r['wall_s']:.1f} | {r['peak_gib']:.2f} |" for r in rows]
    neighbours = max(r["peak_gib"] for r in rows if r["task"].startswith(("precision", "recall")))
    plain = sum(r["cpu_s"] for r in rows if r["task"] in ("merge", "fd", "is", "kid"))
    return "\n".join(
        [
            f"# Scoring {images:,} x {WIDTH} features from {SHARDS} files",
            "",
            f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}, "
            f"numpy {np.__version__}. Other work on a machine costs CPU seconds, too: at the end of this, a core did "
            f"{speed()} GFLOP/s in float64 matrix products.",
            "",
            *lines,
            "",
            f"`{COMMAND}` is the whole command without precision and recall, and the first call of a study, which also "
            f"factors the references: FD, IS, KID, and FD to {images:,} held-out images, each with its interval. "
            f"Merging, FD, IS and KID without intervals: {plain:.0f} CPU seconds. "
            f"Precision and recall peak at {neighbours:.2f} GiB, the merged features included. `precision` computes "
            "recall with it. Lines with `interval` are the 50 leave-outs of the jackknife.",
            "",
        ]
    )


def speed() -> str:
    """GFLOP/s of a float64 matrix product now, for comparison with other days and machines."""
    x = np.random.default_rng(0).standard_normal((WIDTH, WIDTH))
    start = time.process_time()
    x @ x
    return f"{2 * WIDTH**3 / (time.process_time() - start) / 1e9:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--neighbours", action="store_true", help="the command with precision and recall, too")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        os.environ["MIXAR_ASSETS"] = str(given.folder)
        line = measured(given.task, given.folder, given.images)
        print("\n" + json.dumps(line))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), given.images)
        rows = []
        for task in (*TASKS, *([WITH_NEIGHBOURS] if given.neighbours else [])):
            command = [sys.executable, __file__, "--images", str(given.images), "--task", task, "--folder", name]
            said = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
            rows.append(json.loads(said.splitlines()[-1]))
            print(rows[-1], flush=True)
    write_text(given.out / "scores_50k.md", table(rows, given.images))


if __name__ == "__main__":
    main()
