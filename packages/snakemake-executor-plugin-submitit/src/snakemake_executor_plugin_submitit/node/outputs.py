"""Checks that an attempt made its outputs. Exit code 0 is not enough: Snakemake also exits with 0 after it waited
for an input in vain, and outputs of an earlier run would then count as new.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

# A network file system may show a file's old state this long.
CACHED_SECONDS = 10
NAMED = 5  # paths in a message


@dataclass(frozen=True)
class Before:
    """Files at the start of an attempt.

    marks: file system -> its change time now, in nanoseconds. Modification times do not work, because archives restore
    old ones; neither does the node's clock, because file servers have their own.
    """

    marks: dict[int, int]
    inodes: dict[str, os.stat_result]  # of outputs that already exist
    missing: list[str]  # inputs

    def is_new(self, path: str) -> bool:
        """True if an output, or anything in a folder, was made or changed since."""
        found = status(path)
        if found is None:
            return False
        earlier = self.inodes.get(path)
        if earlier is None or earlier.st_ino != found.st_ino or self._is_changed(found, earlier):
            return True
        if os.path.islink(path):
            return self._is_changed(os.stat(path), None) if os.path.exists(path) else False
        return any(self._is_changed(entry, None) for entry in entries(path))

    def _is_changed(self, found: os.stat_result, earlier: os.stat_result | None) -> bool:
        mark = self.marks.get(found.st_dev)
        if mark is not None:
            return found.st_ctime_ns >= mark
        # No file could be made there to take a time from.
        return earlier is None or found.st_ctime_ns != earlier.st_ctime_ns


def look(outputs: Iterable[str], inputs: Iterable[str], folder: Path) -> Before:
    """The state before an attempt. folder: a writable one, which gives the time of its own file system."""
    outputs = list(outputs)
    found = {path: inode for path in outputs if (inode := status(path))}
    return Before(_marks(outputs, folder), found, [path for path in inputs if not os.path.exists(path)])


def fault_of_success(before: Before, outputs: list[str], passing: list[str], seconds: float = CACHED_SECONDS) -> str:
    """What is wrong with an attempt whose command exited with 0; "" if nothing is.

    passing: outputs that may already be removed, since no job needs them, but must not be old.
    """
    missing = missing_inputs(before)
    old = _wait_for_none(lambda: [path for path in outputs if not before.is_new(path)], 0 if missing else seconds)
    old += [path for path in passing if status(path) and not before.is_new(path)]
    if outputs and not old:
        return ""
    return missing or (f"The command ended with exit code 0, but did not make {_named(old)}." if old else "")


def missing_inputs(before: Before) -> str:
    """The inputs that were missing at the start and still are, as a sentence; "" if there are none."""
    missing = [path for path in before.missing if not os.path.exists(path)]
    if not missing:
        return ""
    return f"Inputs are missing on the node: {_named(missing)}. Make them again, or check that the node can see them."


def status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def entries(path: str) -> Iterable[os.stat_result]:
    """The status of everything in a folder; nothing for a file."""
    for folder, folders, files in os.walk(path):
        yield from filter(None, (status(os.path.join(folder, name)) for name in (*files, *folders)))


def _marks(outputs: list[str], folder: Path) -> dict[int, int]:
    folder.mkdir(parents=True, exist_ok=True)
    own = os.stat(folder).st_dev
    found: dict[int, int] = {}
    for place in {_existing(os.path.dirname(path)) for path in outputs}:
        with contextlib.suppress(OSError):
            system = os.stat(place).st_dev
            if system not in found:
                found[system] = _change_time_now(folder if system == own else Path(place))
    return found


def _existing(folder: str) -> str:
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def _change_time_now(folder: Path) -> int:
    """This file system's clock: the change time of a temporary file. Raises OSError."""
    path = folder / f".snakemake-submitit-{uuid.uuid4().hex[:12]}"
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        return os.fstat(handle).st_ctime_ns
    finally:
        os.close(handle)
        path.unlink()


def _wait_for_none(left: Callable[[], list[str]], seconds: float) -> list[str]:
    deadline = time.monotonic() + seconds
    while (found := left()) and time.monotonic() < deadline:
        for path in found:  # opening a file makes NFS refresh its times
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        time.sleep(0.2)
    return found


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more
