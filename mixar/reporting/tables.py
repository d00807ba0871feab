"""Tables 1 and 2 and the paper's own numbers, each as Markdown, CSV, LaTeX and HTML.

Every cell of ours is computed from result rows; a number that was not measured is a dash. What the paper reports comes
from the literature file alone and never enters our tables.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from mixar.reporting.results import OTHERS
from mixar.reporting.summary import (
    QUALITY,
    Summary,
    distance_name,
    extractor_name,
    headline_sampler,
    rows_of,
    same_ground,
    summarise,
)
from mixar.spec import Study

MISSING = "–"
TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$",
       "–": "--", "†": r"$\dagger$", "×": r"$\times$", "λ": r"$\lambda$", "~": r"\textasciitilde{}", "é": r"\'e",
       "·": r"$\cdot$", "−": r"$-$", "≈": r"$\approx$", "\\": r"\textbackslash{}", "$": r"\$"}  # fmt: skip
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
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

    def markdown(self) -> str:
        escaped = [[c.replace("|", r"\|") for c in row] for row in self.cells]
        align = ("left", *["right"] * (len(self.columns) - 1))
        body = tabulate(escaped, self.columns, tablefmt="github", colalign=align, disable_numparse=True)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.title}**\n\n{body}\n\n{notes}\n"

    def csv(self) -> str:
        return self.frame.to_csv(index=False)

    def latex(self) -> str:
        rows = [" & ".join(_tex(c) for c in row) + r" \\" for row in self.cells]
        lines = [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_tex(self.title)}. {_tex(' '.join(self.notes))}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            r"    \toprule",
            "    " + " & ".join(_tex(c) for c in self.columns) + r" \\",
            r"    \midrule",
            *(f"    {row}" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in self.columns)
        body = "\n".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in self.cells)
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
        cells = [[row[i].replace(" ± ", "±") for i in kept] for row in self.cells]
        align, widths = ("left", *["right"] * (len(kept) - 1)), [18, *[None] * (len(kept) - 1)]
        body = tabulate(cells, header, "simple", colalign=align, disable_numparse=True, maxcolwidths=widths)
        shared = ["", ", ".join(f"{c}: {value}" for c, value in same.items())] if same else []
        return "\n".join([self.title, "", body, *shared])

    def formats(self) -> dict[str, str]:
        """The table by file ending."""
        return {"md": self.markdown(), "csv": self.csv(), "tex": self.latex(), "html": self.html()}


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def quality_table(study: Study, rows: pd.DataFrame, marked: bool = False) -> Table:
    """Table 1: quality of MaskBit's own images and of every run, means over seeds ± their standard deviation.

    Raises ValueError if a column would mix protocols, numbers of images or feature networks; with `marked` the rows
    that differ carry a dagger instead.
    """
    rows = rows_of(study, rows)
    runs = ["maskbit", *study.runs]
    marks = _quality_marks(study, rows, runs, marked)
    gfd, rfd = distance_name(study, rows), distance_name(study, rows, "reconstruct")
    columns = ("Method", f"{rfd} ↓", "# Params", f"{gfd} ↓", "95 % interval", "IS ↑", "KID ↓", "Precision ↑",
               "Recall ↑", "seeds", "n", "protocol")  # fmt: skip
    cells, records = [], []
    for run in runs:
        found = {metric: summarise(study, rows, run, metric) for metric in QUALITY}
        own = summarise(study, rows, "discrete" if run == "maskbit" else "continuous", "rfd", "reconstruct")
        parameters = summarise(study, rows, run, "parameters", "measure")
        fd = found["fd"]
        scores = [with_spread(found[m], 2 if m in ("precision", "recall") else None) for m in QUALITY[1:]]
        around = [str(len(fd.values) or MISSING), _count(fd.n), fd.protocol or MISSING]
        label = _label(study, run) + marks.get(run, "")
        cells.append([label, number(own.mean), si(parameters.mean), with_spread(fd), interval(fd), *scores, *around])
        records.append(_record(study, run, {"rfd": own, "parameters": parameters, **found}))
    notes = _quality_notes(study, rows, runs, marks)
    frame = pd.DataFrame(records)
    return Table(f"Table 1. Quality: {study.title}", columns, cells, notes, frame, ("# Params", "seeds"))


def _quality_marks(study: Study, rows: pd.DataFrame, runs: list[str], marked: bool) -> dict[str, str]:
    """Every column checked for one ground; the marks of the runs that differ."""
    marks: dict[str, str] = {}
    for metric, source in [*((m, "sample") for m in QUALITY), ("rfd", "reconstruct")]:
        used = rows[(rows["metric"] == metric) & (rows["source"] == source)]
        sampler = used["run"].map(lambda run: headline_sampler(study, run))
        used = used[used["sampler"].isna() | sampler.isna() | (used["sampler"] == sampler)]
        marks |= same_ground(used, f"Table 1, column {metric}", marked) if len(used) else {}
    return {run: mark for run, mark in marks.items() if run in runs}


def _quality_notes(study: Study, rows: pd.DataFrame, runs: list[str], marks: dict) -> tuple[str, ...]:
    gfd = distance_name(study, rows)
    samplers = {run: headline_sampler(study, run) for run in study.runs}
    others = [f"{_label(study, r)}: {s}" for r, s in samplers.items() if s != study.report.sampler]
    notes = [
        "Mean ± standard deviation over seeds; the interval spans the 95 % jackknife intervals of all seeds.",
        f"Sampler: {study.report.sampler}" + (f" ({'; '.join(others)})." if others else "."),
        "The reconstruction column belongs to the tokenizer: VA-VAE for every run, MaskBit's own for its images.",
    ]
    if not gfd.endswith("FID"):
        network = extractor_name(study, rows)
        notes.append(f"All scores use features of {network}; {gfd} is a Fréchet distance, but no FID.")
    if marks:
        notes.append("† Another protocol, number of images or feature network than the other rows; not comparable.")
    return tuple(notes)


def efficiency_table(study: Study, rows: pd.DataFrame) -> Table:
    """Table 2: what each run costs. Times taken on another device than most carry a dagger.

    Raises ValueError if the measurements differ in protocol (batch size).
    """
    rows = rows_of(study, rows)
    runs = list(study.report.table2 or study.runs)
    measured = rows[(rows["source"] == "measure") & rows["run"].isin(runs)]
    if measured["protocol"].nunique() > 1:
        found = "; ".join(sorted(set(measured["protocol"].dropna())))
        raise ValueError(f"Table 2 cannot mix protocols; found {found}; run `measure` again for every run")
    columns = ("Method", "Inference / s/img", "Train / min/epoch", "# Params", "Train / FLOP/img",
               "Sampling / FLOP/img", "Memory / GiB", "Tokens / total", "self-attended", "cross-attended",
               "class")  # fmt: skip
    metrics = ("seconds_per_image", "minutes_per_epoch", "parameters", "flops_train", "flops_sample",
               "peak_memory_gib", "tokens_total", "tokens_self_attention", "tokens_memory", "class_tokens")  # fmt: skip
    shown = (number, number, si, si, si, number, _count, _count, _count, _count)
    devices = measured.groupby("run", sort=False)["device"].first()
    usual = devices.mode().iloc[0] if len(devices) else MISSING
    cells, records = [], []
    for run in runs:
        found = {m: summarise(study, rows, run, m, "measure") for m in metrics}
        mark = "†" if run in devices and devices[run] != usual else ""
        cells.append([_label(study, run) + mark, *(f(found[m].mean) for f, m in zip(shown, metrics, strict=True))])
        records.append(_record(study, run, found))
    notes = [f"Measured on {usual}, {_first(measured['protocol'])}; FLOPs are computed from the settings."]
    notes.append("Seconds per image leave out MaskBit's generation of the discrete tokens, which guided runs share.")
    notes += [f"† Measured on {devices[r]}." for r in runs if r in devices and devices[r] != usual]
    frame = pd.DataFrame(records)
    return Table(f"Table 2. Efficiency: {study.title}", columns, cells, tuple(notes), frame, columns[-3:])


def literature_tables(literature: dict) -> list[Table]:
    """The paper's Tables 1 and 2 as it prints them, with what the sources say. Never joined with our own rows."""
    return [_literature_table(literature, name) for name in ("table1", "table2")]


