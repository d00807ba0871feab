"""External files that a study may need: where they are looked for, and which are whole.

`ASSETS` is the one table. A study names a file of its own by path, or a row of the table as `asset:NAME`. Rows are
looked for under MIXAR_ASSETS (default: mixar/assets in the user's cache). Nothing here downloads, `mixar.assets.fetch`
does; no torch here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from mixar.assets.shipped import RESOURCES, ROOT
from mixar.assets.table import ASSETS, PREFIX, Asset, ByHand
from mixar.files import file_sha256, json_mapping
from mixar.listing import is_service

HASHED_AT_ONCE = 64 * 2**20  # bytes that are read in a moment
ROUNDED_BY = 0.01  # of a size that its source rounds


def asset_named(name: str) -> Asset:
    """The row of a name, with or without `asset:`. Raises ValueError for an unknown name."""
    found = ASSETS.get(name.removeprefix(PREFIX))
    if found is None:
        raise ValueError(f"{name!r}: no such asset; choose from {', '.join(ASSETS)}")
    return found


def locate(value: str) -> Path:
    """The path behind `asset:NAME` or a plain path, there or not. Raises ValueError for an unknown name.

    A relative path begins at the working directory; what is not there may be a file that comes with mixar, such as
    `resources/noto-emoji-32.parquet`.
    """
    if value.startswith(PREFIX):
        return asset_named(value).path
    path = Path(value)
    shipped = ROOT / path  # an absolute path stays what it is
    return shipped if not path.exists() and shipped.is_relative_to(RESOURCES) and shipped.exists() else path


def resolve(value: str) -> Path:
    """The existing file or folder behind `asset:NAME` or a plain path.

    Raises ValueError where it is missing, or where its size or hash is not the table's: with what would do.
    """
    path = locate(value)
    asset = asset_named(value) if value.startswith(PREFIX) else None
    if not (asset.is_there if asset else path.exists()):
        raise ValueError(describe(asset) if asset else f"{path}: no such file or folder")
    if problem := asset and check(asset):
        raise ValueError(f"{path}: {problem}; fetch it again: mixar assets get {asset.name}")
    return path


def require(*values: str | None) -> None:
    """Resolve what a stage reads later: the first lines of each. None stands for nothing.

    Raises ValueError as `resolve`, with everything that is missing.
    """
    problems = []
    for value in dict.fromkeys(filter(None, values)):
        try:
            resolve(value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))


def check(asset: Asset, path: Path | None = None) -> str | None:
    """What is wrong with an asset that is there: its size or its hash; None where nothing is, or nothing is known.

    A hash is computed once and remembered beside the file (see `memory_of`). `path`: look there instead.
    """
    path = path or asset.path
    if problem := _shallow_problem(asset, path):
        return problem
    if asset.known_hash is None:
        return None
    name, expected = asset.known_hash
    return _difference(name, expected, digest(path, name))


def state(asset: Asset) -> tuple[str, str]:
    """How an asset stands, and why, at once: hashes of small files are computed here, those of others recalled.

    Returns one of missing, damaged, intact, and "there" where its hash is unknown or was not computed yet.
    """
    if not asset.is_there:
        return "missing", ""
    if problem := _shallow_problem(asset, asset.path):
        return "damaged", problem
    if asset.known_hash is None:
        # A hash is remembered of such a file only where its server announced one when it was fetched.
        is_whole = asset.is_folder or recalled(asset.path, "sha256")
        return ("intact", "") if is_whole else ("there", "its hash is not known, so a damage would not show")
    name, expected = asset.known_hash
    is_small = asset.path.stat().st_size < HASHED_AT_ONCE
    found = digest(asset.path, name) if is_small else recalled(asset.path, name)
    if found is None:
        return "there", f"its hash is not computed yet: mixar assets check {asset.name}"
    problem = _difference(name, expected, found)
    return ("damaged", problem) if problem else ("intact", "")


def _shallow_problem(asset: Asset, path: Path) -> str | None:
    if asset.num_folders is not None:
        found = sum(e.is_dir() and not is_service(e.name) for e in os.scandir(path))
        return None if found == asset.num_folders else f"expected {asset.num_folders:,} class folders, found {found:,}"
    return size_problem(asset, path.stat().st_size)


def size_problem(asset: Asset, found: int) -> str | None:
    """What is wrong with a file's size in bytes; None where nothing is, or where nobody states it."""
    if asset.num_bytes is not None and found != asset.num_bytes:
        return f"expected {asset.num_bytes:,} bytes, found {found:,}"
    if asset.about_bytes is not None and abs(found - asset.about_bytes) > ROUNDED_BY * asset.about_bytes:
        return f"expected about {asset.about_bytes:,} bytes, found {found:,}"
    return None


