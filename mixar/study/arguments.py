"""What commands are given: a run, seed, sampler, shard or kind of a study. Unknown ones raise ValueError."""

from __future__ import annotations

from collections.abc import Collection

from mixar.study.names import KINDS, MASKBIT
from mixar.study.sections import Study


def check_kind(kind: str) -> None:
    """Raise ValueError unless there is a tokenizer of this kind."""
    _check_known("kind", kind, KINDS)


def check_measured(study: Study, name: str) -> None:
    """Raise ValueError unless the study has this run; a milestone costs what its run does, and is not measured."""
    _check_known("run", name, study.runs)


def check_run(study: Study, name: str, seed: int) -> None:
    """Raise ValueError unless the study trains this network with this seed."""
    _check_known("run", name, study.networks)
    if seed not in study.networks[name].seeds:
        raise ValueError(f"run {name!r} has no seed {seed}; it has {list(study.networks[name].seeds)}")


def check_drawn(study: Study, name: str, seed: int, sampler: str) -> None:
    """Raise ValueError unless the study draws images of this network, seed and sampler; 'maskbit' has any of them."""
    if name == MASKBIT:
        return
    _check_known("run", name, [*study.networks, MASKBIT])
    check_run(study, name, seed)
    _check_known("sampler", sampler, study.samplers)


def check_shard(study: Study, shard: int, num_images: int | None = None) -> None:
    """Raise ValueError unless the evaluation images, or so many images of a sweep, have this shard."""
    shards = study.shards_of(num_images or study.evaluation.num_images)
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} does not exist; the study has {shards}, from 0")


def check_swept(study: Study, name: str, sampler: str) -> None:
    """Raise ValueError unless the study chooses the scale of this sampler for this network by a sweep."""
    if name == MASKBIT:
        raise ValueError("run 'maskbit' decodes given tokens and has no guidance scale; name a trained run")
    check_drawn(study, name, study.networks[name].seeds[0] if name in study.networks else 0, sampler)
    if (name, sampler) not in study.sweeps:
        found = ", ".join(f"{run} {each}" for run, each in study.sweeps) or "none"
        raise ValueError(f"run {name!r} has no sweep of sampler {sampler!r}; the study has: {found}")


def _check_known(what: str, name: str, there: Collection[str]) -> None:
    if name not in there:
        raise ValueError(f"{what} {name!r} is unknown; choose from {', '.join(there)}")