def _literature_table(literature: dict, name: str) -> Table:
    part = literature[name]
    metrics, rows = part["columns"], part["rows"]
    cells, records = [], []
    for row in rows:
        printed = row["printed"]
        said = row.get("source", {})
        words = "; ".join(f"{metrics[m].rstrip(' ↓↑')} {s['value']} ({s['source']})" for m, s in said.items())
        shown = [MISSING if printed.get(m) is None else str(printed[m]) for m in metrics]
        cells.append([row["method"], *shown, *([words or MISSING, row["remark"]] if "remark" in row else [])])
        for m in metrics:
            record = {
                "method": row["method"],
                "metric": m,
                "printed": printed.get(m),
                "protocol": row["protocol"].get(m),
            }
            records.append(record | {f"source_{key}": value for key, value in said.get(m, {}).items()})
    cited = {s["source"] for row in rows for s in row.get("source", {}).values()}
    notes = [*part["notes"], *(f"{key}: {text}." for key, text in literature["sources"].items() if key in cited)]
    columns = ("Method", *metrics.values(), *(("sources say", "remark") if cited else ()))
    return Table(part["title"], columns, cells, tuple(notes), pd.DataFrame(records))


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


def interval(summary: Summary) -> str:
    return MISSING if summary.low is None else f"[{number(summary.low)}, {number(summary.high)}]"


def si(value: float | None) -> str:
    """1453000000 as 1.45 G."""
    if value is None:
        return MISSING
    size, letter = next((p for p in PREFIXES if value >= p[0]), (1, ""))
    scaled = value / size
    return f"{scaled:.{2 if scaled < 10 and size > 1 else int(scaled < 100 and size > 1)}f} {letter}".strip()


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{int(value):,}"


def _label(study: Study, run: str) -> str:
    return study.runs[run].label if run in study.runs else OTHERS[run]


def _first(values: Iterable) -> str:
    return next((v for v in values if isinstance(v, str)), "no protocol")


def _record(study: Study, run: str, found: dict[str, Summary]) -> dict:
    """One row of the CSV: every number in full."""
    record: dict = {"run": run, "label": _label(study, run), "sampler": headline_sampler(study, run)}
    for metric, s in found.items():
        record |= {metric: s.mean, f"{metric}_sd": s.sd, f"{metric}_low": s.low, f"{metric}_high": s.high}
        record |= {f"{metric}_seeds": len(s.values) or None, f"{metric}_n": s.n, f"{metric}_protocol": s.protocol}
    return record
