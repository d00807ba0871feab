"""Figures: what is plotted, that nothing overlaps, and that pixels stay as they are."""

import os
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.text import Annotation, Text
from PIL import Image
from toy_rows import FD, all_rows, loss_curve, reported_study, summary_of

from mixar.reporting import figures
from mixar.reporting.summary import Summary

TOY = {"runs": {"toy": {"label": "Invented strategy", "model": "s", "guidance": {"strategy": "somewhere:Toy"}}}}


def summary(study, fd=FD) -> Summary:
    return summary_of(study, all_rows(study, fd))


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_the_balance_plot_shows_every_run_that_continues_no_other_with_its_tokens_and_parameters():
    study = reported_study(**TOY)

    points = figures.balance_data(summary(study, {**FD, "toy": {0: 99.0}})).set_index("run")

    assert list(points.index) == ["mar", "dc_mix", "dc_sa", "dc_ca", "toy"]
    assert (points.loc["toy", "label"], points.loc["toy", "fd"]) == ("Invented strategy", 99.0)
    assert points.loc["dc_ca", "tokens"] == 40
    assert (points.loc["mar", "low"], points.loc["mar", "high"]) == (200.0, 227.0)  # the intervals of both seeds
    assert (points.loc["dc_sa", "low"], points.loc["dc_sa", "high"]) == (150.0, 166.0)  # the interval


def test_labels_of_the_balance_plot_do_not_overlap_even_for_equal_scores():
    study = reported_study(report={"figure7": list(reported_study().runs)})
    same = {run: {0: 160.0} for run in study.runs}

    figure = figures.figure7(summary(study, same))
    figure.canvas.draw()
    labels = [t for t in figure.axes[0].get_children() if isinstance(t, Annotation)]
    boxes = [Text.get_window_extent(label) for label in labels]  # without the lines to the markers

    assert len(boxes) == len(study.runs)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_marker_areas_grow_with_parameters():
    study = reported_study()
    drawn_from = summary(study)

    drawn = figures.figure7(drawn_from).axes[0].collections
    sizes = [c.get_sizes()[0] for c in drawn if isinstance(c, PathCollection)]
    parameters = figures.balance_data(drawn_from)["parameters"]

    assert np.allclose(np.array(sizes) / max(sizes), parameters / parameters.max())


def test_the_balance_plot_shows_seconds_beside_tokens_and_every_seed_as_a_dot():
    study = reported_study()
    rows = all_rows(study, FD)
    slow = {"dc_sa": 0.5, "mar": 0.25}
    for row in rows:
        if row["metric"] == "seconds_per_image":
            row["value"] = slow.get(row["run"], 1.0)

    drawn_from = summary_of(study, rows)
    tokens, seconds = figures.figure7(drawn_from).axes

    assert figures.balance_data(drawn_from).set_index("run").loc["dc_sa", "seconds"] == 0.5
    assert "Tokens" in tokens.get_xlabel() and "Seconds" in seconds.get_xlabel()
    dots = [line.get_xdata()[0] for line in seconds.get_lines() if line.get_marker() == "."]
    assert sorted(dots) == sorted(slow.get(run, 1.0) for run in ("mar", "dc_mix"))  # those with two seeds


def test_the_balance_plot_has_one_panel_where_no_seconds_were_measured():
    study = reported_study()
    rows = [row for row in all_rows(study, FD) if row["metric"] != "seconds_per_image"]

    assert len(figures.figure7(summary_of(study, rows)).axes) == 1


def test_figure_8_draws_the_rate_of_ground_truth_below_from_the_parents_end():
    curve = loss_curve(0, 20)
    curve["guidance_rate"] = 1 - curve["epoch"] / 20

    axes, below = figures.figure8(summary(reported_study()), curve).axes

    (line,) = below.get_lines()
    assert line.get_xdata()[-1] == pytest.approx(60) and line.get_ydata()[-1] == pytest.approx(0)
    assert below.get_ylabel() == "λ" and axes.get_xlim() == below.get_xlim()
    assert len(figures.figure8(summary(reported_study())).axes) == 1


def test_held_out_losses_are_drawn_beside_the_training_losses():
    curves = {("dc_mix", 0): loss_curve(0, 40), ("long", 0): loss_curve(1, 20)}
    held_out = {("long", 0): pd.DataFrame({"step": [10, 20], "epoch": [10.0, 20.0], "held_out_loss": [0.5, 0.4]})}

    figure = figures.losses_figure(reported_study(), curves, held_out=held_out | {("dc_mix", 0): pd.DataFrame()})

    training, unseen = figure.axes
    (line,) = unseen.get_lines()
    assert line.get_xdata().tolist() == [50, 60] and line.get_ydata().tolist() == [0.5, 0.4]
    assert [text.get_text() for text in unseen.get_legend().get_texts()] == ["DC-Mix", "DC-Mix, continued"]
    assert training.get_legend() is None


