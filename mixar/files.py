"""Writing files: every file of the project is either whole or absent."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # full, over a quota, over the largest file size


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its ending: renamed to `path` where all went well, removed where not.

    Raises OSError naming the path and what would do where there is no room for the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if number := _no_room(error):
            advice = "free some room and run again; what was finished before is kept"
            raise OSError(f"{path}: {os.strerror(number)}; {advice}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _no_room(error: BaseException | None) -> int | None:
    """The number of the error in NO_ROOM behind this one, if any: libraries wrap it, or only quote it."""
    while error is not None:
        quoted = re.search(r"os error (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(quoted[1]) if quoted else None)
        if number in NO_ROOM:
            return number
        error = error.__cause__ or error.__context__
    return None


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: str | Path, table: pa.Table) -> None:
    """Write a Parquet file."""
    with replaced(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
