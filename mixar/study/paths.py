"""Paths in a study: their syntax, their expansion, and their form in digests.

`~` and variables such as $SCRATCH are expanded when the study is read; `$$` is a dollar sign. Relative paths start at
the folder where snakemake or mixar was started.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import SerializationInfo
from pydantic_core import PydanticCustomError

from mixar.study.identity import IN_DIGEST

ASSET = "asset:"
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\}|)")


def parse(text: str, placeholder: str = "") -> str:
    """The path that a study means by `text`, with `~` and variables expanded.

    placeholder: the one text in braces that may remain, such as {seed}.
    Raises PydanticCustomError for a variable that is not set, for an unknown user, and for what Snakemake cannot take
    as the path of an input or output.
    """
    path = text if text.startswith(ASSET) else _expanded(text)
    if not path.strip():
        raise PydanticCustomError("path", "is empty; give a path, or leave the key out")
    if {"{", "}"} & set(path.replace(placeholder, "") if placeholder else path):
        only = f"only {placeholder} may be in braces" if placeholder else "use a path without them"
        raise PydanticCustomError("path", f"Snakemake reads braces as wildcards; {only}")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        raise PydanticCustomError("path", "a line break or control character; use a path without it")
    return path


def parse_pattern(text: str) -> str:
    """Like `parse`, but {seed} may occur: it is replaced by the run's seed later."""
    return parse(text, placeholder="{seed}")


def _expanded(text: str) -> str:
    path = os.path.expanduser(_VARIABLE.sub(_value, text))
    if path.startswith("~"):
        raise PydanticCustomError("path", f"no home folder of {path.split('/')[0]} is known; write the path out, or "
                                          "./~ for a name that begins with ~")  # fmt: skip
    path = str(Path(path)) if path else path
    return f"./{path}" if path.startswith("~") else path


def _value(found: re.Match) -> str:
    if found["dollar"]:
        return "$"
    name = found["name"] or found["braced"]
    if not name:
        raise PydanticCustomError("path", "a $ that begins no variable; write $$ for a dollar sign")
    if not os.environ.get(name):
        raise PydanticCustomError("path", f"${name} is not set here; set it, write the path out, or write $$ for a "
                                          "dollar sign")  # fmt: skip
    return os.environ[name]


def dump(path: str, info: SerializationInfo) -> str:
    """A text that `parse` reads as `path` again; in a digest, the same text for every spelling of one place."""
    if isinstance(info.context, dict) and info.context.get(IN_DIGEST):
        return in_digest(path)
    return path if path.startswith(ASSET) else path.replace("$", "$$")


def in_digest(path: str) -> str:
    """The path below the working directory, else the absolute path: a project can be moved as a whole."""
    if path.startswith(ASSET):
        return path
    whole, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(whole, here) if whole == here or whole.startswith(here.rstrip("/") + "/") else whole
