"""Runs whose settings changed during training: marked in every table that shows their numbers."""

from toy_rows import FD, HASHES, all_rows, reported_study, score_rows, summary_of, sweep_rows

from mixar.reporting.claims import claims_of
from mixar.reporting.figures import figure7, figure8
from mixar.reporting.tables import efficiency_table, quality_table, sweep_table
from mixar.reporting.writers import to_text
from mixar.study.load import parse_study

SAID = "training.learning_rate=5e-05 from epoch 12"


def test_a_run_that_was_changed_by_hand_is_marked_in_tables_captions_and_claims():
    content = reported_study().model_dump(mode="json")
    content["runs"]["dc_mix"]["sweep"] = {"cfg": [2.0, 3.0], "num_images": 50}
    study = parse_study(content)
    changed = score_rows(study, "dc_mix", 0, 161.0, hashes={**HASHES, "changed": SAID})
    others = {run: seeds for run, seeds in FD.items() if run != "dc_mix"}
    changed += sweep_rows(study, "dc_mix", {2.0: 230.0, 3.0: 210.0})
    summary = summary_of(study, all_rows(study, others) + changed)

    for table in (quality_table(summary), efficiency_table(summary), sweep_table(summary)):
        assert {row[0] for row in table.cells if "§" in row[0]} == {"DC-Mix§"}
        said = dict(zip(table.frame["run"], table.frame["changed"].fillna(""), strict=True))
        assert said.pop("dc_mix") == SAID and not any(said.values()), "the CSV says it in a column"
        assert f"DC-Mix: {SAID}" in to_text(table).replace("\n", " ")
    for figure in (figure7(summary), figure8(summary)):
        assert SAID in " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert f"DC-Mix§: {SAID}." in claims_of(summary)[0].details


def test_without_changes_nothing_is_marked():
    study = reported_study()
    summary = summary_of(study, all_rows(study))

    for table in (quality_table(summary), efficiency_table(summary)):
        assert "§" not in to_text(table)
