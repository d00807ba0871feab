"""`report`: every row, loss curve and image of a study as tables, figures, claims and one page.

What a number means and how a figure looks is settled in reporting/; here are the files.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mixar.assets.shipped import LITERATURE
from mixar.data.images import load_images
from mixar.data.manifest import read_manifest
from mixar.process.failures import needs_memory
from mixar.reporting import figures, pictures
from mixar.reporting.audit import audit_tables
from mixar.reporting.claims import Claim, claims_markdown, claims_of
from mixar.reporting.names import family, label_of, of
from mixar.reporting.numbers import count, number
from mixar.reporting.page import page, table_page
from mixar.reporting.results import read_losses, read_rows
from mixar.reporting.summary import Summary, rows_of, summarise
from mixar.reporting.tables import Table, efficiency_table, quality_table, sweep_table
from mixar.reporting.tradeoff import tradeoff_figure, tradeoff_table
from mixar.reporting.writers import to_csv, to_latex, to_markdown, to_text
from mixar.storage.files import write_table, write_text
from mixar.study.layout import JOINED_ROWS, Layout
from mixar.study.load import load_study
from mixar.study.names import split
from mixar.study.problems import PAIRS
from mixar.study.sections import Study
from mixar.study.strict_yaml import read_yaml
from mixar.training.metrics import FILE as METRICS_FILE
from mixar.training.metrics import alarm, loss_at, read_metrics

SHOWN = 6  # names of missing files in a remark


HEADINGS = {
    "figure2": "Figure 2. {whose} decoder and ours on the same tokens",
    "figure6": "Figure 6. Samples of every run",
    "figure7": "Figure 7. Balance of quality and cost",
    "figure8": "Figure 8. Continued training with and without TI-Mix",
    "tradeoff": "Quality against the cost of drawing",
    "cfg": "Quality against the guidance scale",
    "losses": "Training loss",
    "reconstructions": "Reconstructions of held-out images",
    "copies": "Samples beside their nearest training images",
}  # in the order of the page


@needs_memory(lambda *_: ("report", "Show fewer images (report.grid)"))
def report(study: Study, layout: Layout) -> None:
    """Write every file of layout.report_files() and print the summary.

    Raises ValueError where rows, curves or images are missing, damaged, or cannot share a table.
    """
    files, rows, lost = layout.report_files(), read_rows(layout.root), missing_in_words(layout)
    others, not_joined = joined_studies(study)
    summary, lost = summarise(study, rows, others), (*lost, *not_joined)
    claims, tables = claims_of(summary), {"table1": quality_table(summary), "table2": efficiency_table(summary)}
    tables |= {"cfg_points": sweep_table(summary)} if study.sweeps else {}
    tables |= {"samplers": tradeoff_table(summary)} if study.has_several_samplers else {}
    tables = {name: replace(table, notes=(*table.notes, *lost)) for name, table in tables.items()}
    literature = audit_tables(read_yaml(LITERATURE))
    curves = _curves(study, layout)
    drawn = {"figure7": figures.figure7(summary)}
    drawn |= {"losses": figures.losses_figure(study, curves, alarms_of(study, curves), _held_out(layout, curves))}
    drawn |= {"figure8": figures.figure8(summary, _rates(study, curves))} if study.report.figure8 else {}
    drawn |= {"cfg": figures.sweep_figure(summary)} if study.sweeps else {}
    drawn |= {"tradeoff": tradeoff_figure(summary)} if study.has_several_samplers else {}
    drawn |= image_sheets(layout, summary)
    for name in sorted(drawn):
        figures.save(drawn[name], layout.report / name)
    write_table(files["results.parquet"], pa.Table.from_pandas(rows_of(study, rows), preserve_index=False))
    for name, table in (tables | literature).items():
        forms = {"md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table), "html": table_page(table)}
        for ending, text in forms.items():
            write_text(files[f"{name}.{ending}"], text)
    write_text(files["claims.md"], claims_markdown(claims))
    whose = of(family(study.discrete))
    sheets = {text.format(whose=whose): files[f"{name}.png"] for name, text in HEADINGS.items() if name in drawn}
    text = page(summary, claims, list(tables.values()), list(literature.values()), sheets)
    write_text(files["report.html"], text)
    text = summary_text(list(tables.values()), claims, files, lost)
    write_text(files["summary.txt"], text)
    print(text)


def joined_studies(study: Study) -> tuple[list[tuple[Study, pd.DataFrame]], tuple[str, ...]]:
    """The studies of `report.joined` with their rows, and what to say of those that have no results yet.

    Raises ValueError for a folder of something else, and for a name that two studies have.
    """
    found: dict[str, tuple[Study, pd.DataFrame]] = {}
    said = []
    for folder in map(Path, study.report.joined):
        path = folder / "study.json"
        if not path.is_file() or not any((folder / part).is_dir() for part in JOINED_ROWS):
            said.append(f"Not joined: {folder} holds no results yet; run its study, then this report again.")
            continue
        other = load_study(path)
        if other.study in (study.study, *found):
            raise ValueError(f"report.joined: {folder} is another study named {other.study!r}; rename one of them")
        found[other.study] = other, read_rows(folder)
    return list(found.values()), tuple(said)


def missing_in_words(layout: Layout) -> tuple[str, ...]:
    """Which result files are not there, for a table shows only a dash; nothing where all are."""
    said = []
    if lost := [str(path.relative_to(layout.root)) for path in layout.row_files() if not path.exists()]:
        said.append(f"Missing, shown as –: {_some(lost)}; the next snakemake makes them.")
    if lost := [path.parent.name for path in layout.own_without_scores()]:
        advice = "run `mixar score-images` again, or delete their folders in score/own"
        said.append(f"Brought images whose rows are gone: {_some(lost)}; {advice}.")
    return tuple(said)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def summary_text(tables: list[Table], claims: list[Claim], files: dict[str, Path], remarks: Iterable[str] = ()) -> str:
    """What the terminal shows at the end: tables, one line per claim, missing results, and the paths of the figures."""
    paths = [files["report.html"], *(files[f"{name}.png"] for name in HEADINGS if f"{name}.png" in files)]
    lines = [textwrap.fill(claim.line(), 110, subsequent_indent=13 * " ") for claim in claims]
    said = ["The paper's claims in this study, by Fréchet distance", *lines]
    parts = [*(to_text(t) for t in tables), "\n".join(said), *(textwrap.fill(text, 110) for text in remarks)]
    return "\n\n".join([*parts, "Report and figures\n" + "\n".join(f"  {path}" for path in paths)]) + "\n"


def _curves(study: Study, layout: Layout) -> dict[tuple[str, int], pd.DataFrame]:
    pairs = [(name, seed) for name, run in study.runs.items() for seed in run.seeds if not run.weights]
    return {pair: read_losses(layout.losses(*pair)) for pair in pairs}


def _rates(study: Study, curves: Mapping[tuple[str, int], pd.DataFrame]) -> pd.DataFrame | None:
    """The loss curve of the run with TI-Mix, which records λ; None where it was not trained here."""
    assert study.report.figure8 is not None
    run, _ = split(study.report.figure8.ti_mix)
    return next((curve for (name, _), curve in curves.items() if name == run), None)


def _held_out(layout: Layout, pairs: Iterable[tuple[str, int]]) -> dict[tuple[str, int], pd.DataFrame]:
    """Held-out losses by (run, seed), as far as the trainings' metrics files are there and can be read."""
    found = {}
    for pair in pairs:
        try:
            found[pair] = pd.DataFrame(read_metrics(layout.watch(*pair) / METRICS_FILE).held_out)
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):
                print(f"report: no held-out loss of {pair[0]} seed {pair[1]}: {error}")
    return found


