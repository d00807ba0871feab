"""Text in and out: files are UTF-8 whatever the locale says, and printing never fails."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any


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


def print_anything() -> None:
    """Let standard output replace what its encoding lacks, such as an arrow in Latin-1, where it would fail.

    Standard error does so by itself. What is written to a stream that is closed (`>&-`) is dropped.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until Python ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
