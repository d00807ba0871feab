"""Figures drawn from numbers: the balance plot (Figure 7), the TI-Mix ablation (Figure 8) and the loss curves.

Each figure has its data in a function of its own, so that what is plotted can be tested and reused. Sheets of images
live in pictures.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # jobs inherit a notebook's, which may not be installed here

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixar.files import replaced
from mixar.reporting.claims import combined
from mixar.reporting.results import own_epochs, total_epochs
from mixar.reporting.summary import Summary, distance_name, rows_of, summarise
from mixar.reporting.tables import si
from mixar.study.sections import Study

# Okabe and Ito's colours: told apart with every common kind of colour blindness, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ("-", "--", "-.", ":")
OWN_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.edgecolor": "#555555",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "figure.dpi": 100,
}
STYLE = ("default", OWN_STYLE)  # whatever the user's matplotlibrc says
CHARACTER = 0.066  # inches, of the caption's font
BARS = "Bars: 95 % intervals over images, spanning all seeds; differences of runs that share images are surer."
CAPTION = {"fontsize": 8.5, "color": "#555555", "va": "top", "ha": "left"}


def save(figure: Figure, stem: str | Path) -> None:
    """Write stem.png and stem.pdf, and close the figure."""
    look = {"dpi": 200, "bbox_inches": "tight", "pad_inches": 0.12, "facecolor": "white"}
    for ending in ("png", "pdf"):
        # Without a date the same rows give the same bytes.
        metadata = {"CreationDate": None} if ending == "pdf" else {}
        with replaced(f"{stem}.{ending}") as temporary, plt.style.context(STYLE):
            figure.savefig(temporary, metadata=metadata, **look)
    plt.close(figure)


def colour_of(study: Study, run: str) -> str:
    """One colour for each run, the same in every figure."""
    return COLOURS[list(study.runs).index(run) % len(COLOURS)]


def caption(figure: Figure, text: str) -> None:
    """A caption below everything that is drawn, wrapped to its width."""
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    lines = textwrap.fill(text, max(40, int((box.x1 - box.x0) / CHARACTER)), break_on_hyphens=False)
    figure.text(max(box.x0, 0) / width, (box.y0 - 0.12) / height, lines, **CAPTION)


def ground_of(name: str, summaries: list[Summary]) -> str:
    """Metric, number of images and protocol, for a caption."""
    known = next((s for s in summaries if s), Summary())
    return f"{name}, n = {known.n if known.n is not None else '–'} images, protocol {known.protocol or '–'}"


# Figure 7


def balance_data(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Figure 7's points: run, label, tokens, parameters, fd, low, high, seeds. Runs without scores are left out."""
    rows = rows_of(study, rows)
    points = []
    for run in study.shown(study.report.figure7):
        fd = summarise(study, rows, run, "fd")
        tokens, parameters = (summarise(study, rows, run, m, "measure") for m in ("tokens_total", "parameters"))
        if fd and tokens and parameters:
            low, high = fd.span or (fd.mean, fd.mean)
            label, seeds = study.runs[run].label, len(fd.values)
            points.append((run, label, tokens.mean, fd.mean, parameters.mean, low, high, seeds))
    return pd.DataFrame(points, columns=["run", "label", "tokens", "fd", "parameters", "low", "high", "seeds"])


def figure7(study: Study, rows: pd.DataFrame) -> Figure:
    """Distance against tokens: the balance of quality and cost. The area of a marker grows with the parameters."""
    points = balance_data(study, rows)
    name = distance_name(study, rows)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.6))
        axes.set(xlabel="Tokens per image: class, image, prefix and memory tokens", ylabel=f"{name}  ↓ better")
        axes.set_title("Balance of quality and cost")
        if len(points):
            _draw_balance(study, axes, points)
        summaries = [summarise(study, rows_of(study, rows), run, "fd") for run in points["run"]]
        text = f"{ground_of(name, summaries)}. {BARS} Marker area: parameters."
        text += " Runs with equally many tokens stand side by side." if points["tokens"].duplicated().any() else ""
        caption(figure, text)
    return figure


