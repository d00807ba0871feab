"""Do the scores move the right way? Emoji degraded in three ways, step by step, against the noise floor.

    python benchmarks/scoring/ladders.py [--out benchmarks/scoring]

Half of the demo's emoji are the reference. From the other half, always the same number of images is taken: with noise
added; from fewer classes; as fewer drawings, each repeated. The floor is what untouched images score. The network and
the settings are the demo's. Writes ladders.csv, ladders.png and ladders.pdf.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # before matplotlib is imported

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from mixar.data.images import load_images
from mixar.data.manifest import ingest_manifest
from mixar.reporting.figures import COLOURS, STYLE, caption, save
from mixar.scoring.catalogue import METRICS
from mixar.scoring.extractors import extract, load_extractor
from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import interval, jackknife_groups
from mixar.scoring.values import replicates_of, value_of
from mixar.storage.files import replaced
from mixar.study.load import load_study
from mixar.study.sections import Study

ROOT = Path(__file__).parents[2]
NOISE = (0, 4, 8, 16, 32, 64, 128)  # standard deviation, grey levels
CLASSES = (9, 7, 5, 3, 2)  # the largest ones
DRAWINGS = (1, 2, 4, 10, 20)  # times that each is repeated
FLOORS = 8  # draws of untouched images
TITLES = {"fd": "FD ↓", "kid": "KID ↓", "is": "IS ↑", "precision": "precision ↑", "recall": "recall ↑"}
SCALES = {"fd": {"value": "log"}, "kid": {"value": "symlog", "linthresh": 0.3}}
LADDERS = {
    "noise": "noise, standard deviation",
    "classes": "classes kept of 9",
    "repeats": "times each is repeated",
}


class Emoji:
    """The demo's images in two random halves, and its feature network."""

    def __init__(self, study: Study):
        manifest = ingest_manifest(study.data)
        order = np.random.default_rng(0).permutation(len(manifest))
        self.images = load_images(manifest, study.data.image_size)
        self.labels = np.array(manifest["label"])
        self.halves = order[: len(order) // 2], order[len(order) // 2 :]
        self.extractor = load_extractor(study.scoring.extractor, ROOT / study.scoring.extractor.weights)

    def features(self, images: torch.Tensor, labels: np.ndarray) -> FeatureSet:
        return FeatureSet(np.arange(len(images)), labels, *extract(self.extractor, images.split(64)))

    def reference(self) -> FeatureSet:
        return self.features(self.images[self.halves[0]], self.labels[self.halves[0]])

    def take(self, count: int, seed: int, classes: int = 9, repeats: int = 1) -> np.ndarray:
        """Rows of `count` images of the second half: of the largest classes, few of them repeated."""
        half, rng = self.halves[1], np.random.default_rng(seed)
        largest = np.argsort(-np.bincount(self.labels[half]), kind="stable")[:classes]
        rows = rng.permutation(half[np.isin(self.labels[half], largest)])[: count // repeats]
        if len(rows) * repeats != count:
            raise ValueError(f"{count} images from {classes} classes, each {repeats} times: only {len(rows)} are there")
        return np.repeat(rows, repeats)


def degraded(emoji: Emoji, ladder: str, level: int, count: int) -> FeatureSet:
    """`count` images of the second half at one step of a ladder."""
    rows = emoji.take(count, 0, **{ladder: level} if ladder != "noise" else {})
    images = emoji.images[rows].float()
    if ladder == "noise":
        images = images + level * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return emoji.features(images.round().clamp(0, 255).to(torch.uint8), emoji.labels[rows])


def ladders(study: Study, count: int = 300) -> pd.DataFrame:
    """One row a metric and step: ladder (or 'floor'), level, metric, value, low, high."""
    emoji, found = Emoji(study), []
    reference = emoji.reference()
    steps = [
        (name, level)
        for name, levels in (("noise", NOISE), ("classes", CLASSES), ("repeats", DRAWINGS))
        for level in levels
    ]
    for name, level in steps:
        found += _scores(study, degraded(emoji, name, level, count), reference, name, level)
    for seed in range(FLOORS):
        rows = emoji.take(count, 100 + seed)
        found += _scores(study, emoji.features(emoji.images[rows], emoji.labels[rows]), reference, "floor", seed)
    return pd.DataFrame(found)


def _scores(study: Study, sample: FeatureSet, reference: FeatureSet, ladder: str, level: int) -> list[dict]:
    groups, rows = jackknife_groups(sample.index, study.scoring.jackknife_groups, sample.labels), []
    for metric in TITLES:
        value = value_of(METRICS[metric], sample, reference, study.scoring)
        low, high = interval(
            value, replicates_of(METRICS[metric], sample, reference, study.scoring, groups), METRICS[metric].bounds
        )[1:]
        rows.append({"ladder": ladder, "level": level, "metric": metric, "value": value, "low": low, "high": high})
    return rows


def figure(rows: pd.DataFrame, count: int, network: str, stem: Path) -> None:
    """Metrics below each other, ladders side by side; the band is the floor, from its smallest to its largest draw."""
    with plt.style.context((*STYLE, {"text.parse_math": True})):  # for powers of ten on logarithmic axes
        drawn, axes = plt.subplots(len(TITLES), len(LADDERS), figsize=(9.6, 9.6), sharex="col", sharey="row")
        floor = rows[rows["ladder"] == "floor"].groupby("metric")["value"]
        for row, (metric, title) in zip(axes, TITLES.items(), strict=True):
            row[0].set_ylabel(title)
            row[0].set_yscale(**SCALES.get(metric, {"value": "linear"}))
            for ax, ladder in zip(row, LADDERS, strict=True):
                part = rows[(rows["ladder"] == ladder) & (rows["metric"] == metric)]
                places = np.arange(len(part))
                ax.axhspan(floor.min()[metric], floor.max()[metric], color="#999999", alpha=0.35, lw=0)
                ax.errorbar(places, part["value"], (part["value"] - part["low"], part["high"] - part["value"]),
                            color=COLOURS[0], marker="o", ms=4, lw=1.5, elinewidth=1, capsize=2)  # fmt: skip
                ax.set_xticks(places, part["level"].astype(str))
        for ax, label in zip(axes[-1], LADDERS.values(), strict=True):
            ax.set_xlabel(label)
        for ax, title in zip(axes[0], ("Noise", "Dropped classes", "Repeated images"), strict=True):
            ax.set_title(title)
        drawn.align_ylabels()
        caption(drawn, f"{count} emoji at every step against {network}'s features of another half of the set. Grey: "
                       f"what {FLOORS} draws of untouched images score, from the smallest to the largest. Bars: 95 % "
                       "intervals. The Fréchet distance of so few images is far above zero by its bias alone; the "
                       "kernel distance has none.")  # fmt: skip
        save(drawn, stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out, count = parser.parse_args().out, 300
    study = load_study(ROOT / "config" / "demo.yaml")
    rows = ladders(study, count)
    with replaced(out / "ladders.csv") as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g")
    figure(rows, count, Emoji(study).extractor.name, out / "ladders")


if __name__ == "__main__":
    main()
