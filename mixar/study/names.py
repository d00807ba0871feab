"""The names in a study that commands take: runs, seeds, samplers, shards, kinds. Unknown ones raise ValueError.

A trained network has the name of its run, or `run@epoch` for a milestone on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the study's keys hold such names
    from mixar.study.sections import Study

RUN = r"[a-z0-9][a-z0-9_]*"  # a folder name and a Snakemake wildcard
NETWORK = rf"{RUN}(@[1-9][0-9]*)?"

KINDS = ("continuous", "discrete")  # of a tokenizer
MASKBIT = "maskbit"  # the run that decodes the generated tokens as they are


def check_kind(kind: str) -> None:
    """Raise ValueError unless there is a tokenizer of this kind."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(KINDS)}")


def split(name: str) -> tuple[str, int | None]:
    """The run of a network, and the epoch of its milestone; None for the finished run."""
    run, _, epoch = name.partition("@")
    return run, int(epoch) if epoch else None


def milestone(run: str, epoch: int) -> str:
    """The name of a run's network after so many epochs; the inverse of `split`."""
    return f"{run}@{epoch}"


def check_run(study: Study, name: str, seed: int) -> None:
    """Raise ValueError unless the study trains this network with this seed."""
    if name not in study.networks:
        raise ValueError(f"run {name!r} is unknown; choose from {', '.join(study.networks)}")
    if seed not in study.networks[name].seeds:
        raise ValueError(f"run {name!r} has no seed {seed}; it has {list(study.networks[name].seeds)}")


def check_drawn(study: Study, name: str, seed: int, sampler: str) -> None:
    """Raise ValueError unless the study draws images of this network, seed and sampler; 'maskbit' has any of them."""
    if name == MASKBIT:
        return
    if name not in study.networks:
        raise ValueError(f"run {name!r} is unknown; choose from {', '.join([*study.networks, MASKBIT])}")
    check_run(study, name, seed)
    if sampler not in study.samplers:
        raise ValueError(f"sampler {sampler!r} is unknown; choose from {', '.join(study.samplers)}")


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
