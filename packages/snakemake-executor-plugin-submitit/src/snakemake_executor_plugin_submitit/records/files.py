"""Files that several nodes read and write: replaced as a whole, locked as a whole, and private to this user.

Pickles, command lines and logs hold what was given with `--config`, and who can write a pickle can run anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shlex
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# File systems mounted without locks (Lustre with `noflock`) answer so.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


def private_folder(folder: Path) -> None:
    """Make a folder for this user only. Raises ValueError if others own it or can write to it, and OSError."""
    check_path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_owner(folder)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        found = {path.name for path in folder.iterdir()}
        if found and found.isdisjoint({"drivers", "runs"}):
            raise ValueError(
                f"{folder}: others can use it (mode {mode:04o}), and it holds other files, such as {min(found)}; give "
                "another folder with --submitit-folder"
            )
        check_private(folder)
        folder.chmod(0o700)  # made by an earlier version


def check_path(path: Path) -> None:
    """Raise ValueError for characters in which sbatch and submitit see more than a name, such as %j, the job's id."""
    if found := re.search(r"%\d*[AabJjNnstux%]|\\|[\x00-\x1f\x7f]", str(path)):
        raise ValueError(
            f"{str(path)!r}: Slurm would read {found[0]!r} in it as more than a name; rename the working directory, or "
            "give another folder with --submitit-folder"
        )


def check_private(path: Path) -> None:
    """Raise ValueError if anybody else owns this or can write to it. Reading is for the user to decide."""
    check_owner(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        raise ValueError(
            f"{path}: others can write to it (mode {mode:04o}), and a job's pickle may run anything in your name. "
            f"Check that everything in it is yours, then `chmod -R go-rwx {shlex.quote(str(path))}`, or give "
            "another folder with --submitit-folder."
        )


def check_owner(path: Path) -> None:
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise ValueError(
            f"{path}: belongs to user {owner} and not to you ({os.geteuid()}), and a job's pickle may run anything in "
            "your name. Give a private folder with --submitit-folder."
        )


def private(path: str, flags: int) -> int:
    """Opens a file that only this user can read; for `open`."""
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors that do not: a write to a full disk says only that there is no space."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, content: Any) -> None:
    """Replace a file; a reader sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with naming(path), open(temporary, "w", encoding="utf-8", opener=private) as f:
        f.write(json.dumps(content))
    os.replace(temporary, path)


def mark_incomplete(path: Path, when: float) -> None:
    """Write one of Snakemake's marks for an incomplete output, as of this time. It says so by the file being there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        path.write_text('{"external_jobid": null}', encoding="utf-8")
    os.utime(path, (when, when))


def append_line(path: Path, content: Any) -> None:
    """Add one line of JSON, whole, also when several processes do so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), open(path, "ab", buffering=0, opener=private) as f:
        f.write(json.dumps(content).encode() + b"\n")


def try_lock(path: Path) -> IO | None:
    """Hold a file until it is closed or this process and all its forks are gone; None if another process holds it.

    Where the file system knows no locks, the file counts as free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path, "a+", encoding="utf-8", opener=private)  # noqa: SIM115  closed by who holds it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            handle.close()
            raise
    return handle
