"""YAML in which no key occurs twice.

PyYAML keeps the last of two equal keys without a word: a second `training:` at the end of a file would replace the
first. Every YAML text of the project is read here.
"""

from __future__ import annotations

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
    """The content of a YAML or JSON file in UTF-8. Raises ValueError as `load_yaml`, and OSError as `open`."""
    text = read_text(path)
    if Path(path).suffix == ".json":  # YAML but for tabs, which stand between its values alone
        text = text.replace("\t", " ")
    return load_yaml(text, str(path))
