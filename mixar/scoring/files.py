"""Feature files: Parquet with one row an image, and who made the features in the schema metadata.

Columns index int64, label int32, features and logits float32 lists of one fixed length each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mixar.scoring.metrics import FeatureSet, merge

FORMAT = "mixar features, version 1"
COLUMNS = ("index", "label", "features", "logits")
PSNR = "psnr"  # column of reconstructed images, carried along with their features


@dataclass(frozen=True)
class Scored:
    """What feature files hold, merged, and who made them."""

    features: FeatureSet
    header: dict[str, str]  # extractor, sha256, protocol
    psnr: np.ndarray | None = None  # [n] dB, of reconstructions


def write_features(path: Path, index, labels, outputs: tuple[Tensor, Tensor], header: dict, psnr=None) -> None:
    """Write features [n, F] and logits [n, V] with their keys and the header, under a temporary name first.

    header: extractor, sha256, protocol. psnr: a column that comes with reconstructed images, dB.
    """
    vectors = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().ravel()), values.shape[1]) for values in outputs
    ]
    keys = {"index": pa.array(np.asarray(index), pa.int64()), "label": pa.array(np.asarray(labels), pa.int32())}
    columns = {**keys, **dict(zip(("features", "logits"), vectors, strict=True))}
    if psnr is not None:
        columns[PSNR] = psnr
    table = pa.table(columns, metadata={"mixar": json.dumps({"format": FORMAT, **header})})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)


def read_features(paths: Sequence[Path]) -> Scored:
    """The features of several files as one set, sorted by image index.

    Raises ValueError naming the file that is missing, damaged or foreign, or that another network made; and for an
    index that occurs twice.
    """
    tables = {path: _read_table(path) for path in paths}
    headers = {path: json.loads(table.schema.metadata[b"mixar"]) for path, table in tables.items()}
    first = paths[0]
    for path, header in headers.items():
        if header != headers[first]:
            raise ValueError(f"{path}: made with {header}, but {first} with {headers[first]}; score both again")
    parts = [
        (t["index"].to_numpy(), t["label"].to_numpy(), _vectors(t, "features"), _vectors(t, "logits"))
        for t in tables.values()
    ]
    psnr = None
    if all(PSNR in table.column_names for table in tables.values()):
        order = np.argsort(np.concatenate([part[0] for part in parts]), kind="stable")
        psnr = np.concatenate([table[PSNR].to_numpy() for table in tables.values()])[order]
    return Scored(merge(parts), headers[first], psnr)


def _read_table(path: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such features; run `score` for these images first") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a complete Parquet file ({error}); delete it and run `score` again") from None
    content = json.loads((table.schema.metadata or {}).get(b"mixar", b"{}"))
    if content.get("format") != FORMAT or any(column not in table.column_names for column in COLUMNS):
        raise ValueError(f"{path}: expected {FORMAT!r} with columns {', '.join(COLUMNS)}, found {table.column_names}")
    return table


def _vectors(table: pa.Table, column: str) -> Tensor:
    values = table[column].combine_chunks()
    return torch.from_numpy(values.flatten().to_numpy().reshape(len(values), values.type.list_size).copy())
