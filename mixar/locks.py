"""Locks on files: one process at a time works in a folder, and the others say whom they wait for."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Answers of file systems without locks, such as Lustre mounted without `flock`
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
SECONDS_BETWEEN_NOTICES = 30.0
LEASE = "lease"


def try_lock(file: IO) -> bool | None:
    """Lock an open file until it is closed. True: locked; False: another process holds it; None: no locks here."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise OSError(error.errno, error.strerror, file.name) from None
    return True


def say(text: str) -> None:
    """Print a line at once, also into a log file."""
    print(text, flush=True)


@contextmanager
def lease(folder: Path, made: Path, announce: Callable[[str], None] = say) -> Iterator[bool]:
    """Hold `folder` alone, to make the file `made`. Yields True where another process has made it in the meantime.

    Waits while another process holds the folder: a killed driver may have left its training alive. announce: is told
    at once for whom it waits, and every half minute again. Where the file system has no locks, it is told so, and the
    folder counts as free.
    """
    before = _written(made)
    with _locked(folder, announce) as handle:
        handle.truncate(0)
        handle.write(f"{os.getpid()} {socket.gethostname()} {time.strftime('%Y-%m-%d %H:%M:%S')}")
        handle.flush()
        yield _written(made) != before


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


@contextmanager
def _locked(folder: Path, announce: Callable[[str], None]) -> Iterator[IO]:
    """The open and locked lease file of `folder`."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LEASE, "a+", encoding="utf-8") as handle:
            _wait(folder, handle, announce)
            # who held it may have finished and removed the folder: a lock on a removed file excludes nobody
            if (folder / LEASE).exists() and os.path.samestat(os.stat(folder / LEASE), os.fstat(handle.fileno())):
                yield handle
                return


def _wait(folder: Path, handle: IO, announce: Callable[[str], None]) -> None:
    """Return when the lease is locked, or cannot be."""
    began, announced = time.monotonic(), None
    while (is_held := try_lock(handle)) is False:
        now = time.monotonic()
        if announced is None or now - announced >= SECONDS_BETWEEN_NOTICES:
            announced = now
            announce(
                f"{folder}: waiting for {_signature(handle)} ({now - began:.0f} s so far). A killed run may have left "
                "it behind, and it goes on training. Wait until it ends; or end it on that host with `kill` and its "
                "number: it saves its state first, and this process continues from that"
            )
        time.sleep(0.2)
    if is_held is None:
        announce(
            f"{folder}: this file system has no locks, so a second process that trains here would not be noticed. "
            "Start one only; or mount it with locks (Lustre: `flock`), or let hardware.results name a folder on a file "
            "system that has them (NFS, GPFS, a local disk)"
        )


def holder(folder: Path) -> str | None:
    """Who holds the lease of `folder` now, in words; None where nobody does, or where this user cannot ask."""
    try:
        with open(folder / LEASE, "r+", encoding="utf-8") as handle:
            return _signature(handle) if try_lock(handle) is False else None
    except OSError:  # no lease, or another user's in shared results
        return None


def _signature(handle: IO) -> str:
    handle.seek(0)
    process, _, rest = handle.read().partition(" ")
    host, _, since = rest.partition(" ")
    return f"process {process} on {host}, which holds it since {since}" if since else "a process that has not signed it"
