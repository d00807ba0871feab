"""Progress of a workflow in one line, with an estimate of the time left: `snakemake --logger mixar`.

On a terminal the line is refreshed in place; elsewhere every finished or failed job prints one. Warnings and errors
are shown as Snakemake formats them, log paths included. A Snakefile may announce the jobs and the minutes expected of
each (a record with `mixar_jobs`: job id -> (rule, minutes)); everything else comes from Snakemake's own events.

A dry run closes with one table of the jobs by rule, and with the records that the Snakefile marks `mixar_closing`.
With -p or --verbose every job is printed before, as Snakemake does.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_mixar.plan import Plan

UNANNOUNCED_SECONDS = 60.0
NOTHING_TO_DO = "Nothing to be done"
# Prefixes of routine messages that need no action.
CHATTER = ("Assuming unrestricted", "Building DAG", "Complete log", "Conda environments: ignored", "Config file ",
           "Elapsed time", "Execute ", "Select jobs", "Singularity containers: ignored", "Using shell")  # fmt: skip


@dataclass
class Progress:
    """Which jobs wait, run and are done, and how long the rest will take. Times are seconds of one clock."""

    began: float
    planned: int = 0  # jobs of the run, where nothing was announced
    expected: dict[int, tuple[str, float]] = field(default_factory=dict)  # job id -> rule, seconds
    names: dict[int, str] = field(default_factory=dict)
    running: dict[int, float] = field(default_factory=dict)  # job id -> when it started
    done: set[int] = field(default_factory=set)
    measured: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # rule -> seconds of its jobs

    def start(self, job: int, now: float, rule: str = "") -> None:
        self.expected.setdefault(job, (rule, UNANNOUNCED_SECONDS))
        self.running[job] = now

    def finish(self, job: int, now: float) -> float:
        """Seconds that the job took."""
        seconds = now - self.running.pop(job, now)
        self.done.add(job)
        self.measured[self.rule(job)].append(seconds)
        return seconds

    def fail(self, job: int) -> None:
        self.running.pop(job, None)

    def rule(self, job: int) -> str:
        return self.expected.get(job, ("", 0.0))[0]

    def seconds_of(self, job: int) -> float:
        """How long a job takes: the mean of its rule's finished jobs; before there is one, what the rule announced,
        scaled by how the finished rules compare with their own announcements."""
        rule, announced = self.expected[job]
        if self.measured[rule]:
            return sum(self.measured[rule]) / len(self.measured[rule])
        finished = [j for j in self.done if j in self.expected]
        promised = sum(self.expected[j][1] for j in finished)
        taken = sum(sum(seconds) for seconds in self.measured.values())
        return announced * (taken / promised if promised else 1.0)

    def seconds_left(self, now: float) -> float:
        """Work that remains, over the number of jobs that ran side by side so far."""
        work = 0.0
        for job in self.expected.keys() - self.done:
            elapsed = now - self.running[job] if job in self.running else 0.0
            work += max(self.seconds_of(job) - elapsed, 0.0)
        took = [seconds for found in self.measured.values() for seconds in found]
        if took:
            work += max(self.planned - len(self.expected), 0) * sum(took) / len(took)
        busy = sum(sum(seconds) for seconds in self.measured.values()) + sum(now - t for t in self.running.values())
        side_by_side = max(busy / (now - self.began), 1.0) if now > self.began else 1.0
        return work / side_by_side

    def line(self, now: float) -> str:
        running = ", ".join(self.names.get(job, self.rule(job)) for job in self.running)
        total = max(self.planned, len(self.expected), len(self.done) + len(self.running))
        left = f"about {clock(self.seconds_left(now))} left" if self.done else "estimating the time left"
        line = f"{len(self.done)}/{total} jobs, {clock(now - self.began)} elapsed, {left}"
        return f"{line}: {running}" if running else line


def _with_advice(text: str) -> str:
    """An error with advice. Snakemake reads the files of --configfile itself and does not name an unreadable one."""
    advice = "To see which one and where: python -m mixar check --study FILE"
    if "UnicodeDecodeError" in text and "load_configfile" in text:
        return f"A file of --configfile is not UTF-8. {advice}"
    return f"{text}\n{advice}" if "Config file is not valid JSON or YAML" in text else text


def clock(seconds: float) -> str:
    """Seconds as 0:42, 12:05 or 3:10:00."""
    minutes, rest = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class LogHandler(LogHandlerBase):
    """Turns Snakemake's events into the progress line."""

    def __post_init__(self) -> None:
        stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until Snakemake ends
        if isinstance(self.stream, io.TextIOWrapper):
            self.stream.reconfigure(errors="replace")  # what its encoding lacks, such as an accent of a path
        self.is_terminal = self.stream.isatty()
        self.progress: Progress | None = None
        self.plan = Plan() if self.common_settings.dryrun else None
        self.closing: list[str] = []
        self.closed = threading.Event()
        self.drawing = threading.RLock()
        if self.is_terminal:
            threading.Thread(target=self._refresh, daemon=True).start()

    writes_to_stream = True
    writes_to_file = False
    has_filter = False  # Snakemake's own: it follows --quiet
    has_formatter = False  # Snakemake's own, for what is not progress
    needs_rulegraph = False

    def emit(self, record: Any) -> None:
        """Take one event: a LogRecord with Snakemake's attributes."""
        event, now = getattr(record, "event", None), time.monotonic()
        if self.plan:
            self._collect(self.plan, record, event)
        elif hasattr(record, "mixar_jobs"):
            jobs = record.mixar_jobs.items()
            expected = {
                job: (rule, 60.0 * minutes if minutes else UNANNOUNCED_SECONDS) for job, (rule, minutes) in jobs
            }
            self.progress = Progress(now, expected=expected)
        elif event == LogEvent.RUN_INFO and not self.progress:
            self.progress = Progress(now, record.stats.get("total", 0))
        elif event == LogEvent.JOB_ERROR and self.progress:
            self.progress.fail(record.jobid)
            self._print(self.format(record))
        elif record.levelno >= logging.WARNING:
            self._print(_with_advice(self.format(record)))
        elif str(record.msg).startswith(NOTHING_TO_DO):
            self._print("Everything is up to date; nothing to do.")
        elif event is None and record.levelno == logging.INFO and not str(record.msg).startswith(CHATTER):
            self._print(self.format(record))
        elif self.progress:
            self._follow(self.progress, record, event, now)

    def _collect(self, plan: Plan, record: Any, event: LogEvent | None) -> None:
        """A dry run: collect the jobs, and print each only where that was asked for."""
        if getattr(record, "mixar_closing", False):
            self.closing.append(record.getMessage())
            return
        if event == LogEvent.JOB_INFO:
            plan.add(record.rule_name, record.reason)
        elif event == LogEvent.RUN_INFO:
            plan.counts.update(record.stats if not plan.counts else {})
        if record.levelno >= logging.WARNING:
            self._print(_with_advice(self.format(record)))
        elif str(record.msg).startswith(NOTHING_TO_DO):
            self._print("Everything is up to date; nothing to do.")
        elif event != LogEvent.RUN_INFO and (self.common_settings.printshellcmds or self.common_settings.verbose):
            self._print(self.format(record))

    def _close_plan(self, plan: Plan) -> None:
        lines = plan.lines()
        if lines and not (self.common_settings.printshellcmds or self.common_settings.verbose):
            lines += ["", "A dry run: nothing was started. Each job in full: snakemake -n -p"]
        for part in ("\n".join(lines), *self.closing):
            self._print(part and f"\n{part}")
        self.plan = None

    def _follow(self, progress: Progress, record: Any, event: LogEvent | None, now: float) -> None:
        if event == LogEvent.JOB_INFO:
            progress.names[record.jobid] = " ".join([record.rule_name, *record.wildcards.values()])
            progress.start(record.jobid, now, record.rule_name)
            self._draw(now)
        elif event == LogEvent.JOB_FINISHED and record.job_id not in progress.done:
            seconds = progress.finish(record.job_id, now)
            name = progress.names.get(record.job_id, progress.rule(record.job_id))
            if self.is_terminal:
                self._draw(now)
            else:
                self._print(f"{name} took {clock(seconds)}. {progress.line(now)}")

    def _print(self, text: str) -> None:
        """Print a line above the progress line."""
        with self.drawing:
            if text and text != "None":
                self.stream.write(("\r\033[K" if self.is_terminal else "") + text + "\n")
                self.stream.flush()

    def _draw(self, now: float) -> None:
        if self.is_terminal and self.progress and not self.closed.is_set():
            with self.drawing:
                width = shutil.get_terminal_size().columns - 1
                self.stream.write("\r\033[K" + self.progress.line(now)[:width])
                self.stream.flush()

    def _refresh(self) -> None:
        while not self.closed.wait(1.0):
            self._draw(time.monotonic())

    def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            if self.plan:
                self._close_plan(self.plan)
            if self.is_terminal and self.progress:
                with self.drawing:
                    self.stream.write("\r\033[K" + self.progress.line(time.monotonic()) + "\n")
                    self.stream.flush()
        super().close()
