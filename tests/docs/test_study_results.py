"""Committed results of a study: what is kept is enough for its report, and nothing that is there is replaced."""

import importlib.util
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from toy_rows import all_rows, on_disk, reported_study

from mixar.reporting.results import read_rows
from mixar.stages.report import report


@pytest.fixture
def script(root):
    path = root / "docs" / "scripts" / "study_results.py"
    spec = importlib.util.spec_from_file_location("study_results", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_report_is_made_from_what_was_kept(root, tmp_path, script, monkeypatch):
    data = {"source": "emoji", "path": str(root / "resources" / "noto-emoji-32.parquet"), "image_size": 32,
            "num_classes": 9}  # fmt: skip
    study = reported_study(tmp_path / "results", data=data, report={"grid": [2, 4]})
    layout = on_disk(study, all_rows(study))
    monkeypatch.setattr(script, "IMAGES", 30)
    rows = read_rows(layout.root)

    script.keep(study, tmp_path / "kept")
    manifest = layout.manifest.read_bytes()
    shutil.rmtree(layout.root)
    layout.manifest.parent.mkdir(parents=True)
    layout.manifest.write_bytes(manifest)  # `ingest` makes it in seconds
    script.restore(study, tmp_path / "kept")
    report(study, layout)

    pd.testing.assert_frame_equal(read_rows(layout.root), rows)
    assert all(path.is_file() for path in layout.report_files().values())
    assert pq.read_metadata(layout.reconstruction("discrete", 0)).num_rows == 30


def test_what_is_there_stays_and_what_is_missing_is_named(tmp_path, script):
    study = reported_study(tmp_path / "results")
    kept = tmp_path / "kept" / "results" / "measure"
    kept.mkdir(parents=True)
    for name in ("mar", "dc_mix"):
        (kept / f"{name}.parquet").write_text("kept")
    own = tmp_path / "results" / "reported" / "measure" / "mar.parquet"
    own.parent.mkdir(parents=True)
    own.write_text("own")

    written = script.restore(study, tmp_path / "kept")
    missing = script.keep(study, tmp_path / "other")

    assert [path.name for path in written] == ["dc_mix.parquet"] and own.read_text() == "own"
    assert (tmp_path / "other" / "results" / "measure" / "mar.parquet").read_text() == "own"
    assert "dc_sa.parquet" in {path.name for path in missing} and own not in missing
