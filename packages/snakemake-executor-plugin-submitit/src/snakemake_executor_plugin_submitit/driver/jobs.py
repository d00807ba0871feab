"""What this plugin needs to know about a Snakemake job, single or group."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.records.fingerprint import Fingerprint, digest, fingerprint_of
from snakemake_executor_plugin_submitit.records.registry import key_of

# Snakemake's flags of what is no file of the shared file system once a job has ended.
NOT_ON_DISK = ("pipe", "service", "nodelocal", "storage_object")

# Lengths that every terminal, file system and Slurm accept.
SHOWN_CHARACTERS, NAME_CHARACTERS, FOLDER_CHARACTERS = 200, 80, 400


@dataclass(frozen=True)
class Description:
    """key: see registry.py. parts: key -> fingerprint, of the job or of each in the group. name: rule and wildcards.

    folder: of its logs.
    """

    key: str
    parts: dict[str, Fingerprint]
    rule: str
    name: str
    folder: Path
    outputs: list[str]
    made: list[str]  # outputs that must be new when the job has ended
    passing: list[str]  # outputs that may be removed by then, because nobody needs them
    inputs: list[str]  # must exist when the job begins
    markers: list[str]  # files by which Snakemake knows that it has not accepted these outputs yet
    is_forced: bool  # the user wants it made again in any case
    resources: dict[str, Any]
    threads: int


def describe(job, workflow) -> Description:
    rule, *wildcards = names(job)
    made = [path for part in members(job) for path in part.output if not is_flagged(path, *NOT_ON_DISK, "update")]
    return Description(
        key=key_of_job(job),
        parts=parts_of(job, workflow),
        rule=safe(rule),
        name=shown(rule, wildcards),
        folder=folder_of(rule, wildcards),
        outputs=[str(path) for path in job.output],
        made=[str(path) for path in made if not is_flagged(path, "temp")],
        passing=[str(path) for path in made if is_flagged(path, "temp")],
        inputs=[str(path) for path in job.input if not is_flagged(path, *NOT_ON_DISK)],
        markers=markers_of(job, workflow.persistence),
        is_forced=is_forced(job, workflow),
        resources=dict(job.resources.items()),
        threads=job.threads,
    )


def parts_of(job, workflow) -> dict[str, Fingerprint]:
    """Key -> fingerprint, of the job or of each in the group, in an order in which every attempt takes their leases."""
    made = {str(path) for part in members(job) for path in part.output} if job.is_group() else set()
    found = {
        key_of_job(part): fingerprint_of(part, made, workflow.persistence, workflow.dag.max_checksum_file_size)
        for part in members(job)
    }
    return dict(sorted(found.items()))


def names(job) -> list[str]:
    """Rule and wildcards; for a group, its name."""
    return [job.name] if job.is_group() else [job.rule.name, *(str(value) for value in job.wildcards)]


def check_targets(targets: Iterable) -> None:
    """Raise ValueError for a wildcard with a comma: Snakemake puts commas between those that it gives a node."""
    for target in targets:
        for name, value in target.wildcards_dict.items():
            if "," in str(value):
                raise ValueError(
                    f"wildcard {name}: found {value!r}, and Snakemake cannot pass a comma to a node; rename the "
                    f"files of rule {target.rulename}, or name the rule in `localrules`"
                )


def key_of_job(job) -> str:
    """A group's follows all its jobs: its own outputs would leave out those that only the group needs."""
    if job.is_group():
        return digest(sorted(keys_of_members(job)))
    return key_of([str(path) for path in job.output], " ".join(names(job)), os.getcwd())


def keys_of_members(*jobs) -> set[str]:
    """What a driver claims: a group's jobs one by one, since a group is put together only when it is ready."""
    return {key_of_job(part) for job in jobs for part in members(job)}


def markers_of(job, persistence) -> list[str]:
    """Where Snakemake marks a job's outputs as incomplete; nothing where it keeps its marks in a database.

    It offers the marking itself only where its DAG is, and the jobs end elsewhere.
    """
    folder = getattr(persistence, "_incomplete_path", None)
    files = [persistence._get_key(path) for part in members(job) for path in part.output] if folder else []
    return [os.path.abspath(persistence._record_path(folder, file)) for file in files]


def is_flagged(path, *flags: str) -> bool:
    """True for an input or output with any of Snakemake's flags, as temp() and pipe() set them."""
    return not set(flags).isdisjoint(getattr(path, "flags", {}))


def is_forced(job, workflow) -> bool:
    """True if the user forces the job. Snakemake's own word for it also means outputs that are marked incomplete."""
    dag, settings = workflow.dag, workflow.dag_settings
    return any(
        part.rule in dag.forcerules
        or (settings.forcetargets and part in dag.targetjobs)
        or not settings.forcerun.isdisjoint(str(path) for path in part.output)
        for part in members(job)
    )


def members(job) -> Iterator:
    """The jobs of a group, or the job itself."""
    yield from job.jobs if job.is_group() else [job]


def shown(rule: str, wildcards: list[str]) -> str:
    """A job in messages: its rule and wildcards on one line, not too long, and never the same for two jobs."""
    name = " ".join([rule, *wildcards])
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], name)
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}… ({_digest(name)})"


def folder_of(rule: str, wildcards: list[str]) -> Path:
    """Folder of a job's logs, named by rule and wildcards, in characters and lengths that any file system accepts."""
    folder = Path(safe(rule), *map(safe, wildcards))
    return folder if len(str(folder)) <= FOLDER_CHARACTERS else Path(safe(rule), safe(" ".join(wildcards)))


def safe(text: str) -> str:
    """A valid name for a file or Slurm job: plain characters, limited length. A digest keeps changed names distinct."""
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", text).lstrip(".-")[:NAME_CHARACTERS]
    return name if name == text and name else f"{name}-{_digest(text)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
