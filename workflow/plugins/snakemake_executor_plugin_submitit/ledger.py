"""What a driver writes down about its jobs: entries of those that live, and once for each what it took.

None of it may stop a job or keep the news of its end from Snakemake, so a full disk is a warning here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit import attempts as ends
from snakemake_executor_plugin_submitit import follow
from snakemake_executor_plugin_submitit.attempts import Attempts
from snakemake_executor_plugin_submitit.registry import Entry, Registry
from snakemake_executor_plugin_submitit.states import Verdict


class Ledger:
    """Both threads of the executor write here."""

    def __init__(self, folder: Path, logger) -> None:
        self.folder, self.logger = folder, logger
        self.registry = Registry(folder)
        self.lines: list[dict[str, Any]] = []  # what ended jobs took
        self._accounted: set[tuple[str, str | None]] = set()

    def note(self, entry: Entry) -> None:
        """Put a running job's entry. Without it a next driver would submit the job again."""
        with self._tolerant(entry, "is missing in the registry"):
            self.registry.put(entry)

    def account(self, entry: Entry, verdict: Verdict) -> None:
        """Write down what an ended job took, once, whichever driver or thread sees its end."""
        job = (entry.key, entry.job)
        if entry.is_accounted or job in self._accounted:
            return
        self._accounted.add(job)
        with self._tolerant(entry, "has ended, but what it took is written nowhere"):
            self.lines.append(follow.account(self.folder, entry, verdict))
            self.registry.put(replace(entry, is_accounted=True))

    def forget(self, entry: Entry) -> None:
        """Drop a job's entry, unless Snakemake has submitted the job again since it knows of its end."""
        with self._tolerant(entry, "stays in the registry"):
            found = self.registry.get(entry.key)
            if found and found.submission == entry.submission:
                self.registry.drop(entry.key)

    def has_finished(self, entry: Entry) -> bool:
        """True if the job's own last word is that it ended well."""
        records = Attempts(self.folder, entry.key).of(entry.submission)
        return bool(records) and records[-1].job == entry.job and records[-1].ended_by == ends.FINISHED

    @contextlib.contextmanager
    def _tolerant(self, entry: Entry, consequence: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.logger.warning(f"{entry.name}: Slurm job {entry.job} {consequence}: {error}")
