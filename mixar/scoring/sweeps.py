"""A sweep's choice: the guidance scale with the smallest distance, recorded in a file that the final draw reads.

The images of a sweep share no noise and no discrete token with those that are scored in the end, so the choice does not
flatter them. Its scales share both with each other: differences between scales are paired.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixar.scoring.intervals import half_width
from mixar.storage.files import json_mapping, write_text
from mixar.study.digests import Digests, digest
from mixar.study.layout import Layout
from mixar.study.sections import Sampler, Study


def choose(points: Sequence[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """The scale of the smallest distance, and how sure that is. points: scale, and a value as `measured` makes them.

    not_worse: every scale whose paired difference from the best is inside its 95 % interval. at_edge: the best is the
    smallest or the largest scale, so a better one may be beyond. Equal distances: the smaller scale.
    """
    cfg, best = min(points, key=lambda point: (point[1]["value"], point[0]))
    scales = sorted(scale for scale, _ in points)
    return {
        "cfg": cfg,
        **{key: best[key] for key in ("metric", "value", "low", "high", "n")},
        "not_worse": sorted(scale for scale, found in points if _is_close(found, best)),
        "at_edge": cfg in (scales[0], scales[-1]),
    }


def _is_close(found: dict[str, Any], best: dict[str, Any]) -> bool:
    if found is best:
        return True
    reach = half_width(np.subtract(found["replicates"], best["replicates"]))
    return math.isfinite(reach) and found["value"] - best["value"] <= reach


def write_choice(study: Study, layout: Layout, run: str, sampler: str, choice: dict[str, Any]) -> None:
    """Record a choice with the settings behind it."""
    record = {"run": run, "sampler": sampler, "digest": _digest(study, run, sampler), **choice}
    write_text(layout.chosen_cfg(run, sampler), json.dumps(record, indent=2) + "\n")


def chosen(study: Study, layout: Layout, run: str, sampler: str) -> Sampler:
    """A sampler as a network is drawn with it: with the scale that its sweep chose, where it has one.

    Raises ValueError where the choice is missing, damaged, or of other settings.
    """
    settings = study.samplers[sampler]
    if study.sweep_of(run, sampler) is None:
        return settings
    path, again = layout.chosen_cfg(run, sampler), f"run `score --sweep --run {run} --sampler {sampler}`"
    try:
        record = json_mapping(path.read_text(encoding="utf-8"))
        scale = float(record["cfg"])
    except FileNotFoundError:
        raise ValueError(f"{path}: no scale is chosen yet; {again} first") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it and {again} again") from None
    if record.get("digest") != _digest(study, run, sampler):
        raise ValueError(f"{path}: chosen under other settings; {again} again")
    return settings.model_copy(update={"cfg": scale})


def _digest(study: Study, run: str, sampler: str) -> str:
    digests = Digests(study)
    return digest(digests.sweep(run, sampler), digests.score_sweep())
