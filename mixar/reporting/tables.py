"""Tables 1 and 2, selected from a study's summary.

Every cell of ours is computed from result rows; a number that was not measured is a dash. What papers report has tables
of its own (audit.py) and never enters ours. writers.py turns any table into Markdown, CSV, LaTeX, HTML and text.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from mixar.reporting.names import label_of
from mixar.reporting.numbers import MISSING, count, interval, number, share, si, with_spread
from mixar.reporting.results import STEADY, spread
from mixar.reporting.summary import (
    JOINED,
    NOTHING,
    Result,
    Summary,
    best_scale,
    check_same_ground,
    strangers,
)
from mixar.scoring.catalogue import Metric, metric_of
from mixar.study.sections import Study

CHANGED = "§"  # a run whose settings were changed within its training
MARKS = ("†", "‡", CHANGED)  # behind cells; a note that begins with one says what it means


@dataclass(frozen=True)
class Table:
    """Printed cells, row by row, and the same numbers unrounded in `frame`."""

    title: str
    columns: tuple[str, ...]
    cells: list[list[str]]
    notes: tuple[str, ...]
    frame: pd.DataFrame
    not_in_terminal: tuple[str, ...] = ()  # columns that would not fit there
    intervals: tuple[list[str], ...] = ()  # a line below each row, in the same columns


def quality_table(summary: Summary) -> Table:
    """Table 1: quality of the discrete tokens' own images and of every run, means over seeds ± standard deviation.

    Every further metric that the rows hold has a column after Recall; the terminal shows only the study's own. Below
    the runs come guests: brought images and runs of joined studies, with a dagger where they differ in protocol, number
    of images, features or reference.
    Raises ValueError if the study's own rows of a column differ in one of these.
    """
    study, metrics = summary.study, summary.metrics
    marks = _quality_marks(summary)
    titles = {metric.name: summary.heading(metric) for metric in metrics}
    brought = {metric_of(entry).name for entry in study.scoring.metrics if ":" in entry}
    usual, further = ([titles[m.name] for m in metrics if (m.column == "always") is always] for always in (True, False))
    seldom = (titles[m.name] for m in metrics if m.column != "always" and m.name not in brought)
    rfd = f"{summary.distance('reconstruct')} ↓"
    columns = ("Method", rfd, "# Params", *usual, *further, "seeds", "n", "protocol")
    cells, intervals, records = [], [], []
    for run in ("maskbit", *study.networks, *summary.guests):
        found = {metric.name: summary.of(run, metric.name) for metric in metrics}
        own, parameters, fd = _tokenizer_rfd(summary, run), summary.of(run, "parameters", "measure"), found["fd"]
        scores = [with_spread(found[m.name], m.decimals) for m in metrics]
        around = [str(len(fd.values) or MISSING), count(fd.n), fd.protocol or MISSING]
        label = summary.guests.get(run) or label_of(study, run)
        rfd_mark = marks.get(own.run, "") if own else ""
        mark = marks.get(run, "") + CHANGED * (run in summary.changed)
        cells.append([label + mark, number(own.mean) + rfd_mark, si(parameters.mean), *scores, *around])
        spans = [interval(found[m.name], m.decimals, "") for m in metrics]
        intervals.append(["95 % interval", interval(own, none=""), "", *spans, "", "", ""])
        home = summary.joined.get(run.partition(JOINED)[0], study)
        record = _record(home, run.rpartition(JOINED)[2], label, {"rfd": own, "parameters": parameters, **found})
        records.append({**record, "run": run, "changed": summary.changed.get(run)})
    notes = _quality_notes(summary, marks, titles.values())
    notes += tuple(summary.changes_in_words(("maskbit", *study.networks, *summary.guests)))
    title, hidden = f"Table 1. Quality: {study.title}", ("# Params", "seeds", *seldom)
    return Table(title, columns, cells, notes, pd.DataFrame(records), hidden, tuple(intervals))


def _tokenizer_rfd(summary: Summary, run: str) -> Result:
    """rfd of the tokenizer behind a run's images; of brought images it is not known."""
    if summary.is_guest(run):
        home, _, _ = run.partition(JOINED)
        return summary.of(f"{home}{JOINED}continuous", "rfd", "reconstruct") if home in summary.joined else NOTHING
    return summary.of("discrete" if run == "maskbit" else "continuous", "rfd", "reconstruct")


