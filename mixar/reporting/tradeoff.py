"""What each sampler costs and what it loses: quality against seconds and FLOPs per image, with the frontier.

A sampler is compared with its run's reference sampler, the one of the main tables, on the same discrete tokens.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from mixar.reporting.figures import STYLE, caption, colour_of, ground_of
from mixar.reporting.names import label_of
from mixar.reporting.numbers import MISSING, decimals, fixed, number, si, signed
from mixar.reporting.summary import Result, Summary
from mixar.reporting.tables import Table
from mixar.reporting.verdicts import compare

MARKERS = "osD^vP*Xph<>"
COSTS = {
    "seconds": ("Seconds per image", "{:g}".format),
    "flops": ("FLOPs per image", si),
}  # column -> axis, its numbers
COLUMNS = ("run", "label", "sampler", "cfg", "is_reference", "fd", "low", "high", "n", "seconds", "flops", "faster",
           "fewer_flops", "change", "change_half_width", "inside")  # fmt: skip


def tradeoff_data(summary: Summary) -> pd.DataFrame:
    """A row for each run and sampler that has a distance.

    seconds, flops: per image. faster, fewer_flops: how many times, against the run's reference sampler. change: of the
    distance from the reference's, with half its 95 % interval over images and seeds. inside: the distance is within the
    reference's own interval. Missing numbers are NaN; the reference compared with itself has a change of 0.
    """
    rows = [row for run in summary.study.runs for row in _rows(summary, run)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(summary: Summary, run: str) -> list[dict[str, Any]]:
    usual = str(summary.study.headline_sampler(run))
    first, rows = summary.drawn_with(run, usual, "fd"), []
    for sampler in summary.study.runs[run].samplers:
        fd = summary.drawn_with(run, sampler, "fd")
        if not fd:
            continue
        low, high = fd.span or (fd.mean, fd.mean)
        row = {"run": run, "label": label_of(summary.study, run), "sampler": sampler, "cfg": fd.cfg,
               "is_reference": sampler == usual, "fd": fd.mean, "low": low, "high": high, "n": fd.n}  # fmt: skip
        for name, metric, ratio in (
            ("seconds", "seconds_per_image", "faster"),
            ("flops", "flops_sample", "fewer_flops"),
        ):
            ours, theirs = (summary.drawn_with(run, each, metric).mean for each in (sampler, usual))
            row |= {name: ours, ratio: theirs / ours if ours and theirs else None}
        rows.append(row | _change(fd, first))
    return rows


def _change(fd: Result, first: Result) -> dict[str, Any]:
    """How a distance differs from the reference sampler's."""
    if not first:
        return {}
    found = compare(fd, first)
    low, high = first.span or (first.mean, first.mean)
    assert fd.mean is not None and low is not None and high is not None
    return {"change": found.mean, "change_half_width": found.reach, "inside": low <= fd.mean <= high}


