"""Tables: every cell comes from rows, and what is not comparable does not share a column."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
import yaml
from toy_rows import FD, all_rows, measure_rows, reconstruction_rows, reported_study, score_rows

from mixar.reporting.results import SCHEMA
from mixar.reporting.tables import MISSING, efficiency_table, literature_tables, number, quality_table, si

RESOURCES = Path(__file__).parent.parent / "resources"
TOY = {"strategies": {"toy": "somewhere:Toy"},
       "runs": {"toy": {"label": "Invented strategy", "model": "s", "guidance": {"strategy": "toy"}}}}  # fmt: skip


def frame(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=SCHEMA.names).astype({"seed": "Int64", "n": "Int64"})


def cell(table, label: str, column: str) -> str:
    row = next(r for r in table.cells if r[0] == label)
    return row[table.columns.index(column)]


def test_table_1_shows_means_over_seeds_their_spread_and_interval():
    study = reported_study()

    table = quality_table(study, frame(all_rows(study)))

    assert cell(table, "MAR", "gFD-toy-net ↓") == "213.5 ± 7.8"
    assert cell(table, "MAR", "95 % interval") == "[200.0, 227.0]"
    assert cell(table, "DC-SA", "gFD-toy-net ↓") == "158.0"
    assert [cell(table, "MAR", c) for c in ("seeds", "n", "protocol")] == ["2", "72", "toy-gfd"]
    assert [row[0] for row in table.cells][:2] == ["MaskBit's own images", "MAR"]


def test_the_reconstruction_column_belongs_to_the_tokenizer():
    study = reported_study()

    table = quality_table(study, frame(all_rows(study)))

    assert cell(table, "MaskBit's own images", "rFD-toy-net ↓") == "60.25"
    assert {cell(table, run.label, "rFD-toy-net ↓") for run in study.runs.values()} == {"12.50"}


def test_a_distance_is_called_fid_only_under_a_protocol_of_that_name():
    study, how = reported_study(), {"protocol": "adm256-gfid", "hashes": {}}

    fid = quality_table(study, frame(score_rows(study, "mar", 0, 2.31, 0.1, n=50_000, **how)))
    other = quality_table(study, frame(score_rows(study, "mar", 0, 2.31, 0.1)))

    assert "gFID ↓" in fid.columns
    assert not any("FID" in column for column in other.columns)


def test_a_strategy_of_ones_own_appears_without_a_change_of_code():
    study = reported_study(**TOY)

    rows = frame(all_rows(study, {**FD, "toy": {0: 99.0}}))

    assert cell(quality_table(study, rows), "Invented strategy", "gFD-toy-net ↓") == "99.00"
    assert cell(efficiency_table(study, rows), "Invented strategy", "# Params") == "2.55 M"


def test_what_was_not_measured_is_a_dash():
    study = reported_study()

    table = quality_table(study, frame(score_rows(study, "mar", 0, 200.0)))

    assert cell(table, "DC-CA", "gFD-toy-net ↓") == MISSING
    assert cell(table, "MAR", "# Params") == MISSING


@pytest.mark.parametrize(
    "change",
    [{"protocol": "other"}, {"n": 50}, {"hashes": {"extractor": "0" * 64}}, {"hashes": {"reference": "0" * 64}}],
)
def test_a_column_does_not_mix_what_is_not_comparable_unless_marked(change):
    study = reported_study()
    rows = [r for run in ("mar", "dc_sa") for r in score_rows(study, run, 0, 200.0)]
    rows = frame(rows + score_rows(study, "dc_mix", 0, 160.0, **change))

    with pytest.raises(ValueError, match="cannot mix"):
        quality_table(study, rows)
    marked = quality_table(study, rows, marked=True)

    assert [row[0] for row in marked.cells if "†" in row[0]] == ["DC-Mix†"]
    assert any(note.startswith("†") for note in marked.notes)


def test_rows_of_runs_that_the_study_no_longer_has_are_left_out():
    old = reported_study(**TOY)
    rows = frame(all_rows(old, {**FD, "toy": {0: 1.0}}) + score_rows(old, "mar", 7, 1.0))

    table = quality_table(reported_study(), rows)

    assert "Invented strategy" not in [row[0] for row in table.cells]
    assert cell(table, "MAR", "seeds") == "2"


def test_only_the_reports_sampler_counts():
    study = reported_study(runs={"mar": {"label": "MAR", "model": "s", "samplers": ["default", "quick"]}})
    rows = score_rows(study, "mar", 0, 200.0) + score_rows(study, "mar", 0, 300.0, sampler="quick")

    assert cell(quality_table(study, frame(rows)), "MAR", "gFD-toy-net ↓") == "200.0"


def test_a_value_that_stands_twice_is_refused():
    study = reported_study()
    rows = frame(score_rows(study, "mar", 0, 200.0) + score_rows(study, "mar", 0, 201.0))

    with pytest.raises(ValueError, match="several values for one seed"):
        quality_table(study, rows)


def test_times_from_another_device_are_marked():
    study = reported_study()
    rows = [r for run in study.runs for r in measure_rows(study, run, "GPU" if run == "dc_ca" else "cpu")]

    table = efficiency_table(study, frame(rows))

    assert [row[0] for row in table.cells if "†" in row[0]] == ["DC-CA†"]
    assert "† Measured on GPU." in table.notes


def test_every_format_holds_every_row():
    study = reported_study()
    tables = [make(study, frame(all_rows(study))) for make in (quality_table, efficiency_table)]

    for table in tables:
        formats = table.formats()
        labels = [row[0] for row in table.cells]
        assert all(label in formats["md"] and label in formats["tex"] for label in labels)
        assert [r["label"] for r in csv.DictReader(io.StringIO(formats["csv"]))] == labels
        assert formats["html"].count("<tr>") == len(labels) + 1
        assert "†" not in formats["tex"] and "±" not in formats["tex"] and "\\toprule" in formats["tex"]
        assert max(map(len, table.text().splitlines())) <= 110


def test_csv_holds_the_numbers_unrounded():
    study = reported_study()
    rows = frame(score_rows(study, "mar", 0, 200.123456789) + reconstruction_rows(study, "continuous"))

    content = csv.DictReader(io.StringIO(quality_table(study, rows).csv()))

    assert next(float(r["fd"]) for r in content if r["run"] == "mar") == 200.123456789


def test_numbers_are_written_for_readers():
    assert [number(v) for v in (2197.4, 213.5, 1.5, 0.5, 0.0121, 0.0)] == ["2,197", "213.5", "1.50", "0.500", "0.0121",
                                                                           "0.00000"]  # fmt: skip
    assert [si(v) for v in (556_999_744, 1.453e12, 12, None)] == ["557 M", "1.45 T", "12", MISSING]


def test_the_papers_numbers_stay_in_their_own_tables():
    literature = yaml.safe_load((RESOURCES / "literature.yaml").read_text())

    quality, efficiency = literature_tables(literature)

    assert cell(quality, "MixAR-L", "gFID ↓") == "1.53"
    assert cell(quality, "MAR-B", "sources say").startswith("rFID 0.53 (mar-val)")
    assert cell(efficiency, "DC-Mix", "Train / min/epoch") == "39.40"
    assert all("not comparable" in table.title for table in (quality, efficiency))
    study = reported_study()
    assert not any("1.53" in value for row in quality_table(study, frame(all_rows(study))).cells for value in row)


def test_every_cited_source_is_described():
    literature = yaml.safe_load((RESOURCES / "literature.yaml").read_text())

    cited = {s["source"] for row in literature["table1"]["rows"] for s in row["source"].values()}

    assert cited <= set(literature["sources"])
