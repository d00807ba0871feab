"""The names in a study that commands take: runs, seeds, samplers, shards, kinds. Unknown ones raise ValueError."""

from __future__ import annotations

from mixar.study.sections import Study

KINDS = ("continuous", "discrete")  # of a tokenizer
MASKBIT = "maskbit"  # the run that decodes the generated tokens as they are


def check_kind(kind: str) -> None:
    """Raise ValueError unless there is a tokenizer of this kind."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(KINDS)}")


def check_run(study: Study, run: str, seed: int) -> None:
    """Raise ValueError unless the study trains this run with this seed."""
    if run not in study.runs:
        raise ValueError(f"run {run!r} is unknown; choose from {', '.join(study.runs)}")
    if seed not in study.runs[run].seeds:
        raise ValueError(f"run {run!r} has no seed {seed}; it has {list(study.runs[run].seeds)}")


def check_drawn(study: Study, run: str, seed: int, sampler: str) -> None:
    """Raise ValueError unless the study draws images of this run, seed and sampler; 'maskbit' has any of them."""
    if run == MASKBIT:
        return
    if run not in study.runs:
        raise ValueError(f"run {run!r} is unknown; choose from {', '.join([*study.runs, MASKBIT])}")
    check_run(study, run, seed)
    if sampler not in study.samplers:
        raise ValueError(f"sampler {sampler!r} is unknown; choose from {', '.join(study.samplers)}")


def check_shard(study: Study, shard: int) -> None:
    """Raise ValueError unless the evaluation images have this shard."""
    if not 0 <= shard < study.evaluation.num_shards:
        raise ValueError(f"shard {shard} does not exist; the study has {study.evaluation.num_shards}, from 0")
