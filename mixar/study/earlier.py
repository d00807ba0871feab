"""Results that a folder holds from an earlier study of the same name: which networks a study would make again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixar.study.digests import Digests
from mixar.study.errors import SpecError
from mixar.study.layout import Layout
from mixar.study.load import load_study
from mixar.study.sections import Study

ABSENT = "absent"
SHOWN = 12  # differences that a message lists
NOT_ABOUT_RESULTS = {"title", "hardware", "report"}


def replaced(study: Study) -> str | None:
    """Which networks in the study's folder it would make again, why, and what would do; None where there is none.

    Only what settings change counts: a folder whose study file this version cannot read is taken as the study's own.
    """
    layout = Layout(study)
    try:
        earlier = load_study(layout.study_file)
    except SpecError:
        return None
    now, before = (dict(_networks(each)) for each in (study, earlier))
    changed = [name for name, (path, made_by) in now.items() if before.get(name, (path, made_by))[1] != made_by]
    names = [name for name in changed if now[name][0].exists()]
    if not names:
        return None
    return "\n".join([
        f"{layout.root} holds results of another study named {study.study!r}. These networks would be recomputed, "
        f"with everything that depends on them: {', '.join(names)}.",
        "The studies differ:",
        *(f"  {line}" for line in _differences(study, earlier)),
        "Give this study a name of its own (`study:`), or replace those results: snakemake --config replace=true …",
    ])  # fmt: skip


def _differences(study: Study, earlier: Study) -> list[str]:
    """One line for each result-changing setting that differs between two studies."""
    before, now = (each.model_dump(mode="json", exclude=NOT_ABOUT_RESULTS) for each in (earlier, study))
    lines = [
        f"{key}: {_shown(theirs)} in the folder, {_shown(ours)} here" for key, theirs, ours in _changes(before, now)
    ]
    return lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])


def _networks(study: Study) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Every network by name: its file, and the digest of what makes it."""
    layout, digests = Layout(study), Digests(study)
    for kind in ("continuous", "discrete"):
        yield f"{kind} tokenizer", (layout.tokenizer(kind), digests.tokenizer(kind))
    yield "generator", (layout.generator, digests.generator())
    yield "feature network", (layout.extractor(), digests.extractor())
    for run, settings in study.runs.items():
        for seed in settings.seeds:
            yield f"run {run} seed {seed}", (layout.weights(run, seed), digests.train(run, seed))


def _changes(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key and both values of every difference; a section that one side lacks, such as a new run, is a single one."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from _changes(before.get(name, ABSENT), now.get(name, ABSENT), f"{key}.{name}" if key else name)
    elif before != now:
        yield key, before, now


def _shown(value: Any) -> str:
    """The value as a study file may spell it."""
    if isinstance(value, dict):
        return "given"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
