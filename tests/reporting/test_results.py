"""Result rows: what goes in comes out, and what is not a result row is refused by name."""

import json
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_rows import all_rows, loss_curve, measure_rows, reported_study, score_rows, write_study

from mixar.reporting.results import (
    SCHEMA,
    make_rows,
    read_losses,
    read_rows,
    run_settings,
    total_epochs,
    write_rows,
)
from mixar.storage.files import write_table
from mixar.study.layout import Layout


def test_rows_come_back_as_they_were_written(tmp_path):
    study = reported_study(tmp_path)
    rows = all_rows(study)

    layout = write_study(study, rows)
    found = read_rows(layout.root)

    assert list(found.columns) == SCHEMA.names
    assert len(found) == len(rows)
    fd = found[(found["run"] == "mar") & (found["metric"] == "fd")].set_index("seed")
    assert fd.loc[0, "value"] == 208.0
    assert (fd.loc[1, "low"], fd.loc[1, "high"]) == (211.0, 227.0)


def test_a_row_carries_its_runs_settings_and_where_it_came_from():
    study = reported_study()

    row = make_rows(
        study, "timix", source="sample", seed=1, values=[{"metric": "fd", "value": 1.0}], hashes={"a": "b"}
    )[0]

    assert (row["label"], row["strategy"], row["parent"]) == ("DC-Mix, continued with TI-Mix", "dc_mix", "dc_mix")
    assert (row["epochs"], row["epochs_total"], row["ti_mix"]) == (20, 60, "linear 1 to 0")
    assert "torch" in json.loads(row["versions"]) and json.loads(row["hashes"]) == {"a": "b"}
    assert row["platform"] and row["created"].endswith("+00:00")


@pytest.mark.parametrize(
    ("source", "run", "sampler", "precision"),
    [
        ("sample", "mar", "default", "bfloat16"),
        ("sample", "maskbit", "default", "float32"),
        ("reconstruct", "continuous", None, "float32"),
        ("measure", "mar", None, "float32"),
        ("measure", "mar", "default", "bfloat16"),
    ],
)
def test_a_row_names_the_precision_of_the_passes_behind_it(source, run, sampler, precision):
    study = reported_study()
    samplers = {"default": study.samplers["default"].model_copy(update={"precision": "bfloat16"})}
    study = study.model_copy(update={"samplers": study.samplers | samplers})

    (row,) = make_rows(study, run, source=source, sampler=sampler, values=[{"metric": "x", "value": 1.0}])

    assert row["precision"] == precision


def test_rows_of_the_earlier_version_are_read_without_a_precision(tmp_path):
    study = reported_study(tmp_path)
    layout = write_study(study, all_rows(study))
    path = layout.measures("mar")
    table = pq.read_table(path).drop_columns(["precision"])
    write_table(path, table.replace_schema_metadata({"mixar": "mixar result rows, version 2"}))

    found = read_rows(layout.root)

    assert list(found.columns) == SCHEMA.names
    is_old = (found["source"] == "measure") & (found["run"] == "mar")
    assert found[is_old]["precision"].isna().all() and not found[~is_old]["precision"].isna().any()


def test_epochs_of_all_parents_count():
    study = reported_study()

    assert total_epochs(study, "dc_mix") == 40
    assert total_epochs(study, "long") == 60


@pytest.mark.parametrize("run", ["maskbit", "continuous", "discrete"])
def test_tokenizers_and_maskbit_have_rows_though_they_are_no_runs(run):
    assert run_settings(reported_study(), run)["label"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="'mar'.*fd"):
        score_rows(reported_study(), "mar", 0, value)


@pytest.mark.parametrize("bound", ["low", "high"])
def test_an_interval_that_is_not_finite_is_refused(bound):
    with pytest.raises(ValueError, match=f"'mar': fd has the {bound} nan"):
        make_rows(reported_study(), "mar", source="sample", values=[{"metric": "fd", "value": 1.0, bound: math.nan}])


