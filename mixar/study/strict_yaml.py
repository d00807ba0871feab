"""YAML and JSON that mean what they look like.

PyYAML and json keep the last of two equal keys without a word: a second `training:` at the end of a file would replace
the first. PyYAML also reads 017 as 15 and 1:30 as 90 (YAML 1.1), and builds dates, sets, bytes and lists that contain
themselves, which no job could read back from JSON. Every YAML text of the project is read here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mixar.storage.files import read_text

MERGE = "tag:yaml.org,2002:merge"  # `<<`: the keys beside it may replace those that it brings
UNCLEAR = re.compile(r"[-+]?0[0-7_]+|.*:.*")  # numbers in base 8, and in base 60


class _Refused(yaml.YAMLError):
    """What PyYAML would read in silence as something else than is meant."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses keys that occur twice, unclear numbers, and what JSON cannot hold."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        line = self.peek_event().start_mark.line + 1
        node = super().compose_node(parent, index)
        if node.end_mark is None:  # an alias of a node that is still being read
            raise _Refused(f"line {line}: a list or section that contains itself; write its values out")
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            content = key.value if key.tag == MERGE else self.construct_object(key)
            line = key.start_mark.line + 1
            if content in lines:
                where = f"line {line}" if lines[content] == line else f"lines {lines[content]} and {line}"
                raise _Refused(f"key {key.value!r} occurs twice, in {where}; keep one")
            lines[content] = line
        return node

    def clear_number(self, node: yaml.ScalarNode) -> int | float:
        """Of a text that everybody reads as the same number."""
        is_whole = node.tag == "tag:yaml.org,2002:int"
        number = self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)
        if UNCLEAR.fullmatch(node.value):
            raise _Refused(f"line {node.start_mark.line + 1}: YAML reads {node.value} as the number {number}; write it "
                           f"without leading zeros or colons, or as text: '{node.value}'")  # fmt: skip
        return number

    def refuse(self, node: yaml.Node) -> None:
        kind = node.tag.rpartition(":")[2]
        found, advice = ("a date", "put it in quotes") if kind == "timestamp" else (f"!!{kind}", "use lists and text")
        raise _Refused(f"line {node.start_mark.line + 1}: {found}, which the jobs' JSON cannot hold; {advice}")


for name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{name}", _Loader.clear_number)
for name in ("timestamp", "binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{name}", _Loader.refuse)


def load_yaml(text: str, source: str) -> Any:
    """The content of a YAML text.

    Raises ValueError naming `source` for a text that is no YAML; with lines, for a key that occurs twice, numbers such
    as 017 or 1:30, and what JSON cannot hold.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a safe loader
    except _Refused as error:
        raise ValueError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not readable as YAML: {error}") from None


def check_config(entries: Iterable[str]) -> None:
    """Raise ValueError for a key that Snakemake's `--config KEY=VALUE …` has twice, also inside a value."""
    given: set[str] = set()
    for key, _, value in (entry.partition("=") for entry in entries):
        if key in given:
            raise ValueError(f"--config {key}: given twice; keep one")
        given.add(key)
        if _is_collection(value.strip("'\"")):  # Snakemake strips these, and takes all else as a text or number
            load_yaml(value.strip("'\""), f"--config {key}")


def _is_collection(text: str) -> bool:
    try:
        return isinstance(yaml.compose(text, yaml.SafeLoader), yaml.CollectionNode)
    except yaml.YAMLError:
        return False


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML or JSON file in UTF-8. What is JSON is read as JSON, whatever its name, as Snakemake does:
    the two differ in numbers such as 1e-7, in escapes and in tabs.

    Raises ValueError as `load_yaml`, and OSError as `open`.
    """
    text, is_json = read_text(path), Path(path).suffix.lower() == ".json"
    try:
        return json.loads(text, object_pairs_hook=_mapping, parse_constant=_refuse_constant)
    except _Refused as error:
        load_yaml(text.replace("\t", " "), str(path))  # names the lines
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        if is_json:
            raise ValueError(f"{path}: not readable as JSON: {error}") from None
    return load_yaml(text, str(path))


def _mapping(items: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in items).items():
        if count > 1:
            raise _Refused(f"key {key!r} occurs twice in one object; keep one")
    return dict(items)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON; give a finite number")
