"""Read a study: one YAML file, or several laid over each other, to a validated `Study`.

Raises SpecError that lists every problem with its key, what was found and what would do.
"""

from __future__ import annotations

import functools
from pathlib import Path

from pydantic import ValidationError

from mixar.study.errors import SpecError, explain
from mixar.study.problems import problems
from mixar.study.sections import Study
from mixar.study.strict_yaml import read_yaml
from mixar.study.values import not_json


def parse_study(content: dict, source: str = "study") -> Study:
    """A validated study from a mapping, or SpecError listing every problem found."""
    if not isinstance(content, dict):
        raise SpecError(f"{source}: expected a mapping of settings, found {type(content).__name__}")
    if lines := list(not_json(content)):
        raise SpecError("\n".join([f"{source}:", *lines]))
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise SpecError(f"{source}:\n{explain(error, Study)}") from None
    if lines := list(problems(study)):
        raise SpecError("\n".join([f"{source}:", *lines]))
    return study


def load_study(*paths: str | Path) -> Study:
    """The study in a YAML or JSON file, or in several laid over each other as Snakemake lays them. Raises SpecError."""
    contents = [read_layer(path) for path in paths]
    return parse_study(functools.reduce(laid_over, contents), ", ".join(map(str, paths)))


def read_layer(path: str | Path) -> dict:
    """The content of one file of a study. Raises SpecError if it is not a mapping, or has a key twice."""
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such study file") from None
    except (ValueError, OSError) as error:
        raise SpecError(str(error)) from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    return content


def laid_over(content: dict, layer: dict) -> dict:
    """`content` with the keys of `layer` put over it, section by section, as Snakemake merges its configuration."""
    merged = dict(content)
    for key, value in layer.items():
        below = merged.get(key)
        if isinstance(value, dict):
            merged[key] = laid_over(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged
