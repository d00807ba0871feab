"""Names in a study: of kinds of tokenizer, of runs, and of their networks.

A trained network has the name of its run, or `run@epoch` for a milestone on the way.
"""

from __future__ import annotations

RUN = r"[a-z0-9][a-z0-9_]*"  # a folder name and a Snakemake wildcard
NETWORK = rf"{RUN}(@[1-9][0-9]*)?"

KINDS = ("continuous", "discrete")  # of a tokenizer
MASKBIT = "maskbit"  # the run that decodes the generated tokens as they are


def split(name: str) -> tuple[str, int | None]:
    """The run of a network, and the epoch of its milestone; None for the finished run."""
    run, _, epoch = name.partition("@")
    return run, int(epoch) if epoch else None


def milestone(run: str, epoch: int) -> str:
    """The name of a run's network after so many epochs; the inverse of `split`."""
    return f"{run}@{epoch}"
