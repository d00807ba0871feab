"""Checks of single values that pydantic would let pass, or would change in silence."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic_core import PydanticCustomError

MAX_DEPTH = 50  # of sections in each other: JSON's readers have a limit, too
BY_EPOCH = "expected"  # the section whose keys are whole numbers; pydantic reads them back from JSON's text


def check_number(value: Any, annotation: Any) -> None:
    """Raise PydanticCustomError where a field of numbers holds a yes or no, or a field of yes or no something else.

    pydantic would take `epochs: true` for 1, and `decoder_attention: 1` for true.
    """
    kinds = _scalars(annotation)
    parts = list(_parts(value))
    if bool in kinds and not isinstance(value, bool):
        raise PydanticCustomError("boolean", "expected true or false")
    if {int, float} & kinds and bool not in kinds and any(isinstance(part, bool) for part in parts):
        raise PydanticCustomError("number", "expected a number")


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parts(part)
    else:
        yield value


def _scalars(annotation: Any) -> set[Any]:
    """The types at the ends of an annotation such as `tuple[Annotated[int, ...], ...] | None`."""
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return set().union(*map(_scalars, parts)) if parts else {annotation}


def check_label(text: str) -> str:
    """`text` without spaces around it. Raises PydanticCustomError for a text that shows nothing, or several lines."""
    text = text.strip()
    kinds = {unicodedata.category(letter) for letter in text}
    if kinds & {"Cc", "Zl", "Zp"}:
        raise PydanticCustomError("label", "a line break or control character; use a text of one line")
    if kinds <= {"Cf", "Zs"}:  # spaces, and marks without width
        raise PydanticCustomError("label", "is empty; tables and figures print it")
    return text


def not_json(value: Any, key: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the values that would change on their way to the jobs, which read JSON. key: the path of `value`."""
    where = f"{key}: " if key else ""
    if depth > MAX_DEPTH:
        yield f"{where}nested more than {MAX_DEPTH} deep; use fewer levels"
    elif isinstance(value, dict):
        for name, part in value.items():
            if _is_key(name, key):
                yield from not_json(part, f"{key}.{name}" if key else name, depth + 1)
            else:
                yield f"{where}{name!r} is not text, as a key must be; put it in quotes or rename it"
    elif isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            yield from not_json(part, f"{key}[{place}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{where}expected a finite number; found {value}"
    elif isinstance(value, str):
        if _is_surrogate(value):
            yield f"{where}{value!r} holds half of a character (a lone surrogate); write it in UTF-8"
    elif not isinstance(value, (bool, int, type(None))):
        yield f"{where}a {type(value).__name__}, which the jobs' JSON cannot hold; use numbers, text, lists or sections"


def _is_key(name: Any, section: str) -> bool:
    if isinstance(name, int) and not isinstance(name, bool):
        return section.rpartition(".")[2] == BY_EPOCH
    return isinstance(name, str) and not _is_surrogate(name)


def _is_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def conflict_error(found: list[tuple[str, str]]) -> PydanticCustomError:
    """The error of a section whose keys do not fit together: (key, what is wrong) for each, kept for messages."""
    words = "; ".join(f"{key}: {said}" if key else said for key, said in found)
    return PydanticCustomError("conflicts", words, {"found": found})
