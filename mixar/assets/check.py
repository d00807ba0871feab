"""External files: their expected paths, and whether they match the table.

A study names a file of its own by path, or a row of the table as `asset:NAME`. Assets are expected under MIXAR_ASSETS
(default: mixar/assets in the user's cache). Stages check sizes; `mixar assets get` and `mixar assets check` also check
hashes. `mixar.assets.fetch` downloads.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mixar.assets.shipped import RESOURCES, ROOT
from mixar.assets.table import ASSETS, PREFIX, Asset, ByHand
from mixar.storage.files import file_sha256
from mixar.storage.listing import is_service

ROUNDED_BY = 0.01  # of a size that its source rounds


def asset_named(name: str) -> Asset:
    """The row of a name, with or without `asset:`. Raises ValueError for an unknown name."""
    found = ASSETS.get(name.removeprefix(PREFIX))
    if found is None:
        raise ValueError(f"{name!r}: no such asset; choose from {', '.join(ASSETS)}")
    return found


def locate(value: str) -> Path:
    """The path behind `asset:NAME` or a plain path, whether or not it exists. Raises ValueError for an unknown name.

    Relative paths start at the working directory. A path that does not exist there may be a file that comes with mixar,
    such as `resources/noto-emoji-32.parquet`.
    """
    if value.startswith(PREFIX):
        return asset_named(value).path
    path = Path(value)
    shipped = ROOT / path  # an absolute path stays what it is
    return shipped if not path.exists() and shipped.is_relative_to(RESOURCES) and shipped.exists() else path


def resolve(value: str) -> Path:
    """The existing file or folder behind `asset:NAME` or a plain path.

    Raises ValueError, with what to do, if it is missing or an asset of the wrong size.
    """
    path = locate(value)
    if not value.startswith(PREFIX):
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
        return path
    asset = asset_named(value)
    if not asset.is_there:
        raise ValueError(describe(asset))
    if problem := size_problem(asset, path):
        raise ValueError(f"{path}: {problem}; get it again: mixar assets get {asset.name}")
    return path


def require(*values: str | None) -> None:
    """Resolve files that a stage reads later, before its work starts. None is skipped.

    Raises ValueError naming everything that is missing.
    """
    problems = []
    for value in dict.fromkeys(filter(None, values)):
        try:
            resolve(value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))


# Size and hash


def damage(asset: Asset, path: Path | None = None) -> str | None:
    """What is wrong with an existing asset, by size and hash; None if nothing is.

    path: check this file instead, such as a finished download.
    """
    path = path or asset.path
    if (problem := size_problem(asset, path)) or asset.known_hash is None:
        return problem
    name, expected = asset.known_hash
    found = HASHES[name](path)
    return None if found.startswith(expected) else f"expected {_hash_in_words(name, expected)}, found {found}"


def size_problem(asset: Asset, path: Path) -> str | None:
    """What is wrong with the size of a file, or with the number of folders in a folder; None if nothing is."""
    if asset.num_folders is None:
        return bytes_problem(asset, path.stat().st_size)
    found = sum(e.is_dir() and not is_service(e.name) for e in os.scandir(path))
    return None if found == asset.num_folders else f"expected {asset.num_folders:,} class folders, found {found:,}"


def bytes_problem(asset: Asset, found: int) -> str | None:
    """What is wrong with a file size, here or announced by a server; None if nothing is, or no size is known."""
    if asset.num_bytes is not None and found != asset.num_bytes:
        return f"expected {asset.num_bytes:,} bytes, found {found:,}"
    if asset.about_bytes is not None and abs(found - asset.about_bytes) > ROUNDED_BY * asset.about_bytes:
        return f"expected about {asset.about_bytes:,} bytes, found {found:,}"
    return None


def state_of(asset: Asset) -> tuple[str, str]:
    """An asset's state and the reason: missing, damaged (wrong size), or there. Reads no file."""
    if not asset.is_there:
        return "missing", ""
    problem = size_problem(asset, asset.path)
    return ("damaged", problem) if problem else ("there", "")


def git_blob(path: Path) -> str:
    """What `git hash-object` prints for a file."""
    content = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()


HASHES = {"sha256": file_sha256, "git_blob": git_blob}


# Messages


def facts(asset: Asset) -> dict[str, str]:
    """Everything known about an asset, as text for `mixar assets show` and for errors."""
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


def describe(asset: Asset) -> str:
    """The message of a stage that misses this asset."""
    rows = [f"  {label:<14}{text}" for label, text in facts(asset).items()]
    return "\n".join([f"asset {asset.name!r} is missing: {asset.what}", *rows])


def recognised_by(asset: Asset) -> str:
    """The known size and hash as text; empty if neither is known."""
    known = [f"{asset.num_folders:,} class folders"] if asset.num_folders else []
    known += [f"{asset.num_bytes:,} bytes"] if asset.num_bytes else []
    known += [_hash_in_words(*asset.known_hash)] if asset.known_hash else []
    return ", ".join(known)


def way_to_get(asset: Asset) -> str:
    """The command that downloads an asset, or the steps by hand."""
    return asset.command if isinstance(asset.way, ByHand) else f"mixar assets get {asset.name}"


def _hash_in_words(name: str, value: str) -> str:
    return f"{name.replace('_', ' ')} {value}{'' if len(value) >= 40 else '…'}"  # hex digits of the shorter kind
