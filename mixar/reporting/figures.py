"""Figures drawn from numbers: the balance plot (Figure 7), the TI-Mix ablation (Figure 8) and the loss curves.

Each figure's data come from a separate function, so that they can be tested and reused. Sheets of images
live in pictures.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["MPLBACKEND"] = "Agg"  # jobs inherit a notebook's, which may not be installed here

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixar.reporting.names import label_of
from mixar.reporting.numbers import MISSING, count, decimals, fixed, si, signed
from mixar.reporting.results import epochs_before, total_epochs
from mixar.reporting.summary import NOTHING, Result, Summary
from mixar.reporting.verdicts import combined
from mixar.storage.files import replaced
from mixar.study.names import split
from mixar.study.sections import Study, TiMixFigure

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
BARS = "Bars: 95 % intervals over images, spanning all seeds; paired differences between runs have smaller errors."
CAPTION: dict[str, Any] = {"fontsize": 8.5, "color": "#555555", "va": "top", "ha": "left"}


def save(figure: Figure, stem: str | Path, endings: Iterable[str] = ("png", "pdf")) -> None:
    """Write stem.png and stem.pdf, or other endings, and close the figure."""
    look: dict[str, Any] = {"dpi": 200, "bbox_inches": "tight", "pad_inches": 0.12, "facecolor": "white"}
    for ending in endings:
        # Without a date the same rows give the same bytes.
        metadata = {"CreationDate": None} if ending == "pdf" else {}
        with replaced(f"{stem}.{ending}") as temporary, plt.style.context(STYLE):
            figure.savefig(temporary, metadata=metadata, **look)
    plt.close(figure)


def colour_of(study: Study, run: str) -> str:
    """One colour for each run, the same in every figure."""
    return COLOURS[list(study.runs).index(split(run)[0]) % len(COLOURS)]


def caption(figure: Figure, text: str) -> None:
    """A caption below everything that is drawn, wrapped to its width."""
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    lines = textwrap.fill(text, max(40, int((box.x1 - box.x0) / CHARACTER)), break_on_hyphens=False)
    figure.text(max(box.x0, 0) / width, (box.y0 - 0.12) / height, lines, **CAPTION)


def ground_of(name: str, results: Iterable[Result]) -> str:
    """Metric, number of images and protocol, for a caption."""
    known = next((r for r in results if r), NOTHING)
    return f"{name}, n = {count(known.n)} images, protocol {known.protocol or MISSING}"


# Figure 7


def balance_data(summary: Summary) -> pd.DataFrame:
    """Figure 7's points: run, label, tokens, seconds (NaN if not measured), parameters, fd, low, high, seeds.

    seconds: to draw one image, decoding included. Runs without scores are left out.
    """
    study, points = summary.study, []
    for run in study.shown(study.report.figure7):
        fd = summary.of(run, "fd")
        tokens, parameters = (summary.of(run, m, "measure") for m in ("tokens_total", "parameters"))
        if fd and tokens and parameters:
            seconds = summary.of(run, "seconds_per_image", "measure").mean
            low, high = fd.span or (fd.mean, fd.mean)
            points.append({"run": run, "label": label_of(study, run), "tokens": tokens.mean,
                           "seconds": np.nan if seconds is None else seconds, "fd": fd.mean,
                           "parameters": parameters.mean, "low": low, "high": high,
                           "seeds": len(fd.values)})  # fmt: skip
    columns = ["run", "label", "tokens", "seconds", "fd", "parameters", "low", "high", "seeds"]
    return pd.DataFrame(points, columns=columns)


def figure7(summary: Summary) -> Figure:
    """Distance against tokens, and against seconds per image where they were measured: the balance of quality and cost.

    The area of a marker grows with the parameters; small dots are single seeds.
    """
    points, name = balance_data(summary), summary.distance()
    timed = points.dropna(subset="seconds")
    panels = {"tokens": points, "seconds": timed} if len(timed) else {"tokens": points}
    with plt.style.context(STYLE):
        size = (7.2 if len(panels) == 1 else 13.0, 4.6)
        figure, row = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
        for axes, (column, shown) in zip(row[0], panels.items(), strict=True):
            axes.set(xlabel=BALANCE[column], ylabel=f"{name}  ↓ better")
            if len(shown):
                _draw_balance(summary, axes, shown, column)
        row[0][0].set_title("Balance of quality and cost")
        ground = ground_of(name, [summary.of(run, "fd") for run in points["run"]])
        changes = "".join(f" {note}" for note in summary.changes_in_words(points["run"]))
        devices = {summary.of(run, "seconds_per_image", "measure").device for run in timed["run"]} - {None}
        text = f"{ground}. {BARS} Small dots: single seeds. Marker area: parameters.{changes}"
        text += " Runs with equal token counts are drawn side by side." if points["tokens"].duplicated().any() else ""
        text += f" Seconds on {', '.join(sorted(map(str, devices)))}." if devices else ""
        caption(figure, text)
    return figure


BALANCE = {
    "tokens": "Tokens per image: class, image, prefix and memory tokens",
    "seconds": "Seconds per image, with decoding to pixels",
}


def _draw_balance(summary: Summary, axes: Axes, points: pd.DataFrame, column: str) -> None:
    at = points[column].to_numpy(float)
    reach = max(at.max() - at.min(), 0.25 * at.max())
    x = _side_by_side(at, 0.075 * reach) if column == "tokens" else at
    area = 700 * points["parameters"].to_numpy(float) / points["parameters"].max()
    for i, point in enumerate(points.itertuples()):
        colour, values = colour_of(summary.study, point.run), list(summary.of(point.run, "fd").values.values())
        bars = [[point.fd - point.low], [point.high - point.fd]]
        axes.errorbar(x[i], point.fd, yerr=bars, color=colour, capsize=4, lw=1.6, zorder=3)
        axes.scatter(x[i], point.fd, s=area[i], color=colour, alpha=0.45, edgecolor=colour, lw=1.5, zorder=2)
        if len(values) > 1:
            axes.plot([x[i]] * len(values), values, ".", ms=5, color="white", mec=colour, mew=0.9, zorder=4)
    axes.set_xlim(min(x) - 0.2 * reach, max(x) + 0.5 * reach)
    low, high = points["low"].min(), points["high"].max()
    pad = 0.15 * ((high - low) or abs(high) or 1.0)
    axes.set_ylim(low - pad, high + pad)
    if column == "tokens":
        counts = sorted(points["tokens"].unique())
        axes.set_xticks(counts, [f"{c:g}" for c in counts])
        column_of_labels = at  # a column of labels beside each count
    else:
        column_of_labels = np.full_like(at, at.max())  # one, at the right
    _label_points(summary.study, axes, points, x, column_of_labels, high - low + 2 * pad, reach)


def _label_points(
    study: Study, axes: Axes, points: pd.DataFrame, x: np.ndarray, group: np.ndarray, height: float, reach: float
) -> None:
    """The label and size of each point, in a column at the right of its group, joined to it by a line."""
    sizes = [si(p).replace(" ", "\u00a0") for p in points["parameters"]]  # a line never ends inside a size
    labels = [textwrap.fill(f"{label} ({size})", 24) for label, size in zip(points["label"], sizes, strict=True)]
    gap = 0.065 * height * (1 + max(label.count("\n") for label in labels))
    at = np.array([max(x[group == value]) for value in group]) + 0.09 * reach
    y = _apart(points["fd"].to_numpy(float), group, gap)
    for i, (run, label) in enumerate(zip(points["run"], labels, strict=True)):
        line = {"arrowstyle": "-", "color": colour_of(study, run), "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(label, (x[i], points["fd"].iloc[i]), (at[i], y[i]), va="center", arrowprops=line, zorder=4)


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


def ablation_data(summary: Summary) -> pd.DataFrame:
    """Figure 8's points: role (parent, plain, ti_mix), run, label, epochs in all, fd, low, high, seeds.

    A role has a point for each milestone of its run, and the continuations only those after the parent.
    """
    study, points, roles = summary.study, [], _roles(summary.study)
    branch = total_epochs(study, roles.parent)
    for role, last in roles.model_dump().items():
        for run in study.up_to(last):
            fd, epochs = summary.of(run, "fd"), total_epochs(study, run)
            if fd and (role == "parent" or epochs > branch or run == last):
                low, high = fd.span or (fd.mean, fd.mean)
                points.append({"role": role, "run": run, "label": label_of(study, last), "epochs": int(epochs),
                               "fd": fd.mean, "low": low, "high": high, "seeds": len(fd.values)})  # fmt: skip
    return pd.DataFrame(points, columns=["role", "run", "label", "epochs", "fd", "low", "high", "seeds"])


def _roles(study: Study) -> TiMixFigure:
    assert study.report.figure8 is not None, "a study without report.figure8 has no Figure 8"
    return study.report.figure8


def figure8(summary: Summary, rates: pd.DataFrame | None = None) -> Figure:
    """Distance of a parent run, and of its continuations with and without TI-Mix, against epochs.

    rates: the loss curve of the continuation with TI-Mix, whose λ is drawn below.
    """
    points, name = ablation_data(summary), summary.distance()
    by_role = {str(role): part for role, part in points.groupby("role", sort=False)}
    with plt.style.context(STYLE):
        figure, axes, below = _with_panel_below(has_panel=rates is not None and len(points) > 0)
        axes.set(ylabel=f"{name}  ↓ better")
        below.set(xlabel="Total training epochs")
        axes.set_title("Continued training with and without TI-Mix")
        for role, colour, marker, dash in (("plain", COLOURS[0], "o", "-"), ("ti_mix", COLOURS[1], "D", "--")):
            if {"parent", role} <= by_role.keys():
                aside = SIDES[role] * _side_step(points)  # the two bars side by side
                _draw_line(axes, by_role["parent"].tail(1), by_role[role], colour, dash, aside)
                _draw_points(axes, by_role[role], colour, marker, aside)
        if "parent" in by_role:
            _draw_line(axes, by_role["parent"].head(1), by_role["parent"].tail(-1), "#333333", "-", 0)
            _draw_points(axes, by_role["parent"], "#333333", "s", 0)
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
            _draw_seeds(axes, summary, points)
        if rates is not None and len(points):
            _draw_rates(below, epochs_before(summary.study, _roles(summary.study).ti_mix), rates)
        ground = ground_of(name, [summary.of(run, "fd") for run in points["run"]])
        changes = "".join(f" {note}" for note in summary.changes_in_words(points["run"]))
        caption(figure, f"{ground}. {BARS} Small dots: single seeds.{_paired(summary)}{changes}")
    return figure


def _with_panel_below(has_panel: bool) -> tuple[Figure, Axes, Axes]:
    """A figure, its main axes, and a low panel below that shares their x; without a panel the axes twice."""
    if not has_panel:
        figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        return figure, axes, axes
    size: dict[str, Any] = {"figsize": (6.4, 5.2), "layout": "constrained"}
    figure, (axes, below) = plt.subplots(2, 1, sharex=True, height_ratios=[4, 1], **size)
    axes.tick_params(labelbottom=False)
    return figure, axes, below


def _draw_rates(axes: Axes, start: float, rates: pd.DataFrame) -> None:
    """λ against epochs, from the epoch that the continuation starts at."""
    axes.plot(start + rates["epoch"], rates["guidance_rate"], color=COLOURS[1], lw=1.6)
    axes.set(ylabel="λ", ylim=(-0.05, 1.05))
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def _draw_seeds(axes: Axes, summary: Summary, points: pd.DataFrame) -> None:
    for _, point in points.iterrows():
        values = list(summary.of(point["run"], "fd").values.values())
        at = point["epochs"] + SIDES.get(point["role"], 0) * _side_step(points)
        axes.plot([at] * len(values), values, ".", ms=4, color="white", mec="#333333", mew=0.8, zorder=4)


def _paired(summary: Summary) -> str:
    """What the bars cannot show: the difference with and without TI-Mix on the same images."""
    roles = _roles(summary.study)
    ours, theirs = summary.of(roles.ti_mix, "fd"), summary.of(roles.plain, "fd")
    reach = combined(ours, theirs) if ours and theirs else None
    if reach is None or ours.mean is None or theirs.mean is None:
        return ""
    places = decimals(theirs.mean)
    gap = f"{signed(ours.mean - theirs.mean, places)}\u00a0±\u00a0{fixed(reach, places)}"
    return f" With TI-Mix minus without, on the same images: {gap}."


def _side_step(points: pd.DataFrame) -> float:
    return 0.015 * max(points["epochs"].max() - points["epochs"].min(), 1)


def _draw_line(axes: Axes, first: pd.DataFrame, points: pd.DataFrame, colour: str, dash: str, aside: float) -> None:
    """A line from one point through others, which are moved aside."""
    x, y = [*first["epochs"], *(points["epochs"] + aside)], [*first["fd"], *points["fd"]]
    axes.plot(x, y, dash, color=colour, lw=1.6, alpha=0.7, zorder=2)


def _draw_points(axes: Axes, points: pd.DataFrame, colour: str, marker: str, aside: float) -> None:
    bars = [points["fd"] - points["low"], points["high"] - points["fd"]]
    look: dict[str, Any] = {"fmt": marker, "ms": 8, "color": colour, "capsize": 4, "lw": 1.6, "zorder": 3}
    axes.errorbar(points["epochs"] + aside, points["fd"], yerr=bars, label=points["label"].iloc[0], **look)


# Guidance scales


def sweep_figure(summary: Summary) -> Figure:
    """Distance against guidance scale: a line for each network and sampler that was swept, its choice ringed."""
    name = summary.distance()
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.6))
        axes.set(xlabel="Classifier-free guidance scale", ylabel=f"{name}  ↓ better")
        axes.set_title("Quality against the guidance scale")
        networks = list(dict.fromkeys(run for run, _ in summary.sweeps))
        for number, ((run, sampler), points) in enumerate(summary.sweeps.items()):
            several = len({each for of, each in summary.sweeps if of == run}) > 1
            label = label_of(summary.study, run) + (f", {sampler}" if several else "")
            dash = DASHES[networks.index(run) % len(DASHES)] if not several else DASHES[number % len(DASHES)]
            _draw_sweep(axes, points, label, colour_of(summary.study, run), dash)
        if summary.sweeps:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9.5)
        ground = ground_of(name, [point for points in summary.sweeps.values() for point in points])
        text = f"{ground}. Bars: 95 % intervals over images; all scales of a line share their noise, so differences "
        text += "between them are surer than the bars. Ring: the scale that the scored images were drawn with."
        caption(figure, text)
    return figure


def _draw_sweep(axes: Axes, points: Sequence[Result], label: str, colour: str, dash: str) -> None:
    found = [(p.cfg, p.mean, *(p.span or (p.mean, p.mean))) for p in points]
    x, y, low, high = np.array(found, float).T
    bars = np.array([y - low, high - y])
    axes.errorbar(x, y, yerr=bars, fmt=f"o{dash}", ms=4, color=colour, capsize=3, lw=1.5, label=label, zorder=2)
    best = min(range(len(y)), key=lambda i: (y[i], x[i]))
    axes.plot(x[best], y[best], "o", ms=13, mfc="none", mec=colour, mew=1.8, zorder=3)


# Loss curves


def losses_figure(
    study: Study,
    curves: Mapping[tuple[str, int], pd.DataFrame],
    alarms: Sequence[str] = (),
    held_out: Mapping[tuple[str, int], pd.DataFrame] | None = None,
) -> Figure:
    """Training loss against epochs, and the held-out loss beside it where it was measured.

    One colour per run, one thin line per seed, and the mean over seeds in bold.
    curves: by (run, seed), the columns of a loss file. held_out: likewise epoch and held_out_loss. Continued runs begin
    where their parents ended. alarms: of losses outside their expected bands, for the caption.
    """
    held_out = {pair: frame for pair, frame in (held_out or {}).items() if len(frame)}
    with plt.style.context(STYLE):
        size = (7.2 if not held_out else 12.5, 4.4)
        figure, row = plt.subplots(1, 2 if held_out else 1, figsize=size, squeeze=False, layout="constrained")
        axes = row[0][0]
        axes.set(xlabel="Total training epochs", ylabel="Diffusion loss (smoothed)")
        axes.set_title("Training loss")
        for number, run in enumerate(study.runs):
            seeds = [frame for (name, _), frame in curves.items() if name == run]
            _draw_losses(axes, study, run, [smoothed(frame) for frame in seeds], DASHES[number % len(DASHES)])
        axes.yaxis.set_major_locator(MaxNLocator(8))
        if curves:
            axes.set_ylim(top=_tallest(axes))
        text = "Exponential mean over 5 % of each run; thin lines: single seeds; the first tenth may exceed the axis."
        text += " TI-Mix changes what the loss is conditioned on: compare only runs that share it."
        if held_out:
            _draw_held_out(row[0][1], study, held_out)
            text += " Held-out loss: of the averaged weights, with the images' own tokens and the same draws each time."
        if curves:
            row[0][-1].legend(*axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1.01, 1.0),
                              fontsize=9.5)  # fmt: skip
        caption(figure, " ".join([text, *(f"ALARM: {alarm}." for alarm in alarms)]))
    return figure


def smoothed(curve: pd.DataFrame) -> pd.DataFrame:
    """A loss curve with its exponential mean over a twentieth of the run."""
    return curve.assign(loss=curve["loss"].ewm(span=max(len(curve) / 20, 1)).mean())


def _draw_held_out(axes: Axes, study: Study, held_out: Mapping[tuple[str, int], pd.DataFrame]) -> None:
    axes.set(xlabel="Total training epochs", ylabel="Diffusion loss")
    axes.set_title("Held-out loss")
    for number, run in enumerate(study.runs):
        frames = [f.rename(columns={"held_out_loss": "loss"}) for (name, _), f in held_out.items() if name == run]
        _draw_losses(axes, study, run, frames, f".{DASHES[number % len(DASHES)]}")  # dots: there may be only one
    axes.yaxis.set_major_locator(MaxNLocator(8))
    axes.set_ylim(top=_tallest(axes))


def _draw_losses(axes: Axes, study: Study, run: str, seeds: list[pd.DataFrame], dash: str) -> None:
    colour, start = colour_of(study, run), epochs_before(study, run)
    for frame in seeds if len(seeds) > 1 else []:
        axes.plot(start + frame["epoch"], frame["loss"], color=colour, lw=0.6, alpha=0.45)
    if seeds:
        mean = pd.concat(seeds).groupby("step")[["epoch", "loss"]].mean()
        axes.plot(start + mean["epoch"], mean["loss"], dash, color=colour, lw=1.7, label=study.runs[run].label)


def _tallest(axes: Axes) -> float:
    """Upper limit that leaves out the steep first tenth of each curve."""
    curves = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    tops = [np.nanmax(y[len(y) // 10 :]) for y in curves]
    return max(tops) + 0.05 * (max(tops) - min(np.nanmin(y) for y in curves)) + 1e-9
