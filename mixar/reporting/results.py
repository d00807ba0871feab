"""Result rows: one number a row, with its keys, the run's settings and where it came from, as Parquet.

The form is long: a new metric is new rows, never a new column. Loss curves are Parquet files of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mixar.process.provenance import provenance
from mixar.reporting.names import OTHERS, OWN, label_of
from mixar.storage.files import json_mapping, write_table
from mixar.storage.listing import PARQUET, list_files
from mixar.study.digests import Digests
from mixar.study.names import MASKBIT, split
from mixar.study.sections import Study

FORMAT = "mixar result rows, version 3"
EARLIER = {"mixar result rows, version 2": ("cfg", "precision")}  # and the columns that it lacks, which become empty
SOURCES = ("sample", "sweep", "reconstruct", "measure")

SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("run", pa.string()),
        ("sampler", pa.string()),
        ("seed", pa.int64()),
        ("cfg", pa.float64()),  # guidance scale that the images were drawn with
        ("source", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),  # 95 % interval
        ("high", pa.float64()),
        ("replicates", pa.list_(pa.float64())),  # the value with each jackknife group of images left out, in order
        ("n", pa.int64()),  # images (or repeats) behind the value
        ("protocol", pa.string()),
        ("unit", pa.string()),
        # settings of the run
        ("label", pa.string()),
        ("strategy", pa.string()),
        ("model", pa.string()),
        ("epochs", pa.int64()),
        ("epochs_total", pa.int64()),  # with the epochs of every parent
        ("ti_mix", pa.string()),
        ("parent", pa.string()),
        ("precision", pa.string()),  # of the passes behind the value
        # provenance
        ("commit", pa.string()),
        ("dirty", pa.bool_()),
        ("versions", pa.string()),  # JSON
        ("platform", pa.string()),
        ("device", pa.string()),
        ("digest", pa.string()),
        ("hashes", pa.string()),  # JSON: sha256 of weights, extractor, reference, as far as they are known
        ("created", pa.string()),  # ISO 8601, UTC
    ],
    metadata={"mixar": FORMAT},
)
STEADY = 0.3  # largest spread of a time's repeats at which it is printed unmarked
REQUIRED = ("study", "run", "source", "metric", "value")
LOSS_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "guidance_rate", "seconds")
ROW_FOLDERS = (
    "score/sample",
    "score/sweep",
    "score/reconstruct",
    "score/own",
    "measure",
)  # feature folders hold no rows


def make_rows(
    study: Study,
    run: str,
    *,
    source: str,
    values: Iterable[Mapping],
    seed: int | None = None,
    sampler: str | None = None,
    protocol: str | None = None,
    digest: str | None = None,
    device: str = "cpu",
    hashes: Mapping[str, str] | None = None,
    label: str | None = None,
) -> list[dict]:
    """Rows of one run, one for each of `values`.

    values: mappings with metric and value, and low, high, replicates, n, unit, cfg where they are known; protocol,
    where a value has one of its own. run: a run of the study, or 'maskbit', 'continuous', 'discrete', or for images
    from outside the study a name that begins with OWN, which needs a label. hashes: sha256 by name, such as
    {"weights": ..., "extractor": ...}.
    Raises ValueError for an unknown run or source, an unknown key, or a value that is not finite.
    """
    if source not in SOURCES:
        raise ValueError(f"result rows: source {source!r} is unknown; choose from {', '.join(SOURCES)}")
    code = {f"code_{where}": sha256 for where, sha256 in Digests(study).own_code(run).items()}
    keys = {"study": study.study, "run": run, "sampler": sampler, "seed": seed, "source": source, "protocol": protocol}
    common = {
        **keys,
        **run_settings(study, run, label),
        "precision": precision_of(study, source, run, sampler),
        **provenance(),
        "device": device,
        "digest": digest,
        "hashes": json.dumps({**(hashes or {}), **code}, sort_keys=True),
    }
    return [{**common, **_checked(value, run)} for value in values]


def _checked(value: Mapping, run: str) -> dict:
    known = {"metric", "value", "low", "high", "replicates", "n", "unit", "protocol", "cfg"}
    if set(value) - known or not {"metric", "value"} <= set(value):
        raise ValueError(f"result rows of {run!r}: each value needs metric and value, and may have low, high, "
                         f"replicates, n, unit, protocol, cfg; found {sorted(value)}")  # fmt: skip
    for key in ("value", "low", "high"):
        if value.get(key) is not None and not math.isfinite(value[key]):
            raise ValueError(f"result rows of {run!r}: {value['metric']} has the {key} {value[key]}; a result must be "
                             "finite")  # fmt: skip
    return dict(value)


def run_settings(study: Study, run: str, label: str | None = None) -> dict:
    """The columns that describe a run: label, strategy, model, epochs, epochs_total, ti_mix, parent."""
    if run in (networks := study.networks):
        r = networks[run]
        ti_mix = None if r.ti_mix is None else f"{r.ti_mix.schedule} {r.ti_mix.start:g} to {r.ti_mix.end:g}"
        return {
            "label": r.label,
            "strategy": r.guidance.strategy,
            "model": r.model,
            "epochs": study.epochs_of(run),
            "epochs_total": total_epochs(study, run),
            "ti_mix": ti_mix,
            "parent": r.parent,
        }
    if run.startswith(OWN) and label:
        return {"label": label}
    if run not in OTHERS:
        raise ValueError(f"run {run!r} is unknown; choose from {', '.join([*networks, *OTHERS])}")
    return {"label": label_of(study, run)}


def precision_of(study: Study, source: str, run: str, sampler: str | None) -> str | None:
    """The precision of the passes behind a value: of drawing, reconstructing, or else of training; None for images from
    elsewhere."""
    if run.startswith(OWN):
        return None
    if source == "reconstruct":
        return getattr(study, run).precision
    if run == MASKBIT:
        return study.generator.sampler.precision
    if sampler is not None:
        return study.samplers[sampler].precision
    return study.training_of(split(run)[0]).precision


def total_epochs(study: Study, name: str) -> int:
    """Epochs behind a network's weights, its parents' and its start file's included."""
    return study.epochs_of(name) + epochs_before(study, name)