def _draw_balance(study: Study, axes: Axes, points: pd.DataFrame) -> None:
    counts = sorted(points["tokens"].unique())
    reach = max(counts[-1] - counts[0], 0.25 * counts[-1])
    x = _side_by_side(points["tokens"].to_numpy(float), 0.075 * reach)
    area = 700 * points["parameters"].to_numpy(float) / points["parameters"].max()
    for i, point in enumerate(points.itertuples()):
        colour = colour_of(study, point.run)
        bars = [[point.fd - point.low], [point.high - point.fd]]
        axes.errorbar(x[i], point.fd, yerr=bars, color=colour, capsize=4, lw=1.6, zorder=3)
        axes.scatter(x[i], point.fd, s=area[i], color=colour, alpha=0.45, edgecolor=colour, lw=1.5, zorder=2)
    axes.set_xlim(min(x) - 0.2 * reach, max(x) + 0.5 * reach)
    low, high = points["low"].min(), points["high"].max()
    pad = 0.15 * ((high - low) or abs(high) or 1.0)
    axes.set_ylim(low - pad, high + pad)
    axes.set_xticks(counts, [f"{c:g}" for c in counts])
    sizes = [si(p).replace(" ", "\u00a0") for p in points["parameters"]]  # a line never ends inside a size
    labels = [textwrap.fill(f"{label} ({size})", 24) for label, size in zip(points["label"], sizes, strict=True)]
    gap = 0.065 * (high - low + 2 * pad) * (1 + max(label.count("\n") for label in labels))
    rightmost = {t: max(x[points["tokens"] == t]) for t in counts}
    at = np.array([rightmost[t] for t in points["tokens"]]) + 0.09 * reach
    y = _apart(points["fd"].to_numpy(float), points["tokens"].to_numpy(float), gap)
    for i, (run, label) in enumerate(zip(points["run"], labels, strict=True)):
        line = {"arrowstyle": "-", "color": colour_of(study, run), "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(label, (x[i], points["fd"][i]), (at[i], y[i]), va="center", arrowprops=line, zorder=4)


def _side_by_side(x: np.ndarray, step: float) -> np.ndarray:
    """Equal values spread by `step`, centred on their own place."""
    placed = x.copy()
    for value in np.unique(x):
        same = np.flatnonzero(x == value)
        placed[same] += step * (np.arange(len(same)) - (len(same) - 1) / 2)
    return placed


def _apart(y: np.ndarray, group: np.ndarray, gap: float) -> np.ndarray:
    """Heights of labels: as near to `y` as can be, at least `gap` apart within a group."""
    placed = y.copy()
    for value in np.unique(group):
        order = np.flatnonzero(group == value)
        order = order[np.argsort(y[order])]
        for before, after in zip(order, order[1:], strict=False):
            placed[after] = max(placed[after], placed[before] + gap)
        placed[order] += (y[order] - placed[order]).mean()
    return placed


# Figure 8

SIDES = {"plain": -1, "ti_mix": 1}  # of the epoch that both continuations end at


def ablation_data(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Figure 8's points: role (parent, plain, ti_mix), run, label, epochs in all, fd, low, high, seeds."""
    rows, points = rows_of(study, rows), []
    for role, run in study.report.figure8.model_dump().items():
        fd = summarise(study, rows, run, "fd")
        if fd:
            epochs = total_epochs(study, run)
            low, high = fd.span or (fd.mean, fd.mean)
            points.append({"role": role, "run": run, "label": study.runs[run].label, "epochs": int(epochs),
                           "fd": fd.mean, "low": low, "high": high, "seeds": len(fd.values)})  # fmt: skip
    return pd.DataFrame(points, columns=["role", "run", "label", "epochs", "fd", "low", "high", "seeds"])


def figure8(study: Study, rows: pd.DataFrame) -> Figure:
    """Distance of a parent run, and of its continuations with and without TI-Mix, against epochs."""
    points = ablation_data(study, rows).set_index("role")
    name = distance_name(study, rows)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.4))
        axes.set(xlabel="Training epochs in all", ylabel=f"{name}  ↓ better")
        axes.set_title("Training on, with and without TI-Mix")
        for role, colour, marker, dash in (("plain", COLOURS[0], "o", "-"), ("ti_mix", COLOURS[1], "D", "--")):
            if {"parent", role} <= set(points.index):
                x = points.loc[role, "epochs"] + SIDES[role] * _side_step(points)  # the two bars side by side
                _draw_continuation(axes, points.loc["parent"], points.loc[role], colour, marker, dash, x)
        if "parent" in points.index:
            _draw_point(axes, points.loc["parent"], points.loc["parent", "epochs"], "#333333", "s")
            handles, labels = axes.get_legend_handles_labels()  # the parent, drawn last, is named first
            axes.legend(
                handles[-1:] + handles[:-1],
                labels[-1:] + labels[:-1],
                loc="best",
                frameon=True,
                framealpha=1,
                edgecolor="#dddddd",
            )
            epochs = sorted(points["epochs"].unique())
            axes.set_xticks(epochs)
            reach = epochs[-1] - epochs[0] or epochs[-1]
            axes.set_xlim(epochs[0] - 0.15 * reach, epochs[-1] + 0.2 * reach)
            _draw_seeds(axes, study, rows, points)
        summaries = [summarise(study, rows_of(study, rows), run, "fd") for run in points["run"]]
        caption(figure, f"{ground_of(name, summaries)}. {BARS} Small dots: single seeds.{_paired(study, rows)}")
    return figure


