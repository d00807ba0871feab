"""Feature files: Parquet with one row per image, and who made the features in the schema metadata.

Columns index int64, label int32, features and logits float32 lists of one fixed length each; further networks have a
column of their name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mixar.process.failures import is_shortage
from mixar.scoring.features import FeatureSet, merge
from mixar.storage.files import file_sha256, iter_batches, json_mapping, write_table

FORMAT = "mixar features, version 1"
COLUMNS = ("index", "label", "features", "logits")
GROUP_ROWS = 10_000  # of a row group: the vectors of a million images have more values than Arrow counts in one list
PSNR = "psnr"  # column of reconstructed images, carried along with their features
CFG = "cfg"  # column of a sweep's images, of which an index has one for each scale


@dataclass(frozen=True)
class Scored:
    """What feature files hold, merged, and who made them."""

    features: FeatureSet
    header: dict[str, str]  # extractor, sha256, protocol
    psnr: np.ndarray | None = None  # [n] dB, of reconstructions
    further: dict[str, FeatureSet] = field(default_factory=dict)  # of further networks, by their names
    further_sha256: dict[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()  # what each file was made of, as `write_features` was told


def write_features(
    path: Path,
    index,
    labels,
    outputs: tuple[Tensor, Tensor],
    header: dict,
    psnr=None,
    *,
    cfg: float | None = None,
    further: Mapping[str, tuple[Tensor, str]] | None = None,
    images: Path | str = "",
    group_rows: int = GROUP_ROWS,
) -> None:
    """Write features [n, F] and logits [n, V] with their keys and the header.

    header: extractor, sha256, protocol. psnr: a column that comes with reconstructed images, dB. cfg: the guidance
    scale of a sweep's images, a column, too. further: features [n, F] and the file's SHA-256 of other networks, by
    name. images: the file they were made from, or a hash of what they were made from, to know it again.
    """
    further = further or {}
    vectors = [_column(values) for values in outputs]
    keys = {"index": pa.array(np.asarray(index), pa.int64()), "label": pa.array(np.asarray(labels), pa.int32())}
    columns = {**keys, **dict(zip(("features", "logits"), vectors, strict=True))}
    if psnr is not None:
        columns[PSNR] = psnr
    if cfg is not None:
        columns[CFG] = pa.array(np.full(len(keys["index"]), cfg))
    columns |= {name: _column(values) for name, (values, _) in further.items()}
    metadata = _made_with(header, {name: sha256 for name, (_, sha256) in further.items()})
    metadata["images"] = file_sha256(images) if isinstance(images, Path) else images
    metadata["state"] = _state(images) if isinstance(images, Path) else ""
    write_table(path, pa.table(columns, metadata=metadata), group_rows)


def _made_with(header: dict, further: dict[str, str]) -> dict[str, str]:
    return {"mixar": json.dumps({"format": FORMAT, **header}), "further": json.dumps(further)}


def is_made_of(path: Path, header: dict, further: dict[str, str], images: str) -> bool:
    """Whether there are features of these images at `path`, by these networks (further: SHA-256 by name)."""
    try:
        known = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):
        return False
    wanted = {**_made_with(header, further), "images": images}
    return all(known.get(key.encode(), b"").decode() == value for key, value in wanted.items())


def _column(values: Tensor) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().ravel()), values.shape[1])


def check_fresh(path: Path, images: Path) -> None:
    """Raise ValueError where the images have changed since their features were made; images may also be gone.

    They are hashed unless size and time of change are those that the features remember: a copy may be older than what
    was made of the original.
    """
    known = pq.read_schema(path).metadata or {}
    if not images.is_file() or known.get(b"state", b"").decode() == _state(images):
        return
    if known.get(b"images", b"").decode() != file_sha256(images):
        raise ValueError(f"{path}: features of images that {images} no longer holds; run `features --images {images}`")


def _state(file: Path) -> str:
    """Size in bytes and time of the last change in ns."""
    return f"{file.stat().st_size} {file.stat().st_mtime_ns}"


def join_features(path: Path, parts: Sequence[Path]) -> None:
    """Write the rows of several files that one network made as one file, in the order of the files."""
    write_table(path, pa.concat_tables([_read_table(part) for part in parts]), GROUP_ROWS)


def read_features(paths: Sequence[Path], cfg: float | None = None) -> Scored:
    """The features of several files as one set, sorted by image index. cfg: the images of that scale alone.

    Raises ValueError naming the file that is missing, damaged or foreign, or that another network made; and for an
    index that occurs twice.
    """
    tables = {path: _read_table(path, cfg) for path in paths}
    headers, hashes = ({p: _said(p, table.schema, key) for p, table in tables.items()} for key in ("mixar", "further"))
    first = paths[0]
    for found in (headers, hashes):
        for path, header in found.items():
            if header != found[first]:
                raise ValueError(f"{path}: made with {header}, but {first} with {found[first]}; score both again")
    parts = [
        (t["index"].to_numpy(), t["label"].to_numpy(), _vectors(t, "features"), _vectors(t, "logits"))
        for t in tables.values()
    ]
    psnr = None
    if all(PSNR in table.column_names for table in tables.values()):
        order = np.argsort(np.concatenate([part[0] for part in parts]), kind="stable")
        psnr = np.concatenate([table[PSNR].to_numpy() for table in tables.values()])[order]
    further = {name: _merged_further(tables.values(), name) for name in hashes[first]}
    images = tuple(table.schema.metadata.get(b"images", b"").decode() for table in tables.values())
    return Scored(merge(parts), headers[first], psnr, further, hashes[first], images)


def _merged_further(tables: Iterable[pa.Table], name: str) -> FeatureSet:
    """Features of a further network; it has no logits."""
    keys = [(t["index"].to_numpy(), t["label"].to_numpy(), _vectors(t, name)) for t in tables]
    return merge([(*part, torch.zeros(len(part[0]), 0)) for part in keys])


def _read_table(path: Path, cfg: float | None = None) -> pa.Table:
    try:
        parquet = pq.ParquetFile(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such features; run `score` for these images first") from None
    except (pa.ArrowException, OSError) as error:
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: not a complete Parquet file ({error}); delete it and run `score` again") from None
    schema = parquet.schema_arrow
    if _said(path, schema, "mixar").get("format") != FORMAT or any(column not in schema.names for column in COLUMNS):
        raise ValueError(f"{path}: expected {FORMAT!r} with columns {', '.join(COLUMNS)}, found {schema.names}; delete "
                         "it and run `score` again")  # fmt: skip
    table = pa.Table.from_batches(iter_batches(parquet, path, schema.names), schema)
    return table if cfg is None else table.filter(pc.equal(table[CFG], cfg))


def _said(path: Path, schema: pa.Schema, key: str) -> dict:
    """What `write_features` put into the schema's metadata under a key."""
    try:
        return json_mapping((schema.metadata or {}).get(key.encode(), b"{}"))
    except ValueError as error:
        raise ValueError(f"{path}: no features of this project, or damaged: {key!r} in its metadata is unreadable "
                         f"({error}); delete it and run `score` again") from None  # fmt: skip


def _vectors(table: pa.Table, column: str) -> Tensor:
    # one part after the other: Arrow's own copy of the whole column would double the memory
    parts = [part.flatten().to_numpy().reshape(len(part), -1) for part in table[column].chunks if len(part)]
    size = table[column].type.list_size
    found = np.concatenate(parts) if parts else np.empty((0, size), np.float32)
    return torch.from_numpy(found if len(parts) > 1 else found.copy())
