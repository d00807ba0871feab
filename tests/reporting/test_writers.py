"""Writers: every format holds every row, escapes what its reader would take for markup, and fits its page."""

import csv
import io

import pandas as pd
from toy_rows import (
    all_rows,
    reconstruction_rows,
    reported_study,
    score_rows,
    summary_of,
)

from mixar.reporting.tables import Table, efficiency_table, quality_table
from mixar.reporting.writers import to_csv, to_html, to_latex, to_markdown, to_text


def test_latex_leaves_the_number_of_a_table_to_latex():
    study = reported_study()
    table = quality_table(summary_of(study, all_rows(study)))

    assert table.title.startswith("Table 1. Quality")
    assert r"\caption{Quality: " in to_latex(table)


def test_every_format_holds_every_row():
    study = reported_study()
    tables = [make(summary_of(study, all_rows(study))) for make in (quality_table, efficiency_table)]

    for table in tables:
        labels, tex = [row[0] for row in table.cells], to_latex(table)
        assert all(label in to_markdown(table) and label in tex for label in labels)
        assert [r["label"] for r in csv.DictReader(io.StringIO(to_csv(table)))] == labels
        assert to_html(table).count("<tr>") == len(labels) + 1
        assert "†" not in tex and "±" not in tex and "\\toprule" in tex
        assert max(map(len, to_text(table).splitlines())) <= 110


def test_csv_holds_the_numbers_unrounded():
    study = reported_study()
    rows = score_rows(study, "mar", 0, 200.123456789) + reconstruction_rows(study, "continuous")

    content = csv.DictReader(io.StringIO(to_csv(quality_table(summary_of(study, rows)))))

    assert next(float(r["fd"]) for r in content if r["run"] == "mar") == 200.123456789


def test_a_heading_of_a_page_keeps_its_arrow_on_the_line():
    study = reported_study()

    page = to_html(quality_table(summary_of(study, all_rows(study))))

    assert "Precision\u00a0↑" in page and "#\u00a0Params" in page and " ↑</th>" not in page


def table(**changes):
    content = {
        "title": "Table 3. Some & other",
        "columns": ("Method", "n", "protocol"),
        "cells": [["a|b_c", "9", "toy"], ["100 % <b>", "9", "other"]],
        "notes": ("† a mark", "no mark"),
        "frame": pd.DataFrame({"label": ["a", "b"], "value": [0.1, 1 / 3]}),
    }
    return Table(**content | changes)


def test_what_a_format_takes_for_markup_is_escaped():
    assert r"a\|b_c" in to_markdown(table())
    tex = to_latex(table())
    assert r"a\textbar{}b\_c & 9 & toy \\" in tex and r"100 \% \textless{}b\textgreater{}" in tex
    assert r"\caption{Some \& other.}" in tex and r"$\dagger$ a mark\par" in tex
    page = to_html(table())
    assert "100 % &lt;b&gt;" in page and "<b>" not in page and "Some &amp; other" in page


def test_intervals_are_lines_below_their_rows():
    below = table(intervals=(["95 % interval", "", "x"], ["95 % interval", "", "y"]))

    assert to_html(below).count("<tr class='interval'>") == 2
    lines = [line for line in to_latex(below).splitlines() if line.endswith(r"\\")]
    assert [line.startswith(r"    \quad ") for line in lines] == [False, False, True, False, True]


def test_latex_prints_wide_tables_over_both_columns_of_a_page():
    wide = table(columns=tuple("abcdefghij"), cells=[["1"] * 10])

    assert r"\begin{table*}" in to_latex(wide) and r"\begin{tabular}{lrrrrrrrrr}" in to_latex(wide)
    assert r"\begin{table}" in to_latex(table())


def test_the_terminal_says_once_what_all_rows_share_and_leaves_out_what_does_not_fit():
    text = to_text(table(not_in_terminal=("protocol",)))

    assert text.count("9") == 1 and "n: 9" in text and "toy" not in text
    assert text.splitlines()[0] == "Table 3. Some & other" and text.endswith("† a mark")
    assert "other" in to_text(table()).partition("\n")[2]  # rows that differ keep their column


def test_csv_gives_floats_back_bit_for_bit():
    found = csv.DictReader(io.StringIO(to_csv(table())))

    assert [float(row["value"]) for row in found] == [0.1, 1 / 3]