def alarms_of(study: Study, curves: Mapping[tuple[str, int], pd.DataFrame]) -> list[str]:
    """A line for each loss outside the band that the study expects at the end of an epoch."""
    found = []
    for (run, seed), curve in curves.items():
        rows = curve[["epoch", "loss"]].to_dict("records")
        for epoch, band in study.training_of(run).expected.items():
            loss = loss_at(rows, epoch)
            if loss is not None and (text := alarm(loss, epoch, band)):
                found.append(f"{study.runs[run].label}, seed {seed}: {text}")
    return found


# Images


def image_sheets(layout: Layout, summary: Summary) -> dict:
    """Figure 6, the reconstructions, and Figure 2 where the study has a guided run."""
    study = summary.study
    manifest = read_manifest(layout.manifest)
    names = dict(zip(manifest["label"].to_pylist(), manifest["class_name"].to_pylist(), strict=True))
    sheets = {"figure6": _grids(study, layout, names)}
    sheets["reconstructions"] = _reconstructions(summary, layout, manifest)
    if layout.figure2_runs:
        sheets["figure2"] = _pairs(study, layout, names)
    if study.scoring.copies:
        sheets["copies"] = _copies(summary, layout, manifest)
    return sheets


def _grids(study: Study, layout: Layout, names: dict[int, str]):
    """Figure 6: the same classes and indices for every run."""
    index, label = pictures.read_labels(layout.shown_samples(next(iter(study.runs))))
    chosen = pictures.pick_rows(index, label, *study.report.grid)
    wanted = [i for _, indices in chosen for i in indices]
    grids = {}
    for run in study.runs:
        images = pictures.read_selected(layout.shown_samples(run), wanted)
        parts = np.split(images, np.cumsum([len(indices) for _, indices in chosen])[:-1])
        grids[study.runs[run].label] = [(names[c], part) for (c, _), part in zip(chosen, parts, strict=True)]
    return pictures.figure6(grids)


