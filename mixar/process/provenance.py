"""Where a result came from: the commit, package versions and platform of this process. Columns of every result row."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

_PACKAGES = ("torch", "timm", "torch-fidelity", "numpy", "pandas", "pyarrow")


def provenance() -> dict:
    """The columns commit, dirty, versions, platform and created of a row made now."""
    commit, dirty = _source_state()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": _versions(),
        "platform": platform.platform(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _source_state() -> tuple[str, bool | None]:
    """Commit of this source tree and whether it has changes; ('unknown', None) outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True).stdout.decode().strip()
        status = ["status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run([*git, *status], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown", None
    return commit, bool(changes.strip())


@functools.cache
def _versions() -> str:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return json.dumps(found)
