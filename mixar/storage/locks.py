"""File locks: one process at a time works in a folder; the others name the holder they wait for."""

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

from mixar.storage.files import room_for

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
def lease(
    folder: Path, made: Path, announce: Callable[[str], None] = say, seconds_between: float = SECONDS_BETWEEN_NOTICES
) -> Iterator[bool]:
    """Hold `folder` exclusively while making the file `made`. Yields True if another process made it in the meantime.

    Waits while another process holds the folder: a killed driver may have left its training alive. announce: called
    with the holder at once and every `seconds_between`; called too if the file system has no locks, and then the folder
    counts as free.
    """
    before = _written(made)
    with _locked(folder, announce, seconds_between) as handle:
        with room_for(folder / LEASE):
            handle.truncate(0)
            signature = f"{os.getpid()} {socket.gethostname()} {time.strftime('%Y-%m-%d %H:%M:%S')}"
            os.write(handle.fileno(), signature.encode())  # unbuffered: closing the file must not fail again
        yield _written(made) != before


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


@contextmanager
def _locked(folder: Path, announce: Callable[[str], None], seconds_between: float) -> Iterator[IO]:
    """The open and locked lease file of `folder`."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LEASE, "a+", encoding="utf-8") as handle:
            _wait(folder, handle, announce, seconds_between)
            # the last holder may have removed the folder: a lock on a removed file excludes no other process
            if (folder / LEASE).exists() and os.path.samestat(os.stat(folder / LEASE), os.fstat(handle.fileno())):
                yield handle
                return


def _wait(folder: Path, handle: IO, announce: Callable[[str], None], seconds_between: float) -> None:
    """Return once the lease is locked, or the file system has no locks."""
    began, announced = time.monotonic(), None
    while (is_held := try_lock(handle)) is False:
        now = time.monotonic()
        if announced is None or now - announced >= seconds_between:
            announced = now
            announce(
                f"{folder}: waiting for {_signature(handle)} ({now - began:.0f} s so far). It may be left over "
                "from a killed run and still be training. Wait for it, or stop it on that host with `kill` and its "
                "number: it saves its state, and this process continues from there"
            )
        time.sleep(0.2)
    if is_held is None:
        announce(
            f"{folder}: this file system has no locks, so a second process that trains here would not be noticed. "
            "Start one only; or mount it with locks (Lustre: `flock`), or let hardware.results name a folder on a file "
            "system that has them (NFS, GPFS, a local disk)"
        )


def holder(folder: Path) -> str | None:
    """Describe the process that holds the lease of `folder`; None if it is free or not readable for this user."""
    try:
        with open(folder / LEASE, "r+", encoding="utf-8") as handle:
            return _signature(handle) if try_lock(handle) is False else None
    except OSError:  # no lease, or another user's in shared results
        return None


def _signature(handle: IO) -> str:
    handle.seek(0)
    process, _, rest = handle.read().partition(" ")
    host, _, since = rest.partition(" ")
    return f"process {process} on {host}, which has held it since {since}" if since else "an unidentified process"
