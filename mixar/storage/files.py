"""Files, paths and text streams. Files are written whole or not at all, text is UTF-8 in any locale, Parquet files are
read in small batches, and printing never fails.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixar.process.failures import is_shortage

if TYPE_CHECKING:  # loaded where it is used: every job of the workflow imports this module
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 32
BATCH_BYTES = 2**26
LARGEST_HEADER = 100 * 2**20  # bytes; safetensors allows no more
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # full, over a quota, over the largest file size
ADVICE = "free some space and run again; finished results are kept"  # for a full disk
NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EINVAL}
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\}|)")


def expanded(text: str) -> str:
    """The path that a user means by `text`: `~` and variables such as $SCRATCH filled in, `$$` as a dollar sign.

    Raises ValueError for an unknown user, a variable that is not set, an empty path and control characters.
    """
    path = os.path.expanduser(_VARIABLE.sub(_value, text))
    if path.startswith("~"):
        home = f"no home folder of {path.split('/')[0]} is known"
        raise ValueError(f"{home}; write the path out, or ./~ for a name that begins with ~")
    if not path.strip():
        raise ValueError("is empty; give a path, or leave the key out")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        raise ValueError("a line break or control character; use a path without it")
    path = str(Path(path))
    return f"./{path}" if path.startswith("~") else path


def _value(found: re.Match) -> str:
    if found["dollar"]:
        return "$"
    name = found["name"] or found["braced"]
    if not name:
        raise ValueError("a $ that begins no variable; write $$ for a dollar sign")
    if not os.environ.get(name):
        raise ValueError(f"${name} is not set here; set it, write the path out, or write $$ for a dollar sign")
    return os.environ[name]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replaced(path: str | Path, advice: str = ADVICE) -> Iterator[Path]:
    """A temporary path next to `path`, with the same suffix: renamed to `path` on success, removed on failure.

    Raises OSError naming the path, with advice, if the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with room_for(path, advice):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link(source: str | Path, name: str | Path) -> bool:
    """Give a file a second name, a hard link that takes no room, in place of what has that name.

    False where the file system has no hard links.
    """
    try:
        with replaced(name) as temporary:
            os.link(source, temporary)
    except OSError as error:
        if error.errno in NO_LINKS:
            return False
        raise
    return True


@contextmanager
def room_for(path: str | Path, advice: str = ADVICE) -> Iterator[None]:
    """Raise an OSError that names the path and the remedy if the body finds no room for this file."""
    try:
        yield
    except Exception as error:
        if number := _no_room(error):
            raise OSError(f"{path}: {os.strerror(number)}; {advice}") from error
        raise


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


def write_table(path: str | Path, table: pa.Table, group_rows: int | None = None) -> None:
    """Write a Parquet file, in row groups of at most `group_rows`."""
    import pyarrow.parquet as pq

    with replaced(path) as temporary:
        pq.write_table(table, temporary, group_rows, compression="zstd")


def iter_batches(
    parquet: pq.ParquetFile,
    path: str | Path,
    columns: Sequence[str],
    row_groups: Sequence[int] | None = None,
    batch_bytes: float = BATCH_BYTES,
) -> Iterator[pa.RecordBatch]:
    """Yield rows of a Parquet file, or of some row groups, in batches of at most 32 rows and about `batch_bytes`.

    Arrow cannot hold 2 GiB in one array of structs, such as `image` with its bytes, so readers of images never take a
    whole row group at once. Raises ValueError naming the path where the file is damaged.
    """
    from pyarrow import ArrowException

    chosen = range(parquet.num_row_groups) if row_groups is None else row_groups
    sizes = [(group.total_byte_size, group.num_rows) for group in map(parquet.metadata.row_group, chosen)]
    largest = max((size / rows for size, rows in sizes if rows), default=1)
    try:
        yield from parquet.iter_batches(min(BATCH_ROWS, max(1, int(batch_bytes / max(1, largest)))), chosen, columns)
    except (ArrowException, OSError) as error:
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: not a complete Parquet file ({error}); copy or make it again") from None


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises ValueError naming the file, what was found and what would do.
    """
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        found = "UTF-16" if is_utf16 else f"byte 0x{content[error.start]:02x} on line {line}"
        encoding = "UTF-16" if is_utf16 else "LATIN1"
        advice = f"save it as UTF-8 in your editor, or: iconv -f {encoding} -t UTF-8 OLD > NEW"
        raise ValueError(f"{path}: expected text in UTF-8, found {found}; {advice}") from None


def json_mapping(text: str | bytes) -> dict[str, Any]:
    """The object in a JSON text of our own files. Raises ValueError, which names no file, for anything else."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found a {type(found).__name__}")
    return found


def safetensors_metadata(path: str | Path) -> dict[str, Any]:
    """What `weights.save_weights` recorded beside the tensors, read without torch; empty where nothing can be read."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json_mapping(file.read(min(size, LARGEST_HEADER)))
        return json_mapping(header["__metadata__"]["mixar"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def print_anything() -> None:
    """Let standard output replace what its encoding lacks, such as an arrow in Latin-1, where it would fail.

    Standard error does so by itself. What is written to a stream that is closed (`>&-`) is dropped.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until Python ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
