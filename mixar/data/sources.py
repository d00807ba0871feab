"""Where images come from: the embedded emoji, folders of class folders, Hugging Face style Parquet.

A source is a function (path, settings key for messages) -> entries, one row of the table at the foot. Every problem
with files is met here, before any work: ValueError naming the file, what was found and what would do.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from mixar.files import iter_batches

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Entry(NamedTuple):
    """One image of a source: the manifest's columns, and the text that decides its split."""

    label: int
    class_name: str
    fine_label: int
    fine_name: str
    name: str
    file: str
    row: int
    width: int
    height: int
    identity: str


def _emoji(path: str, key: str) -> list[Entry]:
    """Entries of the embedded emoji: one drawing per concept, so no skin-tone variants and no pixel duplicates."""
    file = _parquet_files(path, key)[0]
    columns = ["image", "label", "group", "subgroup", "name", "skin_tone", "duplicate_of"]
    table = open_parquet(file, columns).read(columns=columns)
    subgroups: dict[str, int] = {}
    entries = []
    for row, e in enumerate(table.to_pylist()):
        if e["skin_tone"] or e["duplicate_of"] is not None:
            continue
        fine = subgroups.setdefault(e["subgroup"], len(subgroups))
        size = _size_of(io.BytesIO(e["image"]), f"{file} row {row}")
        names = (e["label"], e["group"], fine, e["subgroup"], e["name"])
        entries.append(Entry(*names, str(file), row, *size, e["name"]))
    if not entries:
        raise ValueError(f"{key}: {file} holds no emoji without skin tone; rebuild it with resources/build_emoji.py")
    return entries


def _folder(path: str, key: str) -> list[Entry]:
    """Entries of a folder of class folders; classes and images in the order of their names."""
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{key}: {path} is no folder; give a folder with one folder of images per class")
    classes = sorted(d for d in root.iterdir() if d.is_dir())
    if not classes:
        raise ValueError(f"{key}: {path} has no class folders; give a folder with one folder of images per class")
    files = []
    for label, folder in enumerate(classes):
        found = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"{key}: class folder {folder} has no image ({', '.join(SUFFIXES)})")
        files += [(label, f) for f in found]
    with ThreadPoolExecutor(16) as pool:  # network file systems: waiting, not computing
        sizes = pool.map(lambda item: _size_of(item[1], str(item[1])), files)
        return [
            Entry(label, f.parent.name, label, f.parent.name, f.name, str(f), -1, *size, f"{f.parent.name}/{f.name}")
            for (label, f), size in zip(files, sizes, strict=True)
        ]


def _parquet(path: str, key: str) -> list[Entry]:
    """Entries of Hugging Face style Parquet: columns `image` (struct with `bytes`, `path`) and `label`."""
    entries, files = [], _parquet_files(path, key)
    for file in files:
        open_parquet(file, ["image", "label"])  # a damaged file is met before the others are read
    for file in files:
        parquet = open_parquet(file, ["image", "label"])
        names, batches = _label_names(parquet.schema_arrow), iter_batches(parquet, file, ["image", "label"])
        for row, e in enumerate(e for batch in batches for e in batch.to_pylist()):
            entries.append(_parquet_entry(e, names, file, row))
    if not entries:
        raise ValueError(f"{key}: {path} holds no rows")
    return entries


def _parquet_entry(e: dict, names: list[str] | None, file: Path, row: int) -> Entry:
    image, label, where = e["image"], e["label"], f"{file} row {row}"
    if not isinstance(image, dict) or not image.get("bytes"):
        raise ValueError(f"{where}: image.bytes is missing; images must be embedded in the Parquet file")
    if label is not None and type(label) is not int:  # True is an int, too
        raise ValueError(f"{where}: label {label!r}; expected the number of a class, 0 or more")
    if label is None or label < 0 or (names and label >= len(names)):
        raise ValueError(f"{where}: label {label} names no class; give a split that has labels")
    class_name = names[label] if names else str(label)
    size = _size_of(io.BytesIO(image["bytes"]), where)
    name = image.get("path") or f"{file.name}:{row}"
    identity = hashlib.blake2b(image["bytes"], digest_size=16).hexdigest()
    return Entry(label, class_name, label, class_name, name, str(file), row, *size, identity)


def _label_names(schema: pa.Schema) -> list[str] | None:
    """Class names from the metadata that the `datasets` library writes, or None."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):  # other metadata, or labels without names
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _parquet_files(path: str, key: str) -> list[Path]:
    """Parquet files at a path: one file, the files of a folder, or those that a pattern with * matches."""
    root = Path(path)
    found = [root] if root.is_file() else sorted(root.rglob("*.parquet")) if root.is_dir() else []
    found = found or sorted(Path(p) for p in glob.glob(path) if os.path.isfile(p))
    if not found:
        raise ValueError(f"{key}: no Parquet file at {path}")
    return found


def open_parquet(file: Path, columns: list[str]) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a complete Parquet file ({error}); copy or download it again") from None
    missing = [c for c in columns if c not in parquet.schema_arrow.names]
    if missing:
        raise ValueError(f"{file}: columns {missing} are missing; found {parquet.schema_arrow.names}")
    return parquet


def _size_of(source, where: str) -> tuple[int, int]:
    try:
        with Image.open(source) as image:
            return image.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{where}: not readable as an image ({error})") from None


SOURCES: dict[str, Callable[[str, str], list[Entry]]] = {"emoji": _emoji, "folder": _folder, "parquet": _parquet}
