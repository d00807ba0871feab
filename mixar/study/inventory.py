"""Whether the files behind a study's images have changed: a listing of names, sizes and times, without reading them.

The workflow takes `stamp` as a parameter of `ingest`. Where only times differ from what `record` wrote, small data sets
are read once more: a copy or a touched file is the same data, and nothing is made again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from mixar.assets.check import locate
from mixar.storage.files import file_sha256, json_mapping, write_text
from mixar.storage.listing import File, Listing, label_files, source_files
from mixar.study.sections import Data

READ_AGAIN = 2 * 2**30  # bytes that are read to tell a touched file from a changed one: some seconds

Row = tuple[list[Any], int, int, str | None]  # a file's path in parts, bytes, time of change in ns, SHA-256


class Recorded(BaseModel):
    """What is remembered of one source of images."""

    stamp: str
    listing: str  # digest of names, sizes and times
    files: list[Row] | None  # None: too large to be read again


RECORD = TypeAdapter(dict[str, Recorded])


def place(value: str) -> str:
    """The path behind `asset:NAME` or a plain path, which may be a pattern."""
    return str(locate(value))


def stamp(data: Data, recorded: Path) -> str:
    """A text that changes with the names, sizes and times of a study's files; as recorded where they hold the same.

    recorded: what `record` wrote, or no file. A source without files counts as unchanged: its images were deleted after
    use. A listing that fails changes the text, too: `ingest` tells the reason.
    """
    before = _recorded(recorded)
    return " ".join(_listed_stamp(data, key, before.get(key)) for key in _keys(data))


def taken(data: Data, recorded: Path, read_again: int = READ_AGAIN) -> dict:
    """What `record` writes: the listings' digests, and the files of a source of at most `read_again` bytes.

    To be taken before the files are read otherwise: what changes meanwhile must show.
    """
    before, found = _recorded(recorded), {}
    for key in _keys(data):
        files = _files(data, key)
        is_small = sum(file.size for file in files) <= read_again
        rows = [(list(f.parts), f.size, f.mtime_ns, _content(f)) for f in files] if is_small else None
        found[key] = Recorded(stamp=_stamp(files, before.get(key)), listing=_digest(files), files=rows).model_dump()
    return found


def record(found: dict, path: Path) -> None:
    """Write what was taken before `ingest` read the files, for `stamp` to compare with."""
    write_text(path, json.dumps(found))


def listed(data: Data, key: str) -> Listing:
    """The files of one source. key: path or held_out_path. Raises ValueError and OSError as `source_files` does."""
    role = "held_out" if key == "held_out_path" else "train"
    labels = place(data.held_out_labels) if data.held_out_labels else ""
    return source_files(data.source, place(getattr(data, key)), f"data.{key}", role, labels)


def _keys(data: Data) -> list[str]:
    return [key for key in ("path", "held_out_path", "held_out_labels") if getattr(data, key)]


def _files(data: Data, key: str) -> list[File]:
    return label_files(place(getattr(data, key))) if key == "held_out_labels" else listed(data, key).files


def _listed_stamp(data: Data, key: str, before: Recorded | None) -> str:
    try:
        return _stamp(_files(data, key), before)
    except (ValueError, OSError) as error:
        return hashlib.sha256(repr(error).encode()).hexdigest()


def _stamp(files: list[File], before: Recorded | None) -> str:
    now = _digest(files)
    if before and (not files or before.listing == now or _hold_the_same(files, before.files)):
        return before.stamp
    return now


def _recorded(path: Path) -> dict[str, Recorded]:
    """What `record` wrote, by key of the study's data; nothing if the file is missing or damaged."""
    try:
        return RECORD.validate_python(json_mapping(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _digest(files: list[File]) -> str:
    content = hashlib.sha256()
    for file in files:
        content.update(repr((file.parts, file.size, file.mtime_ns)).encode())
    return content.hexdigest()


def _hold_the_same(files: list[File], before: list[Row] | None) -> bool:
    """Whether files differ from the recorded ones in their times alone. Reads those whose time differs."""
    if before is None or [(list(f.parts), f.size) for f in files] != [row[:2] for row in before]:
        return False
    touched = [(f, row[3]) for f, row in zip(files, before, strict=True) if f.mtime_ns != row[2]]
    return all(content is not None and content == _content(f) for f, content in touched)


def _content(file: File) -> str | None:
    """SHA-256 of a file; None of one that cannot be read."""
    try:
        return file_sha256(Path(file.path))
    except OSError:
        return None