def _quality_marks(summary: Summary) -> dict[str, str]:
    """Check every column for one ground; return the marks of the guests, and of the tokenizers, that differ.

    A study may name a protocol for each tokenizer: the continuous one's is the standard of that column.
    """
    reconstructed = summary.column("rfd", "reconstruct")
    standard = [r for r in reconstructed if r.run == "continuous"] or reconstructed[:1]
    marks = strangers(reconstructed, standard)
    for metric in (m.name for m in summary.metrics):
        used = summary.column(metric)
        theirs, ours = ([r for r in used if summary.is_guest(r.run) is guest] for guest in (True, False))
        check_same_ground(ours, f"Table 1, column {metric}")
        marks |= strangers(theirs, ours or [r for r in theirs if r.n == summary.study.evaluation.num_images])
    return marks


def _quality_notes(summary: Summary, marks: dict[str, str], headings: Iterable[str]) -> tuple[str, ...]:
    study, gfd = summary.study, summary.distance()
    samplers = {run: study.headline_sampler(run) for run in study.runs}
    others = [f"{label_of(study, r)}: {s}" for r, s in samplers.items() if s != study.report.sampler]
    notes = [
        "Mean ± standard deviation over seeds. Intervals: 95 % jackknife over images, spanning all seeds. Values are "
        "not bias-corrected: a Fréchet distance is biased upwards by O(1/n).",
        f"Sampler: {study.report.sampler}" + (f" ({'; '.join(others)})." if others else "."),
        *_scale_notes(summary),
        *_reconstruction_notes(summary),
    ]
    if not gfd.endswith("FID"):
        other = "other " if any(_is_measured(summary, metric) for metric in summary.metrics if metric.network) else ""
        notes.append(f"All {other}scores use features of {summary.network}; {gfd} is a Fréchet distance, not FID.")
    if brought := [label for run, label in summary.guests.items() if JOINED not in run]:
        notes.append(f"Images from outside the study, scored here: {', '.join(brought)}.")
    notes += [_joined_note(summary, other) for other in summary.joined.values()]
    if any(r.run in marks for r in summary.column("rfd", "reconstruct")):
        notes.append("† in the reconstruction column: another protocol, number of images or reference than "
                     f"{label_of(study, 'continuous')} has; not comparable.")  # fmt: skip
    if any(run in marks for run in (*study.runs, *summary.guests)):
        no_fid = "; not FID" if any("FID" in heading for heading in headings) else ""
        notes.append("† Another protocol, number of images, feature network or reference than the study's rows; "
                     f"not comparable{no_fid}.")  # fmt: skip
    return tuple(notes)


def _scale_notes(summary: Summary) -> list[str]:
    """The guidance scale of each run whose scale a sweep chose."""
    found = [
        f"{label_of(summary.study, run)} {fd.cfg:g}"
        for run in summary.study.networks
        if (run, summary.study.headline_sampler(run)) in summary.sweeps
        and (fd := summary.of(run, "fd")).cfg is not None
    ]
    return [f"Guidance scales chosen by a sweep, on other images: {', '.join(found)}."] if found else []


def _joined_note(summary: Summary, other: Study) -> str:
    """Which rows come from a joined study, with which tokenizer, samplers and reconstruction protocol."""
    labels = ", ".join(run.label for run in other.runs.values())
    samplers = ", ".join(dict.fromkeys(str(other.headline_sampler(run)) for run in other.runs))
    rfd = summary.of(f"{other.study}{JOINED}continuous", "rfd", "reconstruct")
    measured = f", reconstructions under {rfd.protocol}, n = {count(rfd.n)}" if rfd else ""
    return f"From study {other.study} ({other.title}): {labels}; {label_of(other, 'continuous')}{measured}; " + (
        f"{'samplers' if ',' in samplers else 'sampler'} {samplers} of that study."
    )


def _is_measured(summary: Summary, metric: Metric) -> bool:
    return any(summary.column(metric.name))


