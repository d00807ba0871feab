"""Quality against the cost of drawing: points, comparison with the reference sampler, frontier."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from toy_rows import all_rows, reported_study, score_rows, summary_of

from mixar.reporting.results import make_rows
from mixar.reporting.tradeoff import frontier, tradeoff_data, tradeoff_figure, tradeoff_table
from mixar.study.layout import Layout
from mixar.study.load import parse_study

FAST = {"short": (0.004, 8.0e8, 214.0), "worse": (0.002, 4.0e8, 300.0), "slower": (0.02, 4.0e9, 150.0)}


def study_of():
    content = reported_study().model_dump(mode="json")
    content["samplers"] |= {name: content["samplers"]["default"] | {"head_steps": 5} for name in FAST}
    content["runs"]["mar"]["samplers"] = ["default", *FAST]
    return parse_study(content)


def summary():
    study = study_of()
    rows = [row for row in all_rows(study) if not (row["source"] == "measure" and row["sampler"] in FAST)]
    for name, (seconds, flops, fd) in FAST.items():
        costs = [{"metric": "seconds_per_image", "value": seconds}, {"metric": "flops_sample", "value": flops}]
        rows += make_rows(study, "mar", source="measure", sampler=name, values=costs, protocol="batch 64")
        rows += [row for seed in (0, 1) for row in score_rows(study, "mar", seed, fd, sampler=name)]
    return summary_of(study, rows)


def test_each_sampler_is_compared_with_its_runs_reference():
    points = tradeoff_data(summary()).set_index(["run", "sampler"])

    mar = points.loc["mar"]
    assert mar.loc["default", ["faster", "fewer_flops", "change"]].tolist() == [1, 1, 0]
    assert mar.loc["short", "faster"] == pytest.approx(0.0121 / 0.004) and mar.loc["short", "fewer_flops"] == 3
    assert mar.loc["short", "change"] == pytest.approx(0.5) and mar.loc["worse", "change"] == pytest.approx(86.5)
    assert mar["inside"].to_dict() == {"default": True, "short": True, "worse": False, "slower": False}
    assert points.loc[("dc_mix", "default"), "is_reference"]


def test_other_samplers_leave_the_main_tables_alone():
    found = summary()

    assert found.of("mar", "fd").mean == 213.5 and found.of("mar", "seconds_per_image", "measure").mean == 0.0121


def test_the_frontier_has_what_nothing_beats_in_both():
    points = pd.DataFrame({"seconds": [1.0, 2.0, 2.0, 3.0, 4.0, None], "fd": [9.0, 7.0, 8.0, 7.0, 5.0, 1.0]})

    assert frontier(points, "seconds").index.tolist() == [0, 1, 4]


def test_the_table_says_what_is_inside_the_references_interval():
    table = tradeoff_table(summary())
    by_sampler = {row[1]: row for row in table.cells if row[0] == "MAR"}

    assert [by_sampler[name][9] for name in ("default", *FAST)] == ["reference", "inside", "worse", "better"]
    assert by_sampler["short"][5] == "3.02 ×" and by_sampler["short"][8].startswith("+0.5 ± ")


def test_what_is_inside_the_references_interval_may_still_be_surely_worse():
    study = study_of()
    rows = [row for sampler, fd in (("default", 210.0), ("short", 214.0)) for row in drawn(study, sampler, fd)]

    cells = {row[1]: row[9] for row in tradeoff_table(summary_of(study, rows)).cells}

    assert cells == {"default": "reference", "short": "inside, but worse"}


def drawn(study, sampler, fd):
    """Rows of one seed whose replicates differ from those of other samplers by a constant."""
    rows = score_rows(study, "mar", 0, fd, sampler=sampler)
    return [row | {"replicates": [fd - 2, fd, fd + 2]} if row["metric"] == "fd" else row for row in rows]


def test_the_figure_draws_every_sampler_against_both_costs_and_the_frontier():
    figure = tradeoff_figure(summary())
    points = tradeoff_data(summary())

    for axes, cost in zip(figure.axes, ("seconds", "flops"), strict=True):
        drawn = {(*container[0].get_xydata()[0],) for container in axes.containers}
        assert drawn == {(p[cost], p["fd"]) for p in points.to_dict("records")}
        figure.canvas.draw()
        shown = [tick.get_text() for tick in axes.get_xticklabels(which="both")]
        assert shown and not any("$" in text for text in shown)
        steps = next(line for line in axes.lines if line.get_linestyle() == "--")
        assert steps.get_xydata().tolist() == frontier(points, cost)[[cost, "fd"]].to_numpy().tolist()
    plt.close(figure)


def test_the_report_has_it_only_with_more_than_one_sampler():
    assert {"tradeoff.png", "samplers.csv"} <= Layout(study_of()).report_files().keys()
    assert not {"tradeoff.png", "samplers.csv"} & Layout(reported_study()).report_files().keys()