def _pairs(study: Study, layout: Layout, names: dict[int, str]):
    runs = layout.figure2_runs
    index, label = pictures.read_labels(layout.shown_samples(runs[0]))
    wanted = pictures.pick_varied(index, label, PAIRS)
    classes = [names[int(label[index == i][0])] for i in wanted]
    images = {run: pictures.read_selected(layout.shown_samples(run), wanted) for run in ("maskbit", *runs)}
    theirs, ours = images.pop("maskbit"), {label_of(study, r): part for r, part in images.items()}
    return pictures.figure2(family(study.discrete), theirs, ours, classes)


def _copies(summary: Summary, layout: Layout, manifest: pa.Table):
    """Samples of every run above their nearest training images by features: some of all classes, then the closest."""
    study, parts = summary.study, []
    for run in study.runs:
        names = study.shown_drawing(run)
        near = pq.read_table(layout.nearest(*names)).to_pandas().set_index("index")
        shards = layout.shown_samples(run)
        index, label = pictures.read_labels(shards)
        usual = pictures.pick_varied(index, label, pictures.USUAL)
        shown = near.loc[np.setdiff1d(index, usual)]
        wanted = usual + [int(i) for i in shown.nsmallest(pictures.CLOSEST, "distance_features").index]
        rows = _rows_of(manifest, near.loc[wanted, "nearest_features"].tolist())
        originals = load_images(rows, study.data.image_size).numpy()
        share = summary.of(run, "copies_features").mean
        parts.append((label_of(study, run), pictures.read_selected(shards, wanted), originals, share))
    return pictures.copies_sheet(parts)


def _rows_of(manifest: pa.Table, wanted: list[int]) -> pa.Table:
    """The manifest's rows with these indices, in their order; an index may occur twice."""
    places = {index: place for place, index in enumerate(manifest["index"].to_pylist())}
    return manifest.take([places[index] for index in wanted])


def _reconstructions(summary: Summary, layout: Layout, manifest: pa.Table):
    study = summary.study
    paths = {kind: [layout.reconstruction(kind, s) for s in range(study.data.num_shards)]
             for kind in ("continuous", "discrete")}  # fmt: skip
    index, label = pictures.read_labels(paths["continuous"])
    wanted = pictures.pick_varied(index, label, pictures.RECONSTRUCTIONS)
    originals = _rows_of(manifest, wanted)
    labels = {kind: label_of(study, kind) for kind in paths}
    decoded = {labels[kind]: pictures.read_selected(paths[kind], wanted) for kind in labels}
    name = summary.distance("reconstruct")
    whole = {}
    for kind, tokenizer in labels.items():
        psnr, rfd = (summary.of(kind, metric, "reconstruct") for metric in ("psnr", "rfd"))
        whole[tokenizer] = f"{number(psnr.mean)} dB, {name} {number(rfd.mean)} over n = {count(psnr.n)}"
    images = load_images(originals, study.data.image_size).numpy()
    return pictures.reconstruction_sheet(images, decoded, originals["name"].to_pylist(), whole)
