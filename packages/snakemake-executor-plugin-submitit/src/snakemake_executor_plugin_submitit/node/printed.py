"""Reads a job's output for the cause of its failure."""

from __future__ import annotations

import os
import re
import stat

READ_BYTES = 64 * 1024
# Signs in a job's output -> what they mean. The job's own exit code does not show how a process further down ended.
SIGNS = {
    r"CUDA out of memory|CUDA error: out of memory": "Its GPU ran out of memory: use smaller batches or a larger GPU.",
    r"<Signals\.SIGKILL: 9>|(?:status|code) 137\b|line \d+:\s+\d+ Killed\b|exitcode\s*: -9\b|oom.kill": "One of its "
    "processes was killed, often for using more memory than the job asked for: raise `mem_mb`.",
    r"\bMemoryError\b|Cannot allocate memory|std::bad_alloc|DefaultCPUAllocator: ": "Out of memory: raise `mem_mb`.",
}


def meaning(text: str) -> str:
    """What a job's output says about its failure, as a sentence; "" if nothing in it is known."""
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
