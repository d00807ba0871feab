"""The README's picture: samples of a finished study, next to its balance plot.

    python docs/scripts/front_picture.py results/demo docs/assets/front.png

Reads report/results.parquet and the drawn images of the study's folder; draws again what Figures 2 and 7 of its report
show, on one sheet. Samples are the first of each class, not selected.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mixar.reporting.figures import STYLE, balance_data, colour_of
from mixar.reporting.pictures import montage, pick_rows, read_labels, read_selected
from mixar.study.load import load_study
from mixar.study.sections import Study

ROWS = {"maskbit": "MaskBit", "mar": "MAR", "dc_mix": "DC-Mix", "dc_sa": "DC-SA", "dc_ca": "DC-CA"}  # run, its label
NOTES = {"maskbit": "tokens decoded", "mar": "no tokens", "dc_mix": "tokens mixed in", "dc_sa": "tokens as prefix",
         "dc_ca": "tokens as memory"}  # fmt: skip
COLUMNS = 9


def main(folder: Path, target: Path) -> None:
    """Draw the picture of the study in `folder` into `target`, a PNG of at most 256 colours."""
    study = load_study(folder / "study.json")
    rows = pd.read_parquet(folder / "report" / "results.parquet")
    figure = draw(study, rows, {run: samples(folder, run) for run in ROWS})
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, facecolor="white")
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def samples(folder: Path, run: str) -> np.ndarray:
    """The first image of each of COLUMNS classes, uint8 [n, H, W, 3]; the same labels for every run."""
    shards = sorted((folder / "sample" / run / "seed0").glob("**/*.parquet"))
    index, label = read_labels(shards)
    return read_selected(shards, [indices[0] for _, indices in pick_rows(index, label, COLUMNS, 1)])


def draw(study: Study, rows: pd.DataFrame, images: dict[str, np.ndarray]) -> Figure:
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(12, 4.5))
        left = figure.add_axes((0.128, 0.035, 0.49, 0.84))
        right = figure.add_axes((0.68, 0.145, 0.31, 0.73))
        draw_samples(left, study, images)
        draw_balance(right, study, balance_data(study, rows))
    return figure


def draw_samples(axes: Axes, study: Study, images: dict[str, np.ndarray]) -> None:
    """One row per run: the same labels and the same discrete tokens for all."""
    sheet = montage([image for row in images.values() for image in row], COLUMNS)
    axes.imshow(sheet, interpolation="none", aspect="auto")
    axes.axis("off")
    step = sheet.shape[0] / len(images)
    for i, run in enumerate(images):
        colour = colour_of(study, run) if run in study.runs else "#555555"
        place = {"ha": "right", "transform": axes.transData}
        axes.text(-20, (i + 0.5) * step - 12, ROWS[run], fontsize=13, fontweight="bold", color=colour, **place)
        axes.text(-20, (i + 0.5) * step + 44, NOTES[run], fontsize=10, color="#555555", **place)
    axes.set_title("Discrete tokens guide continuous latents", fontsize=14, loc="left", pad=10)


def draw_balance(axes: Axes, study: Study, points: pd.DataFrame) -> None:
    """Figure 7: Fréchet distance against tokens; the area of a marker grows with the parameters."""
    counts = sorted(points["tokens"].unique())
    reach = counts[-1] - counts[0]
    for tokens in counts:
        group = points[points["tokens"] == tokens].sort_values("fd")
        for i, point in enumerate(group.itertuples()):
            x, colour = tokens + 0.1 * reach * (i - (len(group) - 1) / 2), colour_of(study, point.run)
            bars = [[point.fd - point.low], [point.high - point.fd]]
            axes.errorbar(x, point.fd, yerr=bars, color=colour, capsize=4, lw=1.8, zorder=3)
            axes.scatter(x, point.fd, s=120 * point.parameters / 2e6, color=colour, alpha=0.45, edgecolor=colour)
            below = i == 0
            axes.annotate(point.label, (x, point.low if below else point.high), (0, -8 if below else 8),
                          textcoords="offset points", ha="center", va="top" if below else "bottom", fontsize=12,
                          fontweight="bold", color=colour)  # fmt: skip
    low, high = points["low"].min(), points["high"].max()
    axes.set_ylim(low - 0.16 * (high - low), high + 0.16 * (high - low))
    axes.set_xlim(counts[0] - 0.35 * reach, counts[-1] + 0.35 * reach)
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.set_xlabel("tokens per image", fontsize=12)
    axes.set_ylabel("Fréchet distance  (lower is better)", fontsize=12)
    axes.set_title("Quality against cost", fontsize=14, pad=10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="results of a finished study, such as results/demo")
    parser.add_argument("target", type=Path, help="the PNG to write, such as docs/assets/front.png")
    given = parser.parse_args()
    main(given.folder, given.target)
