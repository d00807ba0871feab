"""Records of attempts: one small file for each start of a job on a node. They say how often a job ran, how each attempt
ended and what all of them cost. Slurm decides whether a job is done; the records explain.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from snakemake_executor_plugin_submitit.records.files import write_json

# How an attempt ended. "" means no record of an end: it was killed, or its node died.
FINISHED, FAILED, PREEMPTED, TIME_LIMIT, TERMINATED = "finished", "failed", "preempted", "time limit", "terminated"


@dataclass(frozen=True)
class Attempt:
    """One start of a job. Times are seconds since 1970; `seen` is the last sign of life."""

    number: int
    submission: str  # one for all attempts that share a budget
    job: str  # Slurm's id
    node: str
    gpus: int
    began: float
    seen: float
    ended_by: str = ""
    exit_code: int | None = None
    gave_up: bool = False  # True where the budget for another attempt was used up
    fault: str = ""  # what was wrong, if the exit code does not show it

    @property
    def seconds(self) -> float:
        return max(self.seen - self.began, 0.0)

    @property
    def gpu_seconds(self) -> float:
        return self.gpus * self.seconds


class Attempts:
    """All attempts of one Snakemake job, also those of earlier drivers and submissions."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder / "attempts" / key

    def all(self) -> list[Attempt]:
        found = []
        for path in sorted(self.folder.glob("*.json")) if self.folder.exists() else []:
            try:
                found.append(Attempt(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError):  # half a file of a full disk; it only explains
                continue
        return found

    def of(self, submission: str) -> list[Attempt]:
        return [a for a in self.all() if a.submission == submission]

    def begin(self, submission: str, job: str, gpus: int) -> Attempt:
        """Record a start. Only for who holds the job's lease."""
        now = time.time()
        number = max((a.number for a in self.all()), default=0) + 1
        attempt = Attempt(number, submission, job, socket.gethostname(), gpus, began=now, seen=now)
        self._write(attempt)
        return attempt

    def update(self, attempt: Attempt, **changes) -> Attempt:
        """Record a sign of life, or with `ended_by` the end."""
        attempt = replace(attempt, seen=time.time(), **changes)
        self._write(attempt)
        return attempt

    def _write(self, attempt: Attempt) -> None:
        write_json(self.folder / f"{attempt.number:04d}.json", asdict(attempt))


def timeouts(attempts: list[Attempt]) -> int:
    return sum(a.ended_by == TIME_LIMIT for a in attempts)


def interruptions(attempts: list[Attempt]) -> int:
    """Attempts that were cut short by anything but the time limit and the command itself."""
    return sum(a.ended_by in (PREEMPTED, TERMINATED, "") for a in attempts)
