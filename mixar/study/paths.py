"""Paths in a study: their syntax, their expansion, and their form in digests.

`~` and variables such as $SCRATCH are expanded when the study is read; `$$` is a dollar sign. Relative paths start at
the folder where snakemake or mixar was started.
"""

from __future__ import annotations

import os

from pydantic import SerializationInfo
from pydantic_core import PydanticCustomError

from mixar.assets.table import PREFIX
from mixar.storage.files import expanded

IN_DIGEST = "digest"  # serialization context: paths as they enter a digest


def parse(text: str, placeholder: str = "") -> str:
    """The path that a study means by `text`, with `~` and variables expanded.

    placeholder: the one text in braces that may remain, such as {seed}.
    Raises PydanticCustomError for a variable that is not set, for an unknown user, and for what Snakemake cannot take
    as the path of an input or output.
    """
    try:
        path = text if text.startswith(PREFIX) else expanded(text)
    except ValueError as error:
        raise PydanticCustomError("path", str(error)) from None
    if {"{", "}"} & set(path.replace(placeholder, "") if placeholder else path):
        only = f"only {placeholder} may be in braces" if placeholder else "use a path without them"
        raise PydanticCustomError("path", f"Snakemake reads braces as wildcards; {only}")
    return path


def parse_pattern(text: str) -> str:
    """Like `parse`, but {seed} may occur: it is replaced by the run's seed later."""
    return parse(text, placeholder="{seed}")


def dump(path: str, info: SerializationInfo) -> str:
    """A text that `parse` reads as `path` again; in a digest, the same text for every spelling of one place."""
    if isinstance(info.context, dict) and info.context.get(IN_DIGEST):
        return in_digest(path)
    return path if path.startswith(PREFIX) else path.replace("$", "$$")


def in_digest(path: str) -> str:
    """The path below the working directory, else the absolute path: a project can be moved as a whole."""
    if path.startswith(PREFIX):
        return path
    whole, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(whole, here) if whole == here or whole.startswith(here.rstrip("/") + "/") else whole
