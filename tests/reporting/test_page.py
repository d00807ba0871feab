"""The page stands alone and shows everything; the report stage writes every file that the layout names."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from toy_rows import FD, all_rows, loss_curve, reported_study, write_study

from mixar.data.images import load_images, write_images
from mixar.data.manifest import ingest_manifest
from mixar.files import write_table
from mixar.reporting.audit import audit_tables
from mixar.reporting.claims import RULE, claims_of
from mixar.reporting.page import page, provenance_table, table_page
from mixar.reporting.results import SCHEMA, read_rows
from mixar.reporting.tables import efficiency_table, quality_table
from mixar.stages.report import report
from mixar.study.layout import Layout
from mixar.study.sections import Study

TOY = {"runs": {"toy": {"label": "Invented strategy", "model": "s", "guidance": {"strategy": "somewhere:Toy"}}}}


def made_page(root, tmp_path, study: Study) -> str:
    rows = pd.DataFrame(all_rows(study), columns=SCHEMA.names).astype({"seed": "Int64", "n": "Int64"})
    (tmp_path / "a.png").write_bytes(b"picture")
    literature = audit_tables(yaml.safe_load((root / "resources" / "literature.yaml").read_text()))
    tables = [quality_table(study, rows), efficiency_table(study, rows)]
    return page(
        study, rows, claims_of(study, rows), tables, list(literature.values()), {"A figure": tmp_path / "a.png"}
    )


def test_the_page_loads_nothing_from_elsewhere(root, tmp_path):
    text = made_page(root, tmp_path, reported_study())

    assert set(re.findall(r'(?:src|href)="([^"]{0,22})', text)) == {"data:image/png;base64,"}
    assert "url(" not in text and "<script" not in text


def test_a_table_has_a_page_of_its_own_that_says_its_encoding_and_escapes_its_names():
    study = reported_study(runs={"mar": {"label": "<b>&MAR", "model": "s", "seeds": [0, 1]}})
    rows = pd.DataFrame(all_rows(study), columns=SCHEMA.names).astype({"seed": "Int64", "n": "Int64"})

    text = table_page(quality_table(study, rows))

    assert text.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in text and "border-collapse" in text
    assert text.count("<table>") == 1 and "<title>Table 1. Quality" in text
    assert "<b>&MAR" not in text and "&lt;b&gt;&amp;MAR" in text


def test_claims_come_before_tables_and_tables_before_figures(root, tmp_path):
    text = made_page(root, tmp_path, reported_study())

    order = [text.index(part) for part in ("DC-Mix is better than MAR", "Table 1. Quality", "A figure", "Reported in")]
    assert order == sorted(order)
    assert RULE.split("'")[0] in text and "learning_rate" in text


def test_names_from_a_study_cannot_break_the_page(root, tmp_path):
    study = reported_study(runs={"mar": {"label": "<b>&MAR", "model": "s", "seeds": [0, 1]}})

    text = made_page(root, tmp_path, study)

    assert "<b>&MAR" not in text and "&lt;b&gt;&amp;MAR" in text


def test_provenance_is_told_once_for_equal_origins():
    study = reported_study()
    rows = pd.DataFrame(all_rows(study), columns=SCHEMA.names)

    entries = provenance_table(rows)

    assert len(entries) == 3  # reconstruct, sample, measure
    assert sum(int(entry["rows"].split()[0]) for entry in entries) == len(rows)


# The stage


@pytest.fixture(scope="module")
def reported(root, tmp_path_factory) -> Layout:
    """A whole study on disk, with a strategy that the project does not know, and its report."""
    data = {"limit": 60, "path": str(root / "resources" / "noto-emoji-32.parquet")}
    study = reported_study(tmp_path_factory.mktemp("results"), data=data, report={"grid": [2, 4]}, **TOY)
    layout = write_study(study, all_rows(study, {**FD, "toy": {0: 99.0}}))
    manifest = ingest_manifest(study.data)
    write_table(layout.manifest, manifest)
    labels, index = np.arange(72) % 9, np.arange(72)
    drawn = np.random.default_rng(0).integers(0, 256, (72, 32, 32, 3), dtype=np.uint8)
    for run, seeds in {"maskbit": (0,), **{name: r.seeds for name, r in study.runs.items()}}.items():
        for shard, part in enumerate((slice(0, 40), slice(40, 72))):
            write_images(layout.samples(run, seeds[0], "default", shard), index[part], labels[part], drawn[part])
        for seed in seeds if run in study.runs else ():
            curve = loss_curve(seed, study.training_of(run).epochs, per_epoch=4)
            write_table(layout.losses(run, seed), pa.Table.from_pandas(curve, preserve_index=False))
    held_out = manifest.filter(pc.equal(manifest["split"], "held_out"))
    for name in ("continuous", "discrete"):
        images = load_images(held_out, 32)
        write_images(layout.reconstruction(name, 0), held_out["index"], held_out["label"], images)
    report(study, layout)
    return layout


def test_the_report_writes_exactly_the_files_that_the_layout_names(reported):
    assert {p.name for p in reported.report.iterdir()} == set(reported.report_files())
    assert all(path.stat().st_size for path in reported.report_files().values())


def test_a_toy_strategy_is_in_table_page_and_summary(reported):
    files = reported.report_files()

    for name in ("table1.md", "table1.csv", "table2.tex", "report.html", "summary.txt"):
        assert re.search(r"Invented\s+strategy", files[name].read_text()), name


def test_the_summary_fits_a_terminal_and_names_every_figure(reported):
    text = reported.report_files()["summary.txt"].read_text()
    body = text.split("Report and figures")[0]

    assert max(map(len, body.splitlines())) <= 110
    assert all(str(p) in text for p in reported.report_files().values() if p.suffix == ".png")


def test_joined_rows_are_the_rows(reported):
    joined = pd.read_parquet(reported.report_files()["results.parquet"])

    assert len(joined) == len(read_rows(reported.root))


def test_figures_that_a_study_cannot_have_are_not_promised():
    plain = reported_study(report={"figure8": None})
    only_mar = Study.model_validate(
        {**plain.model_dump(), "runs": {"mar": plain.runs["mar"].model_dump()}, "report": {"grid": [2, 2]}}
    )

    assert "figure8.png" not in Layout(plain).report_files() and "figure2.png" in Layout(plain).report_files()
    assert "figure2.png" not in Layout(only_mar).report_files()


def test_a_result_file_that_is_gone_is_named_where_its_dash_is(reported):
    gone = [reported.scores("sample", "dc_sa", 0, "default"), reported.measures("mar")]
    kept = [path.read_bytes() for path in gone]
    lost_images = reported.own_images("own_mine")
    lost_images.parent.mkdir(parents=True)
    lost_images.write_text("{}")
    for path in gone:
        path.unlink()

    report(reported.study, reported)

    for name in ("table1.md", "table2.html", "report.html", "summary.txt"):
        text = " ".join(reported.report_files()[name].read_text(encoding="utf-8").split())
        assert "score/sample/dc_sa/seed0-default.parquet, measure/mar.parquet; made by the next snakemake" in text, name
        assert "own_mine" in text, name
    for path, content in zip(gone, kept, strict=True):
        path.write_bytes(content)
    lost_images.unlink()
    report(reported.study, reported)
    assert "Not there yet" not in reported.report_files()["summary.txt"].read_text(encoding="utf-8")