def test_unknown_runs_sources_and_keys_are_refused_with_what_would_do():
    study, values = reported_study(), [{"metric": "fd", "value": 1.0}]

    with pytest.raises(ValueError, match="'marr' is unknown; choose from mar, dc_mix"):
        make_rows(study, "marr", source="sample", values=values)
    with pytest.raises(ValueError, match="source 'samples' is unknown"):
        make_rows(study, "mar", source="samples", values=values)
    with pytest.raises(ValueError, match="needs metric and value"):
        make_rows(study, "mar", source="sample", values=[{"metric": "fd", "valeu": 1.0}])


def test_incomplete_rows_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="value"):
        write_rows(tmp_path / "a.parquet", [{"study": "s", "run": "r", "source": "sample", "metric": "fd"}])
    with pytest.raises(ValueError, match="no result rows"):
        write_rows(tmp_path / "a.parquet", [])
    assert not list(tmp_path.iterdir())


def test_rows_from_before_there_were_guidance_scales_are_read(tmp_path):
    study = reported_study(tmp_path)
    layout = write_study(study, measure_rows(study, "mar"))
    path = layout.measures("mar")
    earlier = pq.read_table(path).drop_columns(["cfg"])
    pq.write_table(earlier.replace_schema_metadata({"mixar": "mixar result rows, version 2"}), path)

    found = read_rows(layout.root)

    assert list(found.columns) == SCHEMA.names and found["cfg"].isna().all() and len(found) == len(earlier)


def test_features_beside_the_scores_are_no_rows(tmp_path):
    study = reported_study(tmp_path)
    layout = write_study(study, measure_rows(study, "mar"))
    write_table(layout.reference_features("train"), pa.table({"index": [1]}))
    write_table(layout.features(layout.samples("mar", 0, "default", 0)), pa.table({"index": [1]}))

    assert set(read_rows(layout.root)["run"]) == {"mar"}


def test_what_a_killed_writer_and_a_notebook_left_are_no_rows(tmp_path):
    study = reported_study(tmp_path)
    layout = write_study(study, measure_rows(study, "mar"))
    path = layout.measures("mar")
    (path.parent / f".123.{path.name}").write_bytes(path.read_bytes()[:100])
    (path.parent / ".ipynb_checkpoints").mkdir()
    (path.parent / ".ipynb_checkpoints" / path.name).write_bytes(path.read_bytes())
    own = layout.scores("own", "own_mine").parent.parent / ".ipynb_checkpoints" / "scores.parquet"
    write_table(own, pa.table({"index": [1]}))

    assert len(read_rows(layout.root)) == len(measure_rows(study, "mar"))
    assert layout.own_scores() == []


def test_a_foreign_file_among_the_rows_is_named(tmp_path):
    study = reported_study(tmp_path)
    layout = write_study(study, measure_rows(study, "mar"))
    pq.write_table(pa.table({"x": [1]}), layout.measures("other"))

    with pytest.raises(ValueError, match="other.parquet.*foreign"):
        read_rows(layout.root)


@pytest.mark.parametrize("column", ["versions", "hashes"])
@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_column_is_named_with_its_file(tmp_path, column, text):
    study = reported_study(tmp_path)
    rows = measure_rows(study, "mar")
    layout = write_study(study, rows)
    write_rows(layout.measures("other"), [*rows[:-1], rows[-1] | {column: text}])

    with pytest.raises(ValueError, match=f"other.parquet: column {column} is damaged .*; delete it and run its stage"):
        read_rows(layout.root)


def test_a_truncated_file_is_named(tmp_path):
    study = reported_study(tmp_path)
    path = write_study(study, measure_rows(study, "mar")).measures("mar")
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(ValueError, match="mar.parquet.*cannot be read"):
        read_rows(tmp_path / "reported")


def test_no_rows_at_all_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run the score and measure stages"):
        read_rows(tmp_path)


def test_loss_curves_are_read_whole_or_refused(tmp_path):
    path = Layout(reported_study(tmp_path)).losses("mar", 0)
    curve = loss_curve(0, 2)

    write_table(path, pa.Table.from_pandas(curve, preserve_index=False))
    pd.testing.assert_frame_equal(read_losses(path), curve)

    write_table(path, pa.Table.from_pandas(curve.drop(columns="loss"), preserve_index=False))
    with pytest.raises(ValueError, match="missing loss"):
        read_losses(path)
