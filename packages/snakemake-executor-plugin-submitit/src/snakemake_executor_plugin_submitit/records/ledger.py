"""A driver's notes on its jobs: entries of live jobs, and the cost of each ended one, once.

Failing to write must neither stop a job nor hide its end from Snakemake, so a full disk only causes a warning.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.records import attempts as ends
from snakemake_executor_plugin_submitit.records.attempts import Attempt, interruptions, timeouts
from snakemake_executor_plugin_submitit.records.files import append_line
from snakemake_executor_plugin_submitit.records.registry import Entry, Registry


class Ledger:
    """Both threads of the executor write here."""

    def __init__(self, folder: Path, logger) -> None:
        self.folder, self.logger = folder, logger
        self.registry = Registry(folder)
        self.lines: list[dict[str, Any]] = []  # what ended jobs took
        self._accounted: set[tuple[str, str]] = set()

    @property
    def file(self) -> Path:
        """One line of JSON for each ended job, of all drivers."""
        return self.folder / "finished.jsonl"

    def note(self, entry: Entry) -> None:
        """Put a running job's entry. Without it a next driver would submit the job again."""
        with self._tolerant(entry, "is missing from the registry"):
            self.registry.put(entry)

    def account(self, entry: Entry, outcome: str, message: str) -> None:
        """Write down what an ended job took, once, whichever driver or thread sees its end."""
        job = (entry.key, entry.job)
        if entry.is_accounted or job in self._accounted:
            return
        self._accounted.add(job)
        with self._tolerant(entry, "has ended, but its record could not be written"):
            line = bill(entry, outcome, message, entry.attempts(self.folder))
            append_line(self.file, line)
            self.lines.append(line)
            self.registry.put(replace(entry, is_accounted=True))

    def forget(self, entry: Entry) -> None:
        """Drop a job's entry, unless Snakemake has submitted the job again since it knows of its end."""
        with self._tolerant(entry, "stays in the registry"):
            found = self.registry.get(entry.key)
            if found and found.submission == entry.submission:
                self.registry.drop(entry.key)

    def has_finished(self, entry: Entry) -> bool:
        """True if the job's last record says that it ended well."""
        records = entry.attempts(self.folder)
        return bool(records) and records[-1].job == entry.job and records[-1].ended_by == ends.FINISHED

    def summarise(self) -> None:
        """Log one line at the end of a run: what its jobs took."""
        if self.lines:
            hours = [
                sum(line[name] for line in self.lines) / 3600 for name in ("gpu_seconds", "gpu_seconds_interrupted")
            ]
            again = sum(max(line["attempts"] - 1, 0) for line in self.lines)
            self.logger.info(
                f"Ended jobs: {len(self.lines)}. Further attempts: {again}. GPU hours: {hours[0]:.2f}, of these "
                f"{hours[1]:.2f} in attempts that were interrupted or failed. For each job: {self.file}"
            )

    @contextlib.contextmanager
    def _tolerant(self, entry: Entry, consequence: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.logger.warning(f"{entry.name}: Slurm job {entry.job} {consequence}: {error}")


def bill(entry: Entry, outcome: str, message: str, records: list[Attempt]) -> dict[str, Any]:
    """What a finished submission took, all its attempts together: its line in finished.jsonl."""
    return {
        "name": entry.name,
        "directory": entry.directory,
        "job": entry.job,
        "outcome": outcome,
        "message": message,
        "attempts": len(records),
        "interruptions": interruptions(records),
        "timeouts": timeouts(records),
        "seconds": round(sum(a.seconds for a in records), 1),
        "gpu_seconds": round(sum(a.gpu_seconds for a in records), 1),
        "gpu_seconds_interrupted": round(sum(a.gpu_seconds for a in records if a.ended_by != ends.FINISHED), 1),
        "submitted": entry.submitted,
        "ended": time.time(),
        "log": entry.log,
        "driver": entry.driver,
    }
