"""The reference page of a study's keys, from the fields of its sections.

python -m mixar.study.reference docs/reference/study.md
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from mixar.study.errors import section_in
from mixar.study.presets import PRESETS
from mixar.study.sections import Study, Training

INTRODUCTION = """\
# Study keys

<!-- Written by `python -m mixar.study.reference docs/reference/study.md` from mixar/study/sections.py. -->

A study is one YAML file, or several (`--configfile` and `--study` accept a list): later files replace single keys.
Unknown keys, and values that do not fit, are errors that name the key, what was found and what would do.

- **Choices.** Where a key takes a name or `module:name`, the second form is your own code, importable where you run
  mixar. Its source is part of the study: if it changes, the results that use it are recomputed.
- **Presets.** `preset: NAME` in a section expands to the keys of a released model; keys next to it win.
- **Paths.** A path, or `asset:NAME` for a file of `mixar assets`. `~`, `$NAME` and `${NAME}` are expanded; `$$` is a
  dollar sign. Relative paths start where you run `snakemake` or `mixar`.
- **null** means that the key may be left out.
"""
HEADER = ("key", "value", "default", "meaning")
LARGE = 10**5  # upper bounds from here on only catch slips
OPTIMISATION = "training and every train"


def page() -> str:
    """The whole page, Markdown."""
    headings = {section: _heading(section, paths) for section, paths in sections().items()}
    parts = [INTRODUCTION, _table(Study, headings)]
    for section, heading in headings.items():
        parts += [f"## {heading}\n", _lead(section, headings), _table(section, headings)]
    return "\n".join(parts)


def sections() -> dict[type[BaseModel], list[str]]:
    """Each section of a study with the paths of its keys, in order; what all trainings share, before the first."""
    found: dict[type[BaseModel], list[str]] = {}
    for path, section in _walk(Study, ""):
        if issubclass(section, Training):
            found.setdefault(Training, [OPTIMISATION])
        found.setdefault(section, []).append(path)
    return found


def _walk(section: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in section.model_fields.items():
        if inner := section_in(field.annotation):
            where = f"{path}{name}" + (".NAME" if get_origin(field.annotation) is dict else "")
            yield where, inner
            yield from _walk(inner, f"{where}.")


def _heading(section: type[BaseModel], paths: list[str]) -> str:
    if section is Training:
        return "Optimisation: `training` and every `train`"
    return ", ".join(f"`{path}`" for path in paths)


def _anchor(heading: str) -> str:
    """As GitHub and MkDocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _own_keys(section: type[BaseModel]) -> list[str]:
    shared = Training.model_fields if issubclass(section, Training) and section is not Training else {}
    return [name for name in section.model_fields if name not in shared]


def _lead(section: type[BaseModel], headings: dict[type[BaseModel], str]) -> str:
    text = " ".join((inspect.getdoc(section) or "").split("\n\n")[0].split())
    if issubclass(section, Training) and section is not Training:
        text += f" It has every key of [Optimisation](#{_anchor(headings[Training])}), and:"
    if presets := PRESETS.get(section.__name__):
        text += f" Presets: {', '.join(f'`{name}`' for name in presets)}."
    return text + "\n"


def _table(section: type[BaseModel], headings: dict[type[BaseModel], str]) -> str:
    schema = section.model_json_schema()["properties"]
    rows = [HEADER, ("---",) * len(HEADER)]
    for name in _own_keys(section):
        field = section.model_fields[name]
        inner = section_in(field.annotation)
        value = _section_link(field, headings[inner]) if inner else _in_words(schema[name])
        rows.append((f"`{name}`", value, _default(field), field.description or ""))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def _section_link(field: FieldInfo, heading: str) -> str:
    kind = "sections by name" if get_origin(field.annotation) is dict else "section"
    return f"[{kind}](#{_anchor(heading)})" + (" or null" if _may_be_null(field) else "")


def _may_be_null(field: FieldInfo) -> bool:
    return not field.is_required() and field.default is None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    return f"`{_as_yaml(to_jsonable_python(field.default))}`"


def _as_yaml(value: Any) -> str:
    """The value as a study file spells it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, float) and value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{float(mantissa)}e{int(exponent)}"
    return value if isinstance(value, str) else json.dumps(value)


def _in_words(schema: dict) -> str:
    """The values that a JSON schema allows."""
    if parts := schema.get("anyOf"):
        words = [_in_words(part) for part in parts]
        return " or ".join(word for word in words if word)
    if "enum" in schema:
        return ", ".join(f"`{name}`" for name in schema["enum"])
    if schema.get("title", "").startswith("module:"):
        return f"`{schema['title']}`"
    return WORDS[schema["type"]](schema)


def _number(schema: dict) -> str:
    what = "whole number" if schema["type"] == "integer" else "number"
    low = f" from {schema['minimum']:g}" if "minimum" in schema else ""
    low = f" above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else low
    if schema.get("maximum", LARGE) < LARGE:
        return f"{what}{low}{', at most' if 'above' in low else ' to'} {schema['maximum']:g}"
    if schema.get("exclusiveMaximum", LARGE) < LARGE:
        return f"{what}{low}, below {schema['exclusiveMaximum']:g}"
    return what + low


def _text(schema: dict) -> str:
    return schema.get("format") or ("name" if "pattern" in schema else "text")


def _list(schema: dict) -> str:
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} × {_in_words(schema['prefixItems'][0])}"
    return f"list: {_in_words(schema['items'])}"


def _mapping(schema: dict) -> str:
    values = schema.get("additionalProperties")
    key = schema.get("keys", "name")
    return f"{_in_words(values)} by {key}" if isinstance(values, dict) and values else "mapping"


WORDS = {
    "integer": _number,
    "number": _number,
    "boolean": lambda _: "true or false",
    "null": lambda _: "null",
    "string": _text,
    "array": _list,
    "object": _mapping,
}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