def epochs_before(study: Study, name: str) -> int:
    """Epochs behind the weights that a network's run continues."""
    r = study.runs[split(name)[0]]
    return total_epochs(study, r.parent) if r.parent else r.start_epochs


def spread(value: float, low: float, high: float) -> float:
    """Range of the repeats as a share of their median. Above STEADY the machine was busy, and the time is marked."""
    return (high - low) / value


def write_rows(path: str | Path, rows: list[dict]) -> None:
    """Write rows to one Parquet file, under a temporary name first. Raises ValueError for incomplete rows."""
    if not rows:
        raise ValueError(f"{path}: no result rows to write")
    for row in rows:
        missing = [key for key in REQUIRED if row.get(key) is None]
        if missing or set(row) - set(SCHEMA.names):
            raise ValueError(
                f"{path}: a row lacks {missing} or has unknown columns {sorted(set(row) - set(SCHEMA.names))}"
            )
    write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def read_rows(root: str | Path) -> pd.DataFrame:
    """Every result row below a study's folder, in a stable order.

    Raises ValueError if there is none, or if a file among them is truncated or holds something else.
    """
    root = Path(root)
    folders = [root / folder for folder in ROW_FOLDERS if (root / folder).is_dir()]
    files = [Path(file.path) for folder in folders for file in list_files(folder, PARQUET).files]
    if not files:
        raise ValueError(f"{root}: no result rows in {', '.join(ROW_FOLDERS)}; run the score and measure stages first")
    tables = [_read_rows_file(f) for f in files]
    frame = pa.concat_tables(tables).to_pandas()
    frame["seed"] = frame["seed"].astype("Int64")
    frame["n"] = frame["n"].astype("Int64")
    return frame


def _read_rows_file(path: Path) -> pa.Table:
    table = _read_parquet(path)
    found = (table.schema.metadata or {}).get(b"mixar", b"").decode(errors="replace")
    for column in EARLIER.get(found, ()):
        if column not in table.schema.names:
            field = SCHEMA.field(column)
            table = table.append_column(field, pa.nulls(len(table), field.type))
    if found in EARLIER and set(table.schema.names) == set(SCHEMA.names):
        table, found = table.select(SCHEMA.names), FORMAT
    if found != FORMAT or table.schema.names != SCHEMA.names:
        raise ValueError(f"{path}: expected {FORMAT!r}, found {found or 'a foreign Parquet file'!r}; move it away, "
                         "or delete it and run its stage again")  # fmt: skip
    for column in ("versions", "hashes"):
        for text in table[column].drop_null().unique().to_pylist():
            try:
                json_mapping(text)
            except ValueError as error:
                advice = "delete it and run its stage again"
                raise ValueError(f"{path}: column {column} is damaged ({error}); {advice}") from None
    return table


def read_losses(path: str | Path) -> pd.DataFrame:
    """A loss curve, one row a recorded step. Raises ValueError if the file is truncated or lacks a column."""
    frame = _read_parquet(Path(path)).to_pandas()
    missing = [c for c in LOSS_COLUMNS if c not in frame.columns]
    if missing:
        raise ValueError(
            f"{path}: a loss curve has the columns {', '.join(LOSS_COLUMNS)}; missing {', '.join(missing)}"
        )
    return frame


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); delete it and run its stage again") from error