def test_figure_8_sets_the_continuations_beside_their_parent():
    study = reported_study()

    points = figures.ablation_data(summary(study)).set_index("role")

    assert points["epochs"].to_dict() == {"parent": 40, "plain": 60, "ti_mix": 60}
    assert points.loc["ti_mix", "fd"] == pytest.approx(134.5)


def test_figure_8_has_a_point_for_each_milestone_and_branches_at_one():
    mix = {"model": "s", "guidance": {"strategy": "dc_mix"}}
    runs = {
        "dc_mix": {**mix, "label": "DC-Mix", "training": {"milestones": [10, 20, 30]}},
        "timix": {
            **mix,
            "label": "MixAR",
            "parent": "dc_mix@20",
            "ti_mix": {},
            "training": {"milestones": [10], "epochs": 20},
        },
        "long": {**mix, "label": "Long"},
    }
    study = reported_study(runs=runs, report={"figure8": {"parent": "dc_mix@20", "plain": "dc_mix", "ti_mix": "timix"}})
    fd = {"dc_mix@10": 9.0, "dc_mix@20": 8.0, "dc_mix@30": 7.0, "dc_mix": 6.0, "timix@10": 5.0, "timix": 4.0}

    drawn_from = summary(study, {name: {0: value} for name, value in fd.items()})
    points = figures.ablation_data(drawn_from)

    found = {role: dict(zip(part["epochs"], part["fd"], strict=True)) for role, part in points.groupby("role")}
    assert found == {"parent": {10: 9, 20: 8}, "plain": {30: 7, 40: 6}, "ti_mix": {30: 5, 40: 4}}
    handles, labels = figures.figure8(drawn_from).axes[0].get_legend_handles_labels()
    assert sorted(labels) == ["DC-Mix", "DC-Mix, epoch 20", "MixAR"]


def test_captions_name_metric_and_number_of_images():
    study = reported_study()

    for figure in (figures.figure7(summary(study)), figures.figure8(summary(study))):
        text = " ".join(t.get_text() for t in figure.texts)
        assert "gFD-toy-net" in text and "n = 72" in text


def test_figures_without_any_score_are_still_drawn(tmp_path):
    study = reported_study()
    empty = summary(study, {})

    for number, make in enumerate((figures.figure7, figures.figure8)):
        figures.save(make(empty), tmp_path / str(number))

    assert len(list(tmp_path.iterdir())) == 4


def test_a_continued_runs_losses_begin_where_its_parent_ended():
    study = reported_study()
    curves = {("dc_mix", 0): loss_curve(0, 40), ("long", 0): loss_curve(1, 20)}

    figure = figures.losses_figure(study, curves)
    lines = {line.get_label(): line.get_xdata() for line in figure.axes[0].get_lines()}

    assert lines["DC-Mix"].max() == pytest.approx(40)
    assert 40 < lines["DC-Mix, continued"].min() < lines["DC-Mix, continued"].max() == pytest.approx(60)


def test_alarms_are_named_below_the_loss_curves():
    curves = {("dc_mix", 0): loss_curve(0, 40)}

    figure = figures.losses_figure(reported_study(), curves, ["DC-Mix, seed 0: loss 9 is above the expected 1 to 2"])

    said = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    assert "ALARM: DC-Mix, seed 0: loss 9 is above the expected 1 to 2." in said


def test_a_figure_is_saved_as_png_and_pdf_without_leftovers(tmp_path):
    study = reported_study()

    figures.save(figures.figure7(summary(study)), tmp_path / "figure7")

    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure7.pdf", "figure7.png"]
    assert Image.open(tmp_path / "figure7.png").width > 1000


# Sheets of images


NOTEBOOK = """
from mixar.reporting import figures
from mixar.reporting.figures import plt, STYLE
with plt.style.context(STYLE):
    drawn = plt.figure()
    drawn.text(0.5, 0.5, "costs $5 and $\\\\frac{")
figures.save(drawn, "drawn")
print(plt.get_backend())
"""


def test_figures_are_drawn_whatever_backend_and_settings_the_environment_asks_for(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.format: nonsense\n")
    inherited = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}

    result = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], cwd=tmp_path, capture_output=True, text=True, env=os.environ | inherited
    )

    assert result.stdout.strip().lower() == "agg", result.stderr
    assert (tmp_path / "drawn.png").is_file() and (tmp_path / "drawn.pdf").is_file()


def test_reading_rows_leaves_a_notebook_its_backend():
    code = "import os, mixar.reporting.results; print(os.environ['MPLBACKEND'])"

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "module://mine"}
    )

    assert result.stdout.strip() == "module://mine", result.stderr
