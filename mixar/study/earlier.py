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
    """Which networks in the study's folder it would make again, why, and what would do; None if there is none.

    Only what settings change counts: a folder whose study file this version cannot read is taken as the study's own.
    """
    layout = Layout(study)
    try:
        earlier = load_study(layout.study_file)
    except SpecError:
        return None
    now, before = (dict(_networks(each)) for each in (study, earlier))
    changed = [name for name, (path, made_by) in now.items() if before.get(name, (path, made_by))[1] != made_by]
    longer = set(_longer(study, earlier))
    kept = set(_extended(study, earlier, longer))
    names = [name for name in changed if now[name][0].exists() and name not in kept]
    if not names:
        return None
    return "\n".join([
        f"{layout.root} holds results of another study named {study.study!r}. These networks would be recomputed, "
        f"with everything that depends on them: {', '.join(names)}.",
        "The studies differ:",
        *(f"  {line}" for line in _differences(study, earlier)),
        *_lost_states([name for name in names if name in longer]),
        "Give this study a name of its own (`study:`), or replace those results: snakemake --config replace=true …",
    ])  # fmt: skip


def _longer(study: Study, earlier: Study) -> Iterator[str]:
    """The runs that are the earlier study's with more epochs, by their names among the networks."""
    now, before = Digests(study), Digests(earlier)
    for run, settings in study.runs.items():
        if run in earlier.runs and earlier.epochs_of(run) < study.epochs_of(run):
            for seed in settings.seeds:
                if now.trajectory(run, seed) == before.trajectory(run, seed):
                    yield _name(run, seed)


def _extended(study: Study, earlier: Study, longer: set[str]) -> Iterator[str]:
    """Those whose state at the earlier end is kept: they are not trained again, but on."""
    layout, digests = Layout(study), Digests(study)
    for run, settings in study.runs.items():
        for seed in settings.seeds:
            was_kept = _name(run, seed) in longer and (
                earlier.training_of(run).keep_states or earlier.is_continued(run)
            )
            if was_kept and layout.kept_states(run, seed, digests.trajectory(run, seed)):
                yield _name(run, seed)


def _lost_states(names: list[str]) -> list[str]:
    """What to say of longer runs that must be trained again."""
    if not names:
        return []
    why = "no state of their end was kept (training.keep_states)"
    return [f"More epochs of {', '.join(names)}: {why}, so they train again from the last kept milestone or the start."]


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
    for name, settings in study.networks.items():
        for seed in settings.seeds:
            yield _name(name, seed), (layout.weights(name, seed), digests.train(name, seed))


def _name(run: str, seed: int) -> str:
    return f"run {run} seed {seed}"


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
