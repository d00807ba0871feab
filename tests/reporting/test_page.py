"""The page is self-contained and shows everything; the report stage writes every file that the layout names."""

import json
import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from matplotlib.text import Text
from toy_rows import FD, HASHES, all_rows, on_disk, reported_study, summary_of

from mixar.assets.shipped import LITERATURE
from mixar.reporting import figures
from mixar.reporting.audit import audit_tables
from mixar.reporting.claims import RULE, claims_of
from mixar.reporting.page import page, provenance_table, table_page
from mixar.reporting.results import read_rows
from mixar.reporting.summary import summarise
from mixar.reporting.tables import efficiency_table, quality_table
from mixar.stages.report import image_sheets, report
from mixar.study.layout import Layout
from mixar.study.sections import Study

TOY = {"runs": {"toy": {"label": "Invented strategy", "model": "s", "guidance": {"strategy": "somewhere:Toy"}}}}


def made_page(root, tmp_path, study: Study) -> str:
    summary = summary_of(study, all_rows(study))
    (tmp_path / "a.png").write_bytes(b"picture")
    literature = audit_tables(yaml.safe_load(LITERATURE.read_text()))
    tables = [quality_table(summary), efficiency_table(summary)]
    return page(summary, claims_of(summary), tables, list(literature.values()), {"A figure": tmp_path / "a.png"})


def test_the_page_loads_nothing_from_elsewhere(root, tmp_path):
    text = made_page(root, tmp_path, reported_study())

    assert set(re.findall(r'(?:src|href)="([^"]{0,22})', text)) == {"data:image/png;base64,"}
    assert "url(" not in text and "<script" not in text


def test_a_table_has_a_page_of_its_own_that_says_its_encoding_and_escapes_its_names():
    study = reported_study(runs={"mar": {"label": "<b>&MAR", "model": "s", "seeds": [0, 1]}})

    text = table_page(quality_table(summary_of(study, all_rows(study))))

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


def test_equal_origins_are_printed_once():
    study = reported_study()
    rows = all_rows(study)

    entries = provenance_table(summary_of(study, rows))

    assert len(entries) == 3  # reconstruct, sample, measure
    assert sum(int(entry["rows"].split()[0]) for entry in entries) == len(rows)


# The stage


def emoji(root) -> dict:
    return {"limit": 60, "path": str(root / "resources" / "noto-emoji-32.parquet")}


@pytest.fixture(scope="module")
def reported(root, tmp_path_factory) -> Layout:
    """A whole study on disk, with a strategy that the project does not know, and its report."""
    study = reported_study(tmp_path_factory.mktemp("results"), data=emoji(root), report={"grid": [2, 4]}, **TOY)
    layout = on_disk(study, all_rows(study, {**FD, "toy": {0: 99.0}}))
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
        assert "score/sample/dc_sa/seed0-default.parquet, measure/mar.parquet; the next snakemake makes" in text, name
        assert "own_mine" in text, name
    for path, content in zip(gone, kept, strict=True):
        path.write_bytes(content)
    lost_images.unlink()
    report(reported.study, reported)
    assert "Missing, shown as" not in reported.report_files()["summary.txt"].read_text(encoding="utf-8")


# Names


KL16 = {"preset": "kl16", "channels": 128, "multipliers": [1, 1, 2, 2, 4], "attention_levels": [4], "train": None}
MASKBIT14 = {"preset": "maskbit-14bit", "bits": 14, "channels": 128, "multipliers": [1, 1, 2, 2, 4], "train": None}


def said(layout: Layout) -> str:
    """Everything that a study's report says, figures included, without the literature's tables and the settings."""
    report(layout.study, layout)
    summary = summarise(layout.study, read_rows(layout.root))
    ours = [path for name, path in layout.report_files().items() if not name.startswith(("audit", "later", "results"))]
    texts = [path.read_text("utf-8") for path in ours if path.suffix not in (".png", ".pdf")]
    texts = [re.sub(r'"data:image[^"]*', "", text.partition("<h2>Reported in")[0]) for text in texts]
    drawn = [figures.figure7(summary), figures.figure8(summary), *image_sheets(layout, summary).values()]
    texts += [text.get_text() for figure in drawn for text in figure.findobj(Text)]
    plt.close("all")
    return "\n".join(texts)


def test_no_word_of_a_kl16_study_is_vavae(root, tmp_path):
    study = reported_study(tmp_path, data=emoji(root), continuous=KL16, discrete=MASKBIT14, report={"grid": [2, 4]})

    text = said(on_disk(study, all_rows(study)))

    assert "VA-VAE" not in text
    assert "KL-16 for every run" in text and "14-bit MaskBit tokenizer" in text


def test_no_word_of_a_study_of_other_tokenizers_is_maskbit_or_vavae(root, tmp_path):
    own = {kind: {"network": f"somewhere:{name}"} for kind, name in (("continuous", "Patches"), ("discrete", "Shade"))}
    study = reported_study(tmp_path, data=emoji(root), report={"grid": [2, 4]}, **own)

    text = said(on_disk(study, all_rows(study)))

    assert "VAE" not in text and "MaskBit" not in text
    assert "Patches for every run" in text and "Shade's own images" in text


def test_the_workflows_captions_name_no_tokenizer(root):
    captions = "".join(path.read_text() for path in (root / "workflow" / "report").glob("*.rst"))

    assert "Table 1" in captions and not re.search("VAE|MaskBit|KL-16", captions)


def inception_rows(study: Study, differs: str = "") -> list[dict]:
    """All rows as the network of FID gives them, sFID among them; differs: from their protocols."""
    names = {"sample": "adm256-gfid", "reconstruct": "val256-rfid"}
    hashes = json.dumps(HASHES | {"extractor_name": "inception-v3-compat"})
    rows = [
        row | {"hashes": hashes, "protocol": bracketed(names[row["source"]], differs)}
        if row["source"] in names else row for row in all_rows(study)
    ]  # fmt: skip
    further = [row | {"metric": "sfid", "protocol": bracketed(row["protocol"], "network=inception-spatial:0123abcd")}
               for row in rows if row["metric"] == "fd"]  # fmt: skip
    return rows + further


def bracketed(protocol: str, more: str) -> str:
    """A protocol's id with more in its brackets."""
    name, _, before = protocol.removesuffix("]").partition("[")
    parts = ", ".join(part for part in (before, more) if part)
    return f"{name}[{parts}]" if parts else name


def test_no_word_of_a_study_that_differs_from_its_protocol_is_fid(root, tmp_path):
    study = reported_study(tmp_path, data=emoji(root), report={"grid": [2, 4]})

    text = said(on_disk(study, inception_rows(study, "n=1000")))

    assert "FID" not in text.replace("not FID", "")
    assert "gFD-" in text and "sFD ↓" in text


def test_a_study_that_keeps_to_its_protocol_has_fid_and_sfid(root, tmp_path):
    study = reported_study(tmp_path, data=emoji(root), report={"grid": [2, 4]})

    text = said(on_disk(study, inception_rows(study)))

    assert "gFID ↓" in text and "sFID ↓" in text and "FD-" not in text
