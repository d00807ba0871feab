"""Follows jobs: how often to ask Slurm, and what its answer means for each job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.driver.states import WAIT, Budget, Verdict, judge, remedy
from snakemake_executor_plugin_submitit.node.command import JobCommand
from snakemake_executor_plugin_submitit.records import attempts as ends
from snakemake_executor_plugin_submitit.records.registry import Entry
from snakemake_executor_plugin_submitit.slurm.clients import Answer, Limits
from snakemake_executor_plugin_submitit.slurm.texts import Status

GROWTH = 1.5  # of the pause, after a query that brings nothing new


@dataclass(frozen=True)
class Live:
    """A job that is queued or running, and what it takes to submit it again."""

    entry: Entry
    command: JobCommand
    parameters: dict[str, Any]
    logs: Path  # folder for links to its logs

    @property
    def budget(self) -> Budget:
        c = self.command
        e = self.entry
        return Budget(c.max_preemptions, c.max_timeouts, e.resubmissions, e.late, 60.0 * c.runtime_minutes)

    def of_command(self) -> Live:
        """What its command makes, where that is only a part of the group that an earlier driver submitted."""
        parts = {key: self.entry.parts[key] for key in self.command.parts}
        return replace(self, entry=replace(self.entry, parts=parts, markers=self.command.markers))

    def with_log(self, runs: Path) -> Live:
        """The job with a link to its log under its rule and wildcards; with the log itself where there can be no link.

        The log comes when the job starts.
        """
        log, link = runs / f"{self.entry.job}_0_log.out", self.logs / f"{self.entry.job}.log"
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                link.symlink_to(os.path.relpath(log, self.logs))
        except OSError:
            link = log
        return replace(self, entry=replace(self.entry, log=str(link)))


@dataclass
class Poll:
    """Results of earlier queries, and when to ask again. Pauses grow while nothing changes."""

    least: float
    most: float
    states: dict[str, Status] = field(default_factory=dict)  # by Slurm's id
    missing_since: dict[str, float] = field(default_factory=dict)
    warned: set[tuple[str, str]] = field(default_factory=set)
    failures: int = 0
    current: float = 0.0
    is_hurried: bool = False

    def hurry(self) -> None:
        """Ask again soon: something began or ended."""
        self.current, self.is_hurried = 0.0, True

    def pause(self, limits: Limits) -> float:
        """Seconds until the next query. Without accounting, ended jobs are forgotten after MinJobAge."""
        self.is_hurried = False
        self.current = min(max(self.current * GROWTH, self.least), self.most)
        return self.current if limits.has_accounting else max(min(self.current, limits.min_job_age_seconds / 3), 0.5)

    def answered(self, answer: Answer) -> None:
        now = time.monotonic()
        if any(self.states.get(job) != status for job, status in answer.found.items()):
            self.current = 0.0
        self.failures = 0
        self.missing_since = {job: self.missing_since.get(job, now) for job in answer.unknown}

    def failed(self, logger, error: Exception) -> None:
        """A failed query: all jobs are kept, and the first and every tenth failure are logged."""
        self.failures += 1
        self.missing_since.clear()  # what was unknown before an outage may be known after it
        if self.failures % 10 == 1:
            logger.warning(f"Cannot query the jobs ({error}); all are kept, and the query is repeated.")

    def judge(self, live: Live, answer: Answer, folder: Path, limits: Limits, logger) -> Verdict:
        job = live.entry.job
        status = answer.found.get(job)
        if status is None and job not in answer.unknown:
            return Verdict(WAIT)
        if status is not None and not status.is_over:
            self._tell(live, status, logger)
            return Verdict(WAIT)
        records = live.entry.attempts(folder)
        if status is None and not _has_ended(records, job):
            waited = time.monotonic() - self.missing_since.get(job, time.monotonic())
            if waited < limits.lost_after_seconds:
                return Verdict(WAIT)
        return judge(job, status, records, live.budget)

    def _tell(self, live: Live, status: Status, logger) -> None:
        """Log what a user wants to know of a live job: that it was interrupted, that it may never start."""
        job, before = live.entry.job, self.states.get(live.entry.job)
        self.states[job] = status
        if before and before.state in ("RUNNING", "COMPLETING") and status.state == "PENDING":
            logger.info(f"{live.entry.name}: Slurm job {job} was interrupted and is queued again.")
        hint = remedy(status)
        if hint and (live.entry.ticket, hint) not in self.warned:  # once for all elements of an array
            self.warned.add((live.entry.ticket, hint))
            logger.warning(f"{live.entry.name}: Slurm job {job} may never start: {status.reason}. {hint}")


def _has_ended(records: list[ends.Attempt], job: str) -> bool:
    return bool(records) and records[-1].job == job and records[-1].ended_by in (ends.FINISHED, ends.FAILED)


async def pause(seconds: float, goes_on: Callable[[], bool]) -> None:
    """Sleep, but no longer than `goes_on` is true: the end of a run must not wait for the next query."""
    deadline = time.monotonic() + seconds
    while goes_on() and (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 0.2))