def frontier(points: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The points that no other beats in both cost and distance, by rising cost."""
    ordered = points.dropna(subset=[cost]).sort_values([cost, "fd"])
    return ordered[ordered["fd"] < ordered["fd"].cummin().shift(fill_value=np.inf)]


def tradeoff_table(summary: Summary) -> Table:
    """Speed-up and change of distance of every run and sampler."""
    points, name = tradeoff_data(summary), summary.distance()
    best = set(frontier(points, "seconds").index)
    cells = [_cells(point, index in best) for index, point in points.iterrows()]
    columns = ("Method", "Sampler", "CFG", "s/img", "FLOP/img", "faster", "fewer FLOPs", f"{name} ↓", "change",
               "reference's interval", "frontier")  # fmt: skip
    notes = (
        f"Each sampler against its run's reference sampler, {summary.study.report.sampler} where the run has it. "
        "Change: of the distance, ± half its 95 % interval over images (paired) and seeds together.",
        "Reference's interval: whether the distance is inside the 95 % interval of the reference sampler's own "
        "distance; 'but worse': the paired change is beyond its interval all the same. Frontier: no other row has both "
        "fewer seconds and a smaller distance.",
        "Seconds are measured, FLOPs computed from the settings; both without the generation of the discrete tokens.",
    )
    return Table(f"Samplers: {summary.study.title}", columns, cells, notes, points)


def _cells(point: pd.Series, is_best: bool) -> list[str]:
    def shown(key: str, form) -> str:
        return MISSING if pd.isna(point[key]) else form(point[key])

    places, change, inside = decimals(point["fd"]), MISSING, MISSING
    if point["is_reference"]:
        change, inside = "reference", "reference"
    elif pd.notna(point["change"]):
        change = f"{signed(point['change'], places)} ± {fixed(point['change_half_width'], places)}"
        direction = "better" if point["change"] < 0 else "worse"
        is_sure = abs(point["change"]) > point["change_half_width"]
        inside = ("inside, but " + direction if is_sure else "inside") if point["inside"] else direction
    return [
        point["label"],
        point["sampler"],
        shown("cfg", "{:g}".format),
        shown("seconds", number),
        shown("flops", si),
        shown("faster", lambda ratio: f"{fixed(ratio, 2)} ×"),
        shown("fewer_flops", lambda ratio: f"{fixed(ratio, 2)} ×"),
        number(point["fd"]),
        change,
        inside,
        "yes" if is_best else "",
    ]


def tradeoff_figure(summary: Summary) -> Figure:
    """Distance against seconds and against FLOPs per image: colour by run, marker by sampler, the frontier as steps."""
    points, name = tradeoff_data(summary), summary.distance()
    samplers = {sampler: MARKERS[i % len(MARKERS)] for i, sampler in enumerate(dict.fromkeys(points["sampler"]))}
    with plt.style.context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(10.4, 4.6), sharey=True, layout="constrained")
        for axes, (cost, (label, printed)) in zip(panels, COSTS.items(), strict=True):
            axes.set(xlabel=f"{label}  ← cheaper", xscale="log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda value, _, printed=printed: printed(value))
            axes.xaxis.set_minor_locator(NullLocator())  # its labels would be mathematics, which labels here are not
            _draw(summary, axes, points.dropna(subset=[cost]), cost, samplers)
        panels[0].set_ylabel(f"{name}  ↓ better")
        panels[0].set_title("Quality against the cost of drawing")
        panels[1].legend(handles=_handles(summary, points, samplers), loc="upper left", bbox_to_anchor=(1.01, 1.0),
                         fontsize=9.5)  # fmt: skip
        ground = ground_of(name, [summary.drawn_with(p.run, p.sampler, "fd") for p in points.itertuples()])
        text = (
            f"{ground}. Bars: 95 % intervals over images, spanning all seeds; all samplers of a run draw from the same "
        )
        text += (
            "tokens, so differences between them are surer than the bars (see the table). Filled: reference samplers. "
        )
        text += "Steps: the frontier, which no other point beats in both cost and distance."
        caption(figure, text)
    return figure


def _draw(summary: Summary, axes: Axes, points: pd.DataFrame, cost: str, samplers: dict[str, str]) -> None:
    for p in points.to_dict("records"):
        colour = colour_of(summary.study, p["run"])
        bars = [[p["fd"] - p["low"]], [p["high"] - p["fd"]]]
        fill = colour if p["is_reference"] else "white"
        look: dict[str, Any] = {"fmt": samplers[p["sampler"]], "ms": 8, "mfc": fill, "mew": 1.6, "zorder": 3}
        axes.errorbar(p[cost], p["fd"], yerr=bars, color=colour, capsize=3, lw=1.1, **look)
    best = frontier(points, cost)
    if len(best):
        axes.step(best[cost], best["fd"], where="post", color="#777777", lw=1.2, ls="--", zorder=1)


def _handles(summary: Summary, points: pd.DataFrame, samplers: dict[str, str]) -> list[Line2D]:
    look: dict[str, Any] = {"ls": "none", "ms": 8}
    runs = [
        Line2D([], [], marker="s", color=colour_of(summary.study, run), label=label_of(summary.study, run), **look)
        for run in dict.fromkeys(points["run"])
    ]
    marks = [
        Line2D([], [], marker=marker, mfc="white", color="#333333", label=sampler, **look)
        for sampler, marker in samplers.items()
    ]
    line = Line2D([], [], color="#777777", lw=1.2, ls="--", label="frontier")
    return [*runs, *marks, line]
