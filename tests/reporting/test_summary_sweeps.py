"""Guidance sweeps in the report: points of their own, a table, a curve, and the scale beside every claim."""

import matplotlib.pyplot as plt
from toy_rows import all_rows, reported_study, score_rows, summary_of, sweep_rows

from mixar.reporting.claims import claims_of
from mixar.reporting.figures import sweep_figure
from mixar.reporting.tables import quality_table, sweep_table
from mixar.study.layout import Layout
from mixar.study.load import parse_study

SWEEP = {"cfg": [2.0, 3.0, 5.0], "num_images": 50}


def swept_study():
    content = reported_study().model_dump(mode="json")
    for run in ("mar", "dc_mix"):
        content["runs"][run]["sweep"] = SWEEP
    return parse_study(content)


def summary():
    study = swept_study()
    rows = [row for row in all_rows(study) if (row["run"], row["source"]) != ("dc_mix", "sample")]
    rows += [row for seed in study.runs["dc_mix"].seeds for row in score_rows(study, "dc_mix", seed, 150.0, cfg=5.0)]
    rows += sweep_rows(study, "mar", {2.0: 260.0, 3.0: 240.0, 5.0: 240.5, 7.0: 1.0})  # 7: of an earlier study
    return summary_of(study, rows + sweep_rows(study, "dc_mix", {2.0: 230.0, 3.0: 210.0, 5.0: 190.0}))


def test_points_of_a_sweep_are_no_scores_and_only_the_studys_own_scales_count():
    found = summary()

    assert [point.cfg for point in found.sweeps["mar", "default"]] == SWEEP["cfg"]
    assert found.of("mar", "fd").mean == 213.5  # of the final images
    assert not any(source == "sweep" for _, _, source in found.results)


def test_the_table_names_the_best_scale_what_is_not_worse_and_a_best_at_the_end():
    table = sweep_table(summary())

    choices = {(row[0], row[2]): row[5] for row in table.cells}
    assert choices["MAR", "3"] == choices["DC-Mix", "5"] == "best"
    assert choices["MAR", "5"] == "" and choices["MAR", "2"] == ""  # the same noise: half a point is a difference
    assert any("DC-Mix (default) 5" in note and "beyond" in note for note in table.notes)
    assert table.frame.query("chosen")["cfg"].tolist() == [3.0, 5.0]


def test_the_figure_has_a_line_a_sweep_and_rings_each_choice():
    figure = sweep_figure(summary())
    rings = [line.get_xydata()[0].tolist() for line in figure.axes[0].lines if line.get_markersize() > 10]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    plt.close(figure)

    assert legend == ["MAR", "DC-Mix"]
    assert sorted(rings) == [[3.0, 240.0], [5.0, 190.0]]


def test_table_1_and_the_claims_say_the_scale_of_the_final_images():
    found = summary()

    assert any("chosen by a sweep, on other images: MAR 3, DC-Mix 5" in note for note in quality_table(found).notes)
    details = [detail for claim in claims_of(found) for detail in claim.details]
    assert any(detail.startswith("DC-Mix: ") and detail.endswith(", CFG 5).") for detail in details)
    assert any(detail.startswith("MAR: ") and detail.endswith(", CFG 3).") for detail in details)


def test_the_report_has_the_curve_only_where_there_is_a_sweep():
    assert {"cfg.png", "cfg_points.csv"} <= Layout(swept_study()).report_files().keys()
    assert not {"cfg.png", "cfg_points.csv"} & Layout(reported_study()).report_files().keys()