def _reconstruction_notes(summary: Summary) -> list[str]:
    """Whose the reconstruction column is, over which images, and what the table has no column for: PSNR."""
    study, kinds = summary.study, ("continuous", "discrete")
    rfd, psnr = ([summary.of(kind, metric, "reconstruct") for kind in kinds] for metric in ("rfd", "psnr"))
    grounds = [f"protocol {r.protocol or MISSING}, n = {count(r.n)}" if r else "" for r in rfd]
    theirs = [
        f"{label_of(study, kinds[0])} for every run",
        f"{label_of(study, kinds[1])} for {label_of(study, 'maskbit')}",
    ]
    if grounds[0] != grounds[1]:
        theirs = [f"{who} ({ground})" if ground else who for who, ground in zip(theirs, grounds, strict=True)]
    shared = f"; it has {grounds[0]}, not those of the row" if grounds[0] and grounds[0] == grounds[1] else ""
    notes = [f"The reconstruction column belongs to the tokenizer: {', '.join(theirs)}{shared}."]
    shown = [
        f"{label_of(study, kind)} {number(r.mean)} dB" + (f" {interval(r)}" if r.low is not None else "")
        for kind, r in zip(kinds, psnr, strict=True)
        if r
    ]
    return notes + ([f"PSNR of the same reconstructions, with 95 % interval: {', '.join(shown)}."] if shown else [])


def sweep_table(summary: Summary) -> Table:
    """The distance at every guidance scale that was tried, and which scale the images were drawn with."""
    study, name = summary.study, summary.distance()
    cells, records = [], []
    for (run, sampler), points in summary.sweeps.items():
        best = best_scale(points)
        for point in points:
            marks = ["best"] * (point.cfg == best["cfg"]) + ["not worse"] * (point.cfg in best["not_worse"])
            label = label_of(study, run)
            record = {"run": run, "label": label, "sampler": sampler, "cfg": point.cfg}
            record |= {"fd": point.mean, "low": point.low, "high": point.high, "n": point.n}
            records.append({**record, "chosen": point.cfg == best["cfg"], "changed": summary.changed.get(run)})
            shown = [number(point.mean), interval(point), next(iter(marks), ""), count(point.n)]
            cells.append([label + CHANGED * (run in summary.changed), sampler, f"{point.cfg:g}", *shown])
    columns = ("Method", "Sampler", "CFG", f"{name} ↓", "95 % interval", "choice", "n")
    notes = (
        "Images are drawn and scored with the best scale. The sweep's own images share neither noise nor tokens with "
        f"them, and its smaller n makes {name} larger than in Table 1.",
        "Not worse: the difference from the best, paired over the same noise, is inside its 95 % interval.",
        *_edges(summary),
        *summary.changes_in_words(dict.fromkeys(run for run, _ in summary.sweeps)),
    )
    return Table(f"Guidance scales: {study.title}", columns, cells, notes, pd.DataFrame(records))


def _edges(summary: Summary) -> list[str]:
    """A note on sweeps whose best scale is the smallest or largest."""
    found = [
        f"{label_of(summary.study, run)} ({sampler}) {best['cfg']:g}"
        for (run, sampler), points in summary.sweeps.items()
        if (best := best_scale(points))["at_edge"]
    ]
    return (
        [f"The best scale is the end of its sweep, and a better one may be beyond it: {', '.join(found)}."]
        if found
        else []
    )


# Columns of Table 2: metric, and how its values are printed.
COSTS = {
    "Inference / s/img": ("seconds_per_image", number),
    "Train / min/epoch": ("minutes_per_epoch", number),
    "# Params": ("parameters", si),
    "Train / FLOP/img": ("flops_train", si),
    "Sampling / FLOP/img": ("flops_sample", si),
    "Train / FLOP/s": ("flops_per_second_train", si),
    "Sampling / FLOP/s": ("flops_per_second_sample", si),
    "Train / MFU": ("mfu_train", share),
    "Sampling / MFU": ("mfu_sample", share),
    "Memory / GiB": ("peak_memory_gib", number),
    "Train / GiB": ("peak_memory_train_gib", number),
    "Sampling / GiB": ("peak_memory_sample_gib", number),
    "Tokens / total": ("tokens_total", count),
    "self-attended": ("tokens_self_attention", count),
    "cross-attended": ("tokens_memory", count),
    "class": ("class_tokens", count),
}
NOT_IN_TERMINAL = (
    *("Train / FLOP/s", "Sampling / FLOP/s", "Train / MFU", "Sampling / MFU", "Train / GiB", "Sampling / GiB"),
    *("self-attended", "cross-attended", "class"),
)
COUNTED = ("flops_train", "flops_sample")  # computed, and counted by torch as `…_counted`