def _draw_seeds(axes: Axes, study: Study, rows: pd.DataFrame, points: pd.DataFrame) -> None:
    for role, point in points.iterrows():
        values = list(summarise(study, rows_of(study, rows), point["run"], "fd").values.values())
        at = point["epochs"] + SIDES.get(role, 0) * _side_step(points)
        axes.plot([at] * len(values), values, ".", ms=4, color="white", mec="#333333", mew=0.8, zorder=4)


def _paired(study: Study, rows: pd.DataFrame) -> str:
    """What the bars cannot show, in words: the difference with and without TI-Mix on the same images."""
    roles = study.report.figure8
    ours, theirs = (summarise(study, rows_of(study, rows), run, "fd") for run in (roles.ti_mix, roles.plain))
    reach = combined(ours, theirs) if ours and theirs else None
    if reach is None:
        return ""
    return f" With TI-Mix minus without, on the same images: {ours.mean - theirs.mean:+.2f}\u00a0±\u00a0{reach:.2f}."


def _side_step(points: pd.DataFrame) -> float:
    return 0.015 * max(points["epochs"].max() - points["epochs"].min(), 1)


def _draw_continuation(axes: Axes, parent, child, colour: str, marker: str, dash: str, x: float) -> None:
    axes.plot([parent["epochs"], x], [parent["fd"], child["fd"]], dash, color=colour, lw=1.6, alpha=0.7, zorder=2)
    _draw_point(axes, child, x, colour, marker)


def _draw_point(axes: Axes, point, x: float, colour: str, marker: str) -> None:
    bars = [[point["fd"] - point["low"]], [point["high"] - point["fd"]]]
    look = {"fmt": marker, "ms": 8, "color": colour, "capsize": 4, "lw": 1.6, "zorder": 3}
    axes.errorbar(x, point["fd"], yerr=bars, label=point["label"], **look)


# Loss curves


def losses_figure(study: Study, curves: Mapping[tuple[str, int], pd.DataFrame]) -> Figure:
    """Training loss against epochs: one colour a run, one thin line a seed, and the mean over seeds in bold.

    curves: by (run, seed), the columns of a loss file. Continued runs begin where their parents ended.
    """
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.4))
        axes.set(xlabel="Training epochs in all", ylabel="Diffusion loss (smoothed)")
        axes.set_title("Training loss")
        for number, run in enumerate(study.runs):
            seeds = [frame for (name, _), frame in curves.items() if name == run]
            _draw_losses(axes, study, run, seeds, DASHES[number % len(DASHES)])
        axes.yaxis.set_major_locator(MaxNLocator(8))
        if curves:
            axes.set_ylim(top=_tallest(axes))
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9.5)
        text = "Exponential mean over 5 % of each run; thin lines: single seeds; the first tenth may lie above."
        caption(figure, f"{text} TI-Mix changes what the loss is conditioned on: compare only runs that share it.")
    return figure


def _draw_losses(axes: Axes, study: Study, run: str, seeds: list[pd.DataFrame], dash: str) -> None:
    colour, start = colour_of(study, run), total_epochs(study, run) - own_epochs(study, run)
    smoothed = [f.assign(loss=f["loss"].ewm(span=max(len(f) / 20, 1)).mean()) for f in seeds]
    for frame in smoothed if len(smoothed) > 1 else []:
        axes.plot(start + frame["epoch"], frame["loss"], color=colour, lw=0.6, alpha=0.45)
    if smoothed:
        mean = pd.concat(smoothed).groupby("step")[["epoch", "loss"]].mean()
        axes.plot(start + mean["epoch"], mean["loss"], dash, color=colour, lw=1.7, label=study.runs[run].label)


def _tallest(axes: Axes) -> float:
    """Upper limit that leaves out the steep first tenth of each curve."""
    curves = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    tops = [np.nanmax(y[len(y) // 10 :]) for y in curves]
    return max(tops) + 0.05 * (max(tops) - min(np.nanmin(y) for y in curves)) + 1e-9
