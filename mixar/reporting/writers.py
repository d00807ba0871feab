"""A table as Markdown, CSV, LaTeX, HTML and text for a terminal."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator

from tabulate import tabulate

from mixar.reporting.tables import MARKS, Table

TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$",
       "–": "--", "†": r"$\dagger$", "×": r"$\times$", "λ": r"$\lambda$", "~": r"\textasciitilde{}", "é": r"\'e",
       "·": r"$\cdot$", "−": r"$-$", "≈": r"$\approx$", "∞": r"$\infty$", "\\": r"\textbackslash{}", "$": r"\$",
       "‡": r"$\ddagger$", "§": r"\S{}", "{": r"\{", "}": r"\}", "^": r"\textasciicircum{}", "<": r"\textless{}",
       ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}  # fmt: skip
WIDE = 10  # columns from which LaTeX prints a table small, over both columns of a page
SHARED = ("n", "protocol")  # columns that the terminal prints once when all rows agree


def _lines(table: Table) -> Iterator[tuple[list[str], bool]]:
    """Every row with its line of intervals below; True for the latter."""
    for i, row in enumerate(table.cells):
        yield row, False
        if table.intervals:
            yield table.intervals[i], True


def to_markdown(table: Table) -> str:
    escaped = [[c.replace("|", r"\|") for c in row] for row, _ in _lines(table)]
    align = ("left", *["right"] * (len(table.columns) - 1))
    body = tabulate(escaped, table.columns, tablefmt="github", colalign=align, disable_numparse=True)
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"**{table.title}**\n\n{body}\n\n{notes}\n"


def to_csv(table: Table) -> str:
    """The numbers unrounded, not the printed cells."""
    return table.frame.to_csv(index=False)


def to_latex(table: Table) -> str:
    rows = [r"\quad " * below + " & ".join(_tex(c) for c in row) + r" \\" for row, below in _lines(table)]
    title = re.sub(r"^Table \d+\. ", "", table.title)  # LaTeX numbers its tables itself
    wide = len(table.columns) >= WIDE
    environment, small = ("table*", [r"  \scriptsize\setlength{\tabcolsep}{3pt}"]) if wide else ("table", [])
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{{environment}}}",
        r"  \centering",
        f"  \\caption{{{_tex(title)}.}}",
        *small,
        f"  \\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"    \toprule",
        "    " + " & ".join(_tex(c) for c in table.columns) + r" \\",
        r"    \midrule",
        *(f"    {row}" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \begin{flushleft}\scriptsize",
        *(f"    {_tex(note)}\\par" for note in table.notes),
        r"  \end{flushleft}",
        f"\\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """The table and its notes, for the inside of a page."""
    head = "".join(f"<th>{html.escape(_unbroken(c))}</th>" for c in table.columns)
    start = {False: "<tr>", True: "<tr class='interval'>"}
    body = "\n".join(
        start[below] + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row, below in _lines(table)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    caption = f"<caption>{html.escape(table.title)}</caption>"
    made = f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f"{made}\n<ul class='notes'>{notes}</ul>\n"


def _unbroken(title: str) -> str:
    """The title with its arrow or number sign on the line of the word beside it."""
    return re.sub(r" (?=[↓↑])|(?<=#) ", "\u00a0", title)


def to_text(table: Table) -> str:
    """For a terminal of 110 columns: tall headers, wrapped labels; below, what all rows share and what marks mean."""
    same = {
        c: row[0] for c, *row in zip(table.columns, *table.cells, strict=True) if c in SHARED and len(set(row)) == 1
    }
    kept = [i for i, c in enumerate(table.columns) if c not in same and c not in table.not_in_terminal]
    header = [table.columns[i].replace(" / ", "\n").replace("-", "-\n").replace(" ", "\n") for i in kept]
    cells = [[row[i].replace(" ± ", "±") for i in kept] for row, _ in _lines(table)]
    align, widths = ("left", *["right"] * (len(kept) - 1)), [18, *[None] * (len(kept) - 1)]
    body = tabulate(cells, header, "simple", colalign=align, disable_numparse=True, maxcolwidths=widths)
    shared = ["", ", ".join(f"{c}: {value}" for c, value in same.items())] if same else []
    marks = [textwrap.fill(note, 110) for note in table.notes if note.startswith(MARKS)]
    return "\n".join([table.title, "", body, *shared, *([""] if marks else []), *marks])


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)
