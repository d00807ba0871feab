"""What a job printed: its last part for the driver's terminal, and what that says about its end."""

from __future__ import annotations

import itertools
import logging
import os
import re
import stat
from pathlib import Path

from snakemake_executor_plugin_submitit.files import private

SHOWN_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
# Signs in a job's output -> what they mean. The job's own exit code says nothing of a process further down.
SIGNS = {
    r"CUDA out of memory|CUDA error: out of memory": "The memory of its GPU did not suffice: make its batches smaller, "
    "or choose a GPU with more.",
    r"<Signals\.SIGKILL: 9>|(?:status|code) 137\b|line \d+:\s+\d+ Killed\b|exitcode\s*: -9\b|oom.kill": "One of its "
    "processes was killed; often it needs more memory than it asked for: raise `mem_mb`.",
    r"\bMemoryError\b|Cannot allocate memory|std::bad_alloc|DefaultCPUAllocator: ": "Out of memory: raise "
    "`mem_mb`.",
}


def meaning(text: str) -> str:
    """What a job's output says about its failure, as a sentence; "" where it says nothing that is known here."""
    return next((hint for signs, hint in SIGNS.items() if re.search(signs, text)), "")


def printed_so_far() -> int | None:
    """Size of this process's output where it is a file: what an attempt prints comes after that."""
    found = os.fstat(1)
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def printed_since(start: int | None) -> str:
    """The end of what was printed since; "" where it went elsewhere."""
    return "" if start is None else tail("/proc/self/fd/1", READ_BYTES, start)


def tail(path: str, size: int, start: int = 0) -> str:
    """The last bytes of a file, from `start` on at most, as text; "" for one that cannot be read."""
    try:
        with open(path, "rb") as f:
            f.seek(max(os.fstat(f.fileno()).st_size - size, start))
            return f.read(size).decode(errors="replace")
    except OSError:
        return ""


class OnlyTails(logging.Filter):
    """For a run that shows the logs of failed jobs: of a long one the terminal gets the end.

    Snakemake prints the files that a record names, so a file with the end takes a long one's place.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.numbers = folder, itertools.count(1)

    def filter(self, record: logging.LogRecord) -> bool:
        for holder in (vars(record), *(getattr(record, "job_error_info", None) or ())):
            for name in ("log", "aux_logs"):
                if isinstance(holder.get(name), list):
                    holder[name] = [self._short(path) for path in holder[name]]
        return True

    def _short(self, log: str) -> str:
        try:
            size = os.stat(log).st_size
            if size <= SHOWN_BYTES:
                return log
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{next(self.numbers)}.log"
            end = tail(log, SHOWN_BYTES)
            with open(path, "w", encoding="utf-8", opener=private) as f:
                f.write(f"[the end of {log}, which has {size / 1e6:.1f} MB]\n{end}")
        except (OSError, TypeError):
            return log
        return str(path)
