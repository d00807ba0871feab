"""The lease of a job: a locked file, so that two attempts never run at the same time, on any node."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import IO

from snakemake_executor_plugin_submitit.records.files import naming, try_lock
from snakemake_executor_plugin_submitit.slurm.clients import QueryFailed, query


def try_lease(path: Path, job: str) -> IO | None:
    """Hold the lease and sign it; None while another process holds it. It ends with the handle and all its forks.

    Raises OSError, naming the file, if it cannot be written.
    """
    handle = try_lock(path)
    if handle:
        with naming(path):
            handle.truncate(0)
            handle.write(f"{job} {socket.gethostname()}")
            handle.flush()
    return handle


def holder(path: Path, job: str, asks_slurm: bool) -> str:
    """A description of the lease's holder, and whether Slurm still runs it."""
    other, _, node = _signature(path).partition(" ")
    if not node:
        return "an unidentified process"
    if other == job:
        return f"a process on {node} that an earlier start of this job left behind"
    found = f"job {other} on {node}"
    with contextlib.suppress(QueryFailed):
        status = query([other], has_accounting=False).found.get(other) if asks_slurm else None
        if asks_slurm and (status is None or status.is_over or status.state == "PENDING"):
            found += " (which Slurm no longer runs: a leftover process, or a dead node's lock)"
    return found


def _signature(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    return ""
