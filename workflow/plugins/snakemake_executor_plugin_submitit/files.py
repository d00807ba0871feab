"""Files that several nodes read and write: replaced as a whole, locked as a whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import IO, Any

# File systems mounted without locks (Lustre with `noflock`) answer so.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


def write_json(path: Path, content: Any) -> None:
    """Replace a file; a reader sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)


def mark_incomplete(path: Path, when: float) -> None:
    """Write one of Snakemake's marks for an incomplete output, as of this time. It says so by the file being there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"external_jobid": null}', encoding="utf-8")
    os.utime(path, (when, when))


def append_line(path: Path, content: Any) -> None:
    """Add one line of JSON, whole, also when several processes do so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as f:
        f.write(json.dumps(content).encode() + b"\n")


def try_lock(path: Path) -> IO | None:
    """Hold a file until it is closed or this process and all its forks are gone; None if somebody else holds it.

    Where the file system knows no locks, the file counts as free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115  closed by who holds it
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
