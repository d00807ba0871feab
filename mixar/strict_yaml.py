"""YAML and JSON in which no key occurs twice.

PyYAML and json keep the last of two equal keys without a word: a second `training:` at the end of a file would replace
the first. Every YAML text of the project is read here.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from mixar.texts import read_text

MERGE = "tag:yaml.org,2002:merge"  # `<<`: the keys beside it may replace those that it brings


class _Duplicate(yaml.YAMLError):
    """A key that occurs twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a mapping that has a key twice."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            content = key.value if key.tag == MERGE else self.construct_object(key)
            line = key.start_mark.line + 1
            if content in lines:
                where = f"line {line}" if lines[content] == line else f"lines {lines[content]} and {line}"
                raise _Duplicate(f"key {key.value!r} occurs twice, in {where}; keep one")
            lines[content] = line
        return node


def load_yaml(text: str, source: str) -> Any:
    """The content of a YAML text.

    Raises ValueError naming `source` for a text that is no YAML, and for a key that occurs twice, with both lines.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a safe loader
    except _Duplicate as error:
        raise ValueError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as the date 2024-02-31
        raise ValueError(f"{source}: not readable as YAML: {error}") from None


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML or JSON file in UTF-8. What is JSON is read as JSON, whatever its name, as Snakemake does:
    the two differ in numbers such as 1e-7, in escapes and in tabs.

    Raises ValueError as `load_yaml`, and OSError as `open`.
    """
    text, is_json = read_text(path), Path(path).suffix.lower() == ".json"
    try:
        return json.loads(text, object_pairs_hook=_mapping, parse_constant=_refuse_constant)
    except _Duplicate as error:
        load_yaml(text.replace("\t", " "), str(path))  # names the lines
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        if is_json:
            raise ValueError(f"{path}: not readable as JSON: {error}") from None
    return load_yaml(text, str(path))


def _mapping(items: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in items).items():
        if count > 1:
            raise _Duplicate(f"key {key!r} occurs twice in one object; keep one")
    return dict(items)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; give a finite number")
