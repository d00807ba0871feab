"""Turns a Snakemake job into a command for the node and a request to Slurm."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.driver.jobs import Description
from snakemake_executor_plugin_submitit.node.command import JobCommand
from snakemake_executor_plugin_submitit.parameters import gpus_per_node, number, plain, timeouts_within, to_parameters
from snakemake_executor_plugin_submitit.settings import ExecutorSettings


@dataclass(frozen=True)
class Prepared:
    """A job that can be submitted."""

    description: Description
    job: Any  # Snakemake's
    command: JobCommand
    parameters: dict[str, Any]


def batches(jobs: Iterable[Prepared], largest: int) -> Iterator[list[Prepared]]:
    """Jobs that may share an array: of one rule, with equal parameters, in chunks that the cluster accepts."""
    groups: dict[str, list[Prepared]] = defaultdict(list)
    for p in jobs:
        groups[repr((p.description.rule, sorted(p.parameters.items(), key=str)))].append(p)
    for group in groups.values():
        yield from (group[start : start + max(largest, 1)] for start in range(0, len(group), max(largest, 1)))


def prepare(
    d: Description,
    line: str,
    submission: str,
    *,
    settings: ExecutorSettings,
    site: Mapping[str, Any],
    folder: Path,
    kill_wait_seconds: int,
    also: Collection[str],
) -> tuple[JobCommand, dict[str, Any]]:
    """The command and submitit's parameters. line: the inner Snakemake. also: resources that this plugin ignores.

    Raises ValueError for resources that do not fit.
    """
    own = {plain(name): value for name, value in d.resources.items()}
    preemptions = number(own, "max_preemptions", settings.max_preemptions)
    parameters = to_parameters(
        d.resources,
        d.threads,
        site=site,
        notice_seconds=settings.notice_seconds,
        max_preemptions=preemptions,
        array_parallelism=settings.array_parallelism,
        also=also,
    )
    command = JobCommand(
        line=line,
        name=d.name,
        key=d.key,
        submission=submission,
        folder=str(folder),
        outputs=[os.path.abspath(path) for path in d.made],
        passing=[os.path.abspath(path) for path in d.passing],
        inputs=[os.path.abspath(path) for path in d.inputs],
        markers=d.markers,
        parts=list(d.parts),
        gpus=parameters["nodes"] * gpus_per_node(parameters),
        runtime_minutes=parameters["timeout_min"],
        notice_seconds=min(settings.notice_seconds, 15 * parameters["timeout_min"]),
        kill_wait_seconds=kill_wait_seconds,
        checkpoint_seconds=settings.checkpoint_seconds,
        max_preemptions=preemptions,
        max_timeouts=timeouts_within(own, site, settings.max_timeouts),
    )
    return command, parameters
