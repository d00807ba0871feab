"""The manifest: one table with a row per image of a study, its split and its class.

Every later stage refers to an image by its `index` there.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixar import assets
from mixar.data.sources import SOURCES, Entry
from mixar.spec import Data

SPLITS = ("train", "held_out")

MANIFEST = pa.schema(
    [
        ("index", pa.int64()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("fine_label", pa.int32()),  # emoji: subgroup; elsewhere the class again
        ("fine_name", pa.string()),
        ("name", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),  # of the Parquet file; -1: `file` is the image itself
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def ingest_manifest(data: Data) -> pa.Table:
    """The manifest of a study's images (schema MANIFEST), ordered by split source, class and name.

    The held-out split is `held_out_path` where given; else an image is held out when the hash of its name (folders:
    its relative path; Parquet: its bytes) falls below `held_out_rate`, whatever else is in the source.
    Raises ValueError for missing, empty, truncated or unreadable sources, and for other classes than the study's.
    """
    assets.require(*(path for path in (data.path, data.held_out_path) if path and path.startswith(assets.PREFIX)))
    entries = SOURCES[data.source](_place(data.path), "data.path")
    labels = {e.label for e in entries}
    if labels != set(range(data.num_classes)):
        raise ValueError(
            f"data.num_classes: {data.num_classes}, but {data.path} holds {len(labels)} classes with labels "
            f"{min(labels)} to {max(labels)}; set the number of classes of that source"
        )
    held_out = [_share(e.identity) < data.held_out_rate for e in entries]
    if data.held_out_path:
        extra = SOURCES[data.source](_place(data.held_out_path), "data.held_out_path")
        _same_classes(entries, extra, data.held_out_path)
        held_out = [False] * len(entries) + [True] * len(extra)
        entries = entries + extra
    table = _limited(_table(entries, held_out), data)
    for split in SPLITS:
        if split not in table["split"].to_pylist():
            raise ValueError(f"data: the {split} split has no image among {len(table)}; change held_out_rate or limit")
    if data.source == "emoji":
        _uniform(table, data.image_size)
    return table


def _place(value: str) -> str:
    """The path behind `asset:NAME`; a plain path as it is, for it may be a pattern."""
    return str(assets.resolve(value) if value.startswith(assets.PREFIX) else assets.locate(value))


def count_smaller(manifest: pa.Table, size: int) -> int:
    """Number of images whose short side is below `size` pixels: the ADM crop enlarges them."""
    return int(pc.sum(pc.less(pc.min_element_wise(manifest["width"], manifest["height"]), size)).as_py() or 0)


def _share(identity: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big") / 2**64


def _table(entries: list[Entry], held_out: list[bool]) -> pa.Table:
    columns = {name: [getattr(e, name) for e in entries] for name in Entry._fields if name != "identity"}
    columns["split"] = [SPLITS[h] for h in held_out]
    columns["index"] = list(range(len(entries)))
    return pa.table({name: columns[name] for name in MANIFEST.names}, schema=MANIFEST)


def _limited(table: pa.Table, data: Data) -> pa.Table:
    """At most `limit` rows: in each split the first image of every class, then the second of every class, and so on."""
    if data.limit is None or data.limit >= len(table):
        return table
    wanted_held_out = max(1, round(data.limit * data.held_out_rate))
    split, label = np.array(table["split"]), np.array(table["label"])
    kept = []
    for name, wanted in zip(SPLITS, (data.limit - wanted_held_out, wanted_held_out), strict=True):
        rows = np.flatnonzero(split == name)
        rank = np.zeros(len(rows), int)  # position of a row within its class
        for c in np.unique(label[rows]):
            members = label[rows] == c
            rank[members] = np.arange(members.sum())
        kept.append(rows[np.lexsort((label[rows], rank))[:wanted]])
    table = table.take(np.sort(np.concatenate(kept)))
    return table.set_column(0, "index", pa.array(range(len(table)), pa.int64()))


def _same_classes(entries: list[Entry], extra: list[Entry], path: str) -> None:
    known = {(e.label, e.class_name, e.fine_label, e.fine_name) for e in entries}
    for e in extra:
        if (e.label, e.class_name, e.fine_label, e.fine_name) not in known:
            raise ValueError(
                f"data.held_out_path: {path} has class {e.class_name!r} (label {e.label}), which the training images "
                "do not number so; both sources need the same classes"
            )


def _uniform(table: pa.Table, size: int) -> None:
    sizes = sorted(set(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)))
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        raise ValueError(f"data.path: emoji images must share one square size, found {sizes}")
    if sizes[0][0] < size:
        raise ValueError(f"data.image_size: {size} pixels, but {table['name'][0]!r} and the others have {sizes[0][0]}")
