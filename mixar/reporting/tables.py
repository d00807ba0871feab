"""Tables 1 and 2, and any table as Markdown, CSV, LaTeX and HTML.

Every cell of ours is computed from result rows; a number that was not measured is a dash. What papers report has tables
of its own (audit.py) and never enters ours.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from mixar.reporting.results import STEADY, label_of, spread
from mixar.reporting.summary import (
    QUALITY,
    Summary,
    distance_name,
    extractor_name,
    further_metrics,
    headline_sampler,
    own_labels,
    rows_of,
    same_ground,
    strangers,
    summarise,
)
from mixar.study.sections import Study

MISSING = "–"
TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$",
       "–": "--", "†": r"$\dagger$", "×": r"$\times$", "λ": r"$\lambda$", "~": r"\textasciitilde{}", "é": r"\'e",
       "·": r"$\cdot$", "−": r"$-$", "≈": r"$\approx$", "∞": r"$\infty$", "\\": r"\textbackslash{}", "$": r"\$",
       "‡": r"$\ddagger$", "§": r"\S{}", "{": r"\{", "}": r"\}", "^": r"\textasciicircum{}", "<": r"\textless{}",
       ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}  # fmt: skip
WIDE = 10  # columns from which LaTeX prints a table small, over both columns of a page
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# Further columns of Table 1, after the distance's name; any other metric stands there under its own.
TITLES = {"fd_infinity": "{gfd}∞ ↓", "fd_dinov2": "FD-DINOv2 ↓", "sfid": "sFID ↓",
          "precision_vgg": "Precision (VGG) ↑", "recall_vgg": "Recall (VGG) ↑"}  # fmt: skip
SHARES = ("precision", "recall", "precision_vgg", "recall_vgg")  # printed with two decimals
OF_OTHER_NETWORKS = ("fd_dinov2", "sfid", "precision_vgg", "recall_vgg")  # than the study's own feature network
SHARED = ("n", "protocol")  # columns that the terminal prints once when all rows agree


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

    def _lines(self) -> Iterator[tuple[list[str], bool]]:
        """Every row with its line of intervals below; True for the latter."""
        for i, row in enumerate(self.cells):
            yield row, False
            if self.intervals:
                yield self.intervals[i], True

    def markdown(self) -> str:
        escaped = [[c.replace("|", r"\|") for c in row] for row, _ in self._lines()]
        align = ("left", *["right"] * (len(self.columns) - 1))
        body = tabulate(escaped, self.columns, tablefmt="github", colalign=align, disable_numparse=True)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.title}**\n\n{body}\n\n{notes}\n"

    def csv(self) -> str:
        return self.frame.to_csv(index=False)

    def latex(self) -> str:
        rows = [r"\quad " * below + " & ".join(_tex(c) for c in row) + r" \\" for row, below in self._lines()]
        title = re.sub(r"^Table \d+\. ", "", self.title)  # LaTeX numbers its tables itself
        wide = len(self.columns) >= WIDE
        environment, small = ("table*", [r"  \scriptsize\setlength{\tabcolsep}{3pt}"]) if wide else ("table", [])
        lines = [
            "% needs \\usepackage{booktabs}",
            f"\\begin{{{environment}}}",
            r"  \centering",
            f"  \\caption{{{_tex(title)}.}}",
            *small,
            f"  \\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            r"    \toprule",
            "    " + " & ".join(_tex(c) for c in self.columns) + r" \\",
            r"    \midrule",
            *(f"    {row}" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"  \begin{flushleft}\scriptsize",
            *(f"    {_tex(note)}\\par" for note in self.notes),
            r"  \end{flushleft}",
            f"\\end{{{environment}}}",
        ]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """The table and its notes, to stand inside a page."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in self.columns)
        start = {False: "<tr>", True: "<tr class='interval'>"}
        body = "\n".join(
            start[below] + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row, below in self._lines()
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        caption = f"<caption>{html.escape(self.title)}</caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
        return f"{table}\n<ul class='notes'>{notes}</ul>\n"

    def text(self) -> str:
        """For a terminal of 110 columns: tall headers, wrapped labels, what all rows share in a line below."""
        same = {
            c: row[0] for c, *row in zip(self.columns, *self.cells, strict=True) if c in SHARED and len(set(row)) == 1
        }
        kept = [i for i, c in enumerate(self.columns) if c not in same and c not in self.not_in_terminal]
        header = [self.columns[i].replace(" / ", "\n").replace("-", "-\n").replace(" ", "\n") for i in kept]
        cells = [[row[i].replace(" ± ", "±") for i in kept] for row, _ in self._lines()]
        align, widths = ("left", *["right"] * (len(kept) - 1)), [18, *[None] * (len(kept) - 1)]
        body = tabulate(cells, header, "simple", colalign=align, disable_numparse=True, maxcolwidths=widths)
        shared = ["", ", ".join(f"{c}: {value}" for c, value in same.items())] if same else []
        return "\n".join([self.title, "", body, *shared])


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def quality_table(study: Study, rows: pd.DataFrame, marked: bool = False) -> Table:
    """Table 1: quality of MaskBit's own images and of every run, means over seeds ± their standard deviation.

    Every further metric that the rows hold has a column after Recall (not in the terminal).
    Below them stand images that somebody brought (`mixar score PATH`), with a dagger where they differ in protocol,
    number of images, features or reference.
    Raises ValueError if the study's own rows of a column differ in one of these; with `marked` they carry a dagger too.
    """
    rows = rows_of(study, rows)
    brought = {run: label for run, label in own_labels(rows).items() if run not in study.runs}
    runs = ["maskbit", *study.runs, *brought]
    further = further_metrics(rows)
    metrics = (*QUALITY, *further)
    marks = _quality_marks(study, rows, metrics, list(brought), marked)
    gfd, rfd = distance_name(study, rows), distance_name(study, rows, "reconstruct")
    titles = tuple(TITLES.get(metric, metric).format(gfd=gfd) for metric in further)
    columns = ("Method", f"{rfd} ↓", "# Params", f"{gfd} ↓", "IS ↑", "KID ↓", "Precision ↑", "Recall ↑", *titles,
               "seeds", "n", "protocol")  # fmt: skip
    cells, intervals, records = [], [], []
    for run in runs:
        found = {metric: summarise(study, rows, run, metric) for metric in metrics}
        own = _tokenizer_rfd(study, rows, run)
        parameters = summarise(study, rows, run, "parameters", "measure")
        fd = found["fd"]
        scores = [with_spread(found[m], 2 if m in SHARES else None) for m in metrics]
        around = [str(len(fd.values) or MISSING), _count(fd.n), fd.protocol or MISSING]
        label = brought.get(run) or label_of(study, run)
        cells.append([label + marks.get(run, ""), number(own.mean), si(parameters.mean), *scores, *around])
        reaches = [interval(found[m], 2 if m in SHARES else None, "") for m in metrics]
        intervals.append(["95 % interval", interval(own, none=""), "", *reaches, "", "", ""])
        records.append(_record(study, run, label, {"rfd": own, "parameters": parameters, **found}))
    notes = _quality_notes(study, rows, marks, list(brought.values()))
    frame = pd.DataFrame(records)
    hidden = ("# Params", "seeds", *titles)
    return Table(f"Table 1. Quality: {study.title}", columns, cells, notes, frame, hidden, tuple(intervals))


def _tokenizer_rfd(study: Study, rows: pd.DataFrame, run: str) -> Summary:
    """rfd of the tokenizer behind a run's images; of brought images it is not known."""
    if run not in ("maskbit", *study.runs):
        return Summary()
    return summarise(study, rows, "discrete" if run == "maskbit" else "continuous", "rfd", "reconstruct")


def _quality_marks(
    study: Study, rows: pd.DataFrame, metrics: Iterable[str], brought: list[str], marked: bool
) -> dict[str, str]:
    """Every column checked for one ground; the marks of the runs that differ."""
    marks: dict[str, str] = {}
    for metric, source in [*((m, "sample") for m in metrics), ("rfd", "reconstruct")]:
        used = rows[(rows["metric"] == metric) & (rows["source"] == source)]
        sampler = used["run"].map(lambda run: headline_sampler(study, run))
        used = used[used["sampler"].isna() | sampler.isna() | (used["sampler"] == sampler)]
        is_brought = used["run"].isin(brought)
        theirs, ours = used[is_brought], used[~is_brought]
        marks |= same_ground(ours, f"Table 1, column {metric}", marked) if len(ours) else {}
        marks |= strangers(theirs, ours if len(ours) else theirs[theirs["n"] == study.evaluation.num_images])
    return {run: mark for run, mark in marks.items() if run in ("maskbit", *study.runs, *brought)}


def _quality_notes(study: Study, rows: pd.DataFrame, marks: dict, brought: list[str]) -> tuple[str, ...]:
    gfd = distance_name(study, rows)
    samplers = {run: headline_sampler(study, run) for run in study.runs}
    others = [f"{label_of(study, r)}: {s}" for r, s in samplers.items() if s != study.report.sampler]
    notes = [
        "Mean ± standard deviation over seeds. The interval spans the 95 % jackknife intervals of all seeds: how far "
        "other images would move a score of so many. (A Fréchet distance of more images is lower.)",
        f"Sampler: {study.report.sampler}" + (f" ({'; '.join(others)})." if others else "."),
        *_reconstruction_notes(study, rows),
    ]
    if not gfd.endswith("FID"):
        network = extractor_name(study, rows)
        other = any(metric in rows["metric"].values for metric in OF_OTHER_NETWORKS)
        notes.append(f"All {'other ' if other else ''}scores use features of {network}; {gfd} is a Fréchet distance, "
                     "but no FID.")  # fmt: skip
    if brought:
        notes.append(f"Brought from outside the study and scored here: {', '.join(brought)}.")
    if marks:
        notes.append("† Another protocol, number of images, feature network or reference than the study's rows; "
                     "not comparable.")  # fmt: skip
    return tuple(notes)


def _reconstruction_notes(study: Study, rows: pd.DataFrame) -> list[str]:
    """Whose the reconstruction column is, over which images, and what the table has no column for: PSNR."""
    kinds = ("continuous", "discrete")
    rfd, psnr = ([summarise(study, rows, k, m, "reconstruct") for k in kinds] for m in ("rfd", "psnr"))
    grounds = dict.fromkeys(f"protocol {s.protocol or MISSING}, n = {_count(s.n)}" for s in rfd if s)
    notes = [
        f"The reconstruction column belongs to the tokenizer: {label_of(study, kinds[0])} for every run, "
        f"{label_of(study, kinds[1])} for MaskBit's own images"
        + (f"; it has {' and '.join(grounds)}, not those of the row." if grounds else ".")
    ]
    shown = [
        f"{label_of(study, kind)} {number(s.mean)} dB" + (f" {interval(s)}" if s.low is not None else "")
        for kind, s in zip(kinds, psnr, strict=True)
        if s
    ]
    return notes + ([f"PSNR of the same reconstructions, with 95 % interval: {', '.join(shown)}."] if shown else [])


def efficiency_table(study: Study, rows: pd.DataFrame) -> Table:
    """Table 2: what each run costs. Times taken on another device than most carry a dagger, unsteady ones another mark.

    Raises ValueError if the measurements differ in protocol (batch size).
    """
    rows = rows_of(study, rows)
    runs = study.shown(study.report.table2)
    measured = rows[(rows["source"] == "measure") & rows["run"].isin(runs)]
    protocols = measured["protocol"].str.partition("[")[0]  # brackets hold what is said of single values
    if protocols.nunique() > 1:
        found = "; ".join(sorted(set(protocols.dropna())))
        raise ValueError(f"Table 2 cannot mix protocols; found {found}; run `measure` again for every run")
    columns = ("Method", "Inference / s/img", "Train / min/epoch", "# Params", "Train / FLOP/img",
               "Sampling / FLOP/img", "Memory / GiB", "Tokens / total", "self-attended", "cross-attended",
               "class")  # fmt: skip
    metrics = ("seconds_per_image", "minutes_per_epoch", "parameters", "flops_train", "flops_sample",
               "peak_memory_gib", "tokens_total", "tokens_self_attention", "tokens_memory", "class_tokens")  # fmt: skip
    shown = (number, number, si, si, si, number, _count, _count, _count, _count)
    devices = measured.groupby("run", sort=False)["device"].first()
    usual = devices.mode().iloc[0] if len(devices) else MISSING
    cells, intervals, records, unsteady = [], [], [], False
    for run in runs:
        found = {m: summarise(study, rows, run, m, "measure") for m in metrics}
        marks = ["‡" if _is_unsteady(found[m]) else "" for m in metrics]
        unsteady = unsteady or any(marks)
        intervals.append(["least and most", *(interval(found[m], none="") for m in metrics)])
        mark = "†" if run in devices and devices[run] != usual else ""
        values = (f(found[m].mean) + spoiled for f, m, spoiled in zip(shown, metrics, marks, strict=True))
        cells.append([label_of(study, run) + mark, *values])
        records.append(_record(study, run, label_of(study, run), found))
    notes = [f"Measured on {usual}, {_first(protocols)}; FLOPs are computed from the settings."]
    notes.append("Seconds per image leave out MaskBit's generation of the discrete tokens, which guided runs share.")
    notes += [f"† Measured on {devices[r]}." for r in runs if r in devices and devices[r] != usual]
    if unsteady:
        notes.append(f"‡ The repeats spread by more than {STEADY:.0%} of their median: other work on the machine "
                     "spoiled these times. Run `mixar measure` again while it is idle.")  # fmt: skip
    frame = pd.DataFrame(records)
    title = f"Table 2. Efficiency: {study.title}"
    return Table(title, columns, cells, tuple(notes), frame, columns[-3:], tuple(intervals))


def _is_unsteady(time: Summary) -> bool:
    return time.low is not None and spread(time.mean, time.low, time.high) > STEADY


def number(value: float | None) -> str:
    """About four significant digits, without exponents down to 0.0001."""
    if value is None:
        return MISSING
    return f"{value:,.{decimals(value)}f}" if value == 0 or abs(value) >= 1e-4 else f"{value:.2g}"


def decimals(value: float) -> int:
    """Decimals that suit a number's size."""
    return next((d for limit, d in ((1000, 0), (100, 1), (1, 2), (0.1, 3), (0.01, 4)) if abs(value) >= limit), 5)


def with_spread(summary: Summary, places: int | None = None) -> str:
    """Mean ± standard deviation over seeds; the mean alone for one seed."""
    if not summary:
        return MISSING
    places = decimals(summary.mean) if places is None else places
    spread = "" if summary.sd is None else f" ± {summary.sd:,.{places}f}"
    return f"{summary.mean:,.{places}f}{spread}"


def interval(summary: Summary, places: int | None = None, none: str = MISSING) -> str:
    """[low, high] with so many decimals, by default what suits each; `none` where there is no interval."""
    if summary.low is None:
        return none
    low, high = (number(v) if places is None else f"{v:,.{places}f}" for v in (summary.low, summary.high))
    return f"[{low}, {high}]"


def si(value: float | None) -> str:
    """1453000000 as 1.45 G."""
    if value is None:
        return MISSING
    size, letter = next((p for p in PREFIXES if value >= p[0]), (1, ""))
    scaled = value / size
    return f"{scaled:.{2 if scaled < 10 and size > 1 else int(scaled < 100 and size > 1)}f} {letter}".strip()


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{int(value):,}"


def _first(values: Iterable) -> str:
    return next((v for v in values if isinstance(v, str)), "no protocol")


def _record(study: Study, run: str, label: str, found: dict[str, Summary]) -> dict:
    """One row of the CSV: every number in full."""
    record: dict = {"run": run, "label": label, "sampler": headline_sampler(study, run)}
    for metric, s in found.items():
        record |= {metric: s.mean, f"{metric}_sd": s.sd, f"{metric}_low": s.low, f"{metric}_high": s.high}
        record |= {f"{metric}_seeds": len(s.values) or None, f"{metric}_n": s.n, f"{metric}_protocol": s.protocol}
    return record
