"""Runs of joined studies: guests of Table 1, with marks where they are not comparable."""

import pytest
from toy_rows import all_rows, frame_of, measure_rows, reconstruction_rows, reported_study, score_rows

from mixar.reporting.claims import claims_of
from mixar.reporting.results import write_rows
from mixar.reporting.summary import summarise
from mixar.reporting.tables import quality_table
from mixar.stages.report import joined_studies
from mixar.study.layout import Layout
from mixar.study.load import parse_study


def other_study(name: str = "released", **changes):
    """A study of given weights, with a sampler and a label that the first study has, too."""
    content = reported_study().model_dump(mode="json")
    run = {"label": "MAR", "model": "s", "weights": "mar.safetensors", "samplers": ["quick"]}
    runs = {"mar": run, "big": {**run, "label": "MAR, big"}}
    return parse_study({**content, "study": name, "title": "Given weights", "runs": runs, "report": {}, **changes})


def rows_of_other(study, **how) -> list[dict]:
    scores = [score_rows(study, run, 0, fd, sampler="quick", **how) for run, fd in (("mar", 99.0), ("big", 88.0))]
    return sum([*scores, reconstruction_rows(study, "continuous"), measure_rows(study, "mar")], [])


def joined(**how):
    study, other = reported_study(), other_study()
    return study, summarise(study, frame_of(all_rows(study)), [(other, frame_of(rows_of_other(other, **how)))])


def row(table, label: str) -> dict:
    return dict(zip(table.columns, next(cells for cells in table.cells if cells[0] == label), strict=True))


def test_runs_of_a_joined_study_appear_below_with_their_own_tokenizer_and_sampler():
    table = quality_table(joined()[1])

    assert [cells[0] for cells in table.cells][-2:] == ["MAR (released)", "MAR, big"]
    assert row(table, "MAR, big")["gFD-toy-net ↓"] == "88.00" and row(table, "MAR")["gFD-toy-net ↓"] == "213.5 ± 7.8"
    assert row(table, "MAR, big")["rFD-toy-net ↓"] == "12.50"
    assert set(table.frame["sampler"].tail(2)) == {"quick"} and list(table.frame["run"].tail(1)) == ["released/big"]
    note = next(note for note in table.notes if note.startswith("From study released"))
    assert "Given weights" in note and "MAR, MAR, big" in note and "toy-rfd" in note and "quick" in note


def test_what_is_not_comparable_has_a_mark():
    table = quality_table(joined(protocol="other-gfd")[1])

    assert [cells[0] for cells in table.cells][-2:] == ["MAR (released)†", "MAR, big†"]
    assert any(note.startswith("†") for note in table.notes)


def test_a_joined_study_changes_no_name_and_no_claim():
    study, summary = joined(protocol="adm256-gfid", hashes={})
    alone = summarise(study, frame_of(all_rows(study)))

    assert summary.distance() == alone.distance() and summary.network == alone.network
    assert claims_of(summary) == claims_of(alone)


def test_a_folder_without_results_is_named_and_the_report_is_made_without_it(tmp_path):
    study = reported_study(report={"joined": [str(tmp_path / "released")]})

    found, said = joined_studies(study)

    assert found == [] and "released holds no results yet" in said[0]


def finished(root, study):
    write_rows(root / "score" / "sample" / "rows.parquet", rows_of_other(study))
    (root / "study.json").write_text(study.model_dump_json())
    return str(root)


def test_the_rows_of_a_finished_study_are_read_from_its_folder(tmp_path):
    other = other_study()
    study = reported_study(report={"joined": [finished(tmp_path / "released", other)]})

    ((found, rows),), said = joined_studies(study)

    assert found == other and said == () and set(rows["run"]) == {"mar", "big", "continuous"}


def test_two_studies_of_one_name_are_refused(tmp_path):
    folder = finished(tmp_path / "released", other_study("reported"))

    with pytest.raises(ValueError, match="another study named 'reported'"):
        joined_studies(reported_study(report={"joined": [folder]}))


def test_rows_of_a_joined_study_are_an_input_of_the_report(tmp_path):
    folder = finished(tmp_path / "released", other_study())
    layout = Layout(reported_study(report={"joined": [folder, str(tmp_path / "not_there")]}))

    assert layout.joined_row_files() == [tmp_path / "released" / "score" / "sample" / "rows.parquet"]