def _difference(name: str, expected: str, found: str) -> str | None:
    return None if found.startswith(expected) else f"expected {_hash_in_words(name, expected)}, found {found}"


def _hash_in_words(name: str, value: str) -> str:
    return f"{name.replace('_', ' ')} {value}{'' if len(value) >= 40 else '…'}"  # hex digits of the shorter kind


def recognised_by(asset: Asset) -> str:
    """Size and hash in words, as far as they are known; empty where nothing is."""
    known = [f"{asset.num_folders:,} class folders"] if asset.num_folders else []
    known += [f"{asset.num_bytes:,} bytes"] if asset.num_bytes else []
    known += [_hash_in_words(*asset.known_hash)] if asset.known_hash else []
    return ", ".join(known)


def facts(asset: Asset) -> dict[str, str]:
    """The whole row in words, for `mixar assets show` and for a stage that misses it."""
    rows = {
        "expected at": f"{asset.path}{'/' if asset.is_folder else ''}",
        "size": "" if asset.num_bytes else asset.size,
        "recognised by": recognised_by(asset),
        "licence": asset.licence,
        "comes from": asset.source,
        "get it with": way_to_get(asset),
        "or with": "" if isinstance(asset.way, ByHand) else asset.command,
    }
    return {label: text for label, text in rows.items() if text}


def way_to_get(asset: Asset) -> str:
    """The command that gets an asset, or what a person must do."""
    return asset.command if isinstance(asset.way, ByHand) else f"mixar assets get {asset.name}"


def describe(asset: Asset) -> str:
    """The asset's row in words, for a stage that misses it."""
    rows = [f"  {label:<14}{text}" for label, text in facts(asset).items()]
    return "\n".join([f"asset {asset.name!r} is missing: {asset.what}", *rows])


def git_blob(path: Path) -> str:
    """What `git hash-object` prints of a file."""
    content = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()


HASHES = {"sha256": file_sha256, "git_blob": git_blob}


def memory_of(path: Path) -> Path:
    """The small file beside `path` that remembers its hashes, with the size and time of change they belong to."""
    return path.with_name(f".{path.name}.verified")


def recalled(path: Path, name: str) -> str | None:
    """The remembered hash of a file; None where there is none, or where the file has changed since."""
    return _remembered(path).get(name)


def digest(path: Path, name: str) -> str:
    """A hash of a file, by its name in HASHES: computed once, then remembered until the file changes."""
    known = _remembered(path)
    if name not in known:
        known[name] = HASHES[name](path)
        _remember(path, known)
    return known[name]


def _remembered(path: Path) -> dict:
    """Size and time of change of the file as it is now, and the hashes that were computed of just this file."""
    now = {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    try:
        known = json_mapping(memory_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return now
    return known if now.items() <= known.items() else now


def _remember(path: Path, known: dict) -> None:
    temporary = memory_of(path).with_name(f"{memory_of(path).name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(known), encoding="utf-8")
        os.replace(temporary, memory_of(path))
    except OSError:  # a folder that others share may be read-only: then every call hashes again
        with contextlib.suppress(OSError):
            temporary.unlink()