def efficiency_table(summary: Summary) -> Table:
    """Table 2: what each run costs. Times taken on another device than most carry a dagger, unsteady ones another mark.

    Raises ValueError if the measurements differ in protocol (batch size).
    """
    study = summary.study
    metrics = [*(metric for metric, _ in COSTS.values()), *(f"{metric}_counted" for metric in COUNTED)]
    by_run = {run: {m: summary.of(run, m, "measure") for m in metrics} for run in study.shown(study.report.table2)}
    protocol = _shared_protocol(result for found in by_run.values() for result in found.values())
    devices = {run: device for run, found in by_run.items() if (device := _device(found.values()))}
    usual = statistics.mode(devices.values()) if devices else MISSING
    cells, intervals, records = [], [], []
    for run, found in by_run.items():
        dagger = "†" if devices.get(run, usual) != usual else ""
        values = [shown(found[m].mean) + ("‡" if _is_unsteady(found[m]) else "") for m, shown in COSTS.values()]
        cells.append([label_of(study, run) + dagger + CHANGED * (run in summary.changed), *values])
        intervals.append(["least and most", *(interval(found[m], none="") for m, _ in COSTS.values())])
        records.append({**_record(study, run, label_of(study, run), found), "changed": summary.changed.get(run)})
    notes = [
        f"Measured on {usual}, {protocol}; FLOPs are computed from the settings{_counter_in_words(by_run.values())}.",
        "FLOP/s and MFU, their share of the card's peak, count the network's own FLOPs: no decoder, no generator.",
        "Seconds per image leave out the generation of the discrete tokens, which guided runs share.",
        *(f"† Measured on {device}." for device in devices.values() if device != usual),
        *summary.changes_in_words(by_run),
    ]
    if any(_is_unsteady(result) for found in by_run.values() for result in found.values()):
        notes.append(f"‡ The repeats spread by more than {100 * STEADY:.0f} % of their median: other work on the "
                     "machine spoiled these times. Run `mixar measure` again while it is idle.")  # fmt: skip
    columns, title = ("Method", *COSTS), f"Table 2. Efficiency: {study.title}"
    return Table(title, columns, cells, tuple(notes), pd.DataFrame(records), NOT_IN_TERMINAL, tuple(intervals))


def _counter_in_words(costs: Iterable[dict[str, Result]]) -> str:
    """By how much torch's counter differs, where it counted."""
    pairs = [(found[metric].mean, found[f"{metric}_counted"].mean) for found in costs for metric in COUNTED]
    off = [abs(counted / computed - 1) for computed, counted in pairs if computed and counted]
    return f", and torch's counter differs by {max(off):.1%} at most" if off else ""


def _shared_protocol(results: Iterable[Result]) -> str:
    """The one protocol of all measurements; its brackets hold what is said of single values."""
    found = sorted({r.protocol for r in results if r.protocol})
    names = {protocol.partition("[")[0] for protocol in found}
    if len(names) > 1:
        raise ValueError(f"Table 2 cannot mix protocols; found {'; '.join(found)}; run `measure` again for every run")
    return next(iter(names), "no protocol")


def _device(results: Iterable[Result]) -> str | None:
    return next((r.device for r in results if r.device), None)


def _is_unsteady(time: Result) -> bool:
    if time.mean is None or time.low is None or time.high is None:
        return False
    return spread(time.mean, time.low, time.high) > STEADY


def _record(study: Study, run: str, label: str, found: dict[str, Result]) -> dict:
    """One row of the CSV: every number in full."""
    record: dict = {"run": run, "label": label, "sampler": study.headline_sampler(run)}
    for metric, r in found.items():
        record |= {metric: r.mean, f"{metric}_sd": r.sd, f"{metric}_low": r.low, f"{metric}_high": r.high}
        record |= {f"{metric}_seeds": len(r.values) or None, f"{metric}_n": r.n, f"{metric}_protocol": r.protocol}
    return record
