"""External files that a study names: which there are, which are missing, and what to say of those."""

from __future__ import annotations

import glob
import os

from mixar.assets.check import asset_named, describe, locate
from mixar.assets.table import ASSETS, PREFIX
from mixar.study.names import KINDS
from mixar.study.sections import Study


def references(study: Study) -> dict[str, str]:
    """Every external file or folder that the study names: key of the study -> `asset:NAME` or path."""
    named = {
        "data.path": study.data.path,
        "data.held_out_path": study.data.held_out_path,
        "data.held_out_labels": study.data.held_out_labels,
        "continuous.weights": study.continuous.weights,
        "continuous.statistics": study.continuous.statistics,
        "discrete.weights": study.discrete.weights,
        "generator.weights": study.generator.weights,
        "scoring.extractor.weights": study.scoring.extractor.weights,
        **{f"scoring.further.{name}": value for name, value in study.scoring.further.items()},
        **{f"scoring.further_statistics.{name}": value for name, value in study.scoring.further_statistics.items()},
    }
    for name, run in study.runs.items():
        for key, value in (("start", run.start), ("weights", run.weights)):
            if value:
                named |= {f"runs.{name}.{key} (seed {n})": value.replace("{seed}", str(n)) for n in run.seeds}
    protocols: list[tuple[str, str | None]] = [("protocol", study.scoring.protocol)]
    protocols += [("reconstructions", study.scoring.reconstruction_protocol(kind)) for kind in KINDS]
    for key, protocol in protocols:
        for asset in ASSETS.values():
            if protocol in asset.protocols:
                named[f"scoring.{key} {protocol}"] = PREFIX + asset.name
    return {key: value for key, value in named.items() if value}


def missing(study: Study) -> dict[str, str]:
    """The part of `references` that is not there. Raises ValueError for an unknown asset name."""
    return {key: value for key, value in references(study).items() if not _is_there(key, value)}


def _is_there(key: str, value: str) -> bool:
    """Images may be named by a pattern such as train-*.parquet."""
    path = locate(value)
    return path.exists() or (key.startswith("data.") and bool(glob.glob(str(path))))


def places(found: dict[str, str]) -> list[str]:
    """A line for each key of the study that `missing` found: its value, and where that is looked for."""
    return [f"{key} = {value}, looked for at {os.path.abspath(locate(value))}" for key, value in found.items()]


def missing_in_words(found: dict[str, str]) -> list[str]:
    """What `missing` found: a line for each key of the study, then the row of each asset among them, once."""
    lines = [f"missing: {place}" for place in places(found)]
    named = dict.fromkeys(value for value in found.values() if value.startswith(PREFIX))
    return lines + [line for value in named for line in describe(asset_named(value)).splitlines()]
