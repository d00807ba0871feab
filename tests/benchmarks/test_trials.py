"""The trials of tokenizers, on a few drawings and for one epoch."""

import importlib.util

import pyarrow.parquet as pq
import pytest

from mixar.study.layout import Layout


@pytest.fixture(scope="module")
def script(request):
    path = request.config.rootpath / "benchmarks" / "tokenizers" / "trials.py"
    spec = importlib.util.spec_from_file_location("trials", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_trial_is_a_study_that_differs_where_it_says(script, tmp_path):
    for name, (kind, changes) in script.TRIALS.items():
        settings = getattr(script.trial_study(name, tmp_path, epochs=1), kind)

        assert settings.train.epochs == 1 and settings.weights is None
        assert {key: settings.model_dump(mode="json")[key] for key in changes} == changes


def test_a_trial_is_trained_once_and_measured_on_held_out_drawings(script, smoke, tmp_path):
    table = pq.read_table("resources/drawings-32.parquet")
    pq.write_table(table.take(list(range(0, len(table), 150))), tmp_path / "some.parquet")
    smoke["data"] = {"source": "drawings", "path": str(tmp_path / "some.parquet"), "image_size": 32, "num_classes": 9}
    study = script.trial_study("bits8", tmp_path, epochs=1, base=smoke)

    row = script.run("bits8", study)

    assert (row["grid"], row["per token"], row["epochs"]) == ("4 × 4", "8 bits", 1)
    assert 0 < row["worst tenth, dB"] < row["held-out PSNR, dB"] < 30
    assert row["tokens seen"].endswith(" of 256") and 0 <= row["held-out tokens seen"] <= 1
    before = Layout(study).tokenizer("discrete").stat().st_mtime_ns
    assert script.run("bits8", study) == row
    assert Layout(study).tokenizer("discrete").stat().st_mtime_ns == before
    sheet = script.sheet(study, "discrete")
    assert sheet.ndim == 3 and sheet.shape[2] == 3 and sheet.std() > 1
