"""Where jobs run: a Slurm cluster, processes on this machine, or this process. All three submit through submitit."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from snakemake_executor_plugin_submitit import slurm
from snakemake_executor_plugin_submitit.command import JobCommand
from snakemake_executor_plugin_submitit.slurm import Answer, Limits, QueryFailed
from snakemake_executor_plugin_submitit.states import Status, is_transient

SUBMIT_PAUSES_SECONDS = (5, 15, 30, 60)
LIMITS_PAUSE_SECONDS = 60
THOROUGH_EVERY = 10  # queries


class Submission(RuntimeError):
    """Jobs could not be submitted. is_transient: the same may work later."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.is_transient = is_transient(message)


class SlurmBackend:
    """Jobs of a Slurm cluster."""

    name = "slurm"
    can_adopt = True

    def __init__(self) -> None:
        self._limits: Limits | None = None
        self._ask_again = 0.0
        self._num_queries = 0
        self._has_unknown = False

    def check(self) -> None:
        """Raise ValueError where nothing can be submitted from here."""
        check_submitit()
        if not shutil.which("sbatch"):
            raise ValueError(
                "sbatch: not found on the PATH; start snakemake on a machine of the cluster, or run the jobs as "
                "processes of this one with --submitit-cluster local"
            )

    @property
    def limits(self) -> Limits:
        """The cluster's limits; Slurm's defaults until it has answered once, and it is asked again after some time."""
        if self._limits is None and time.monotonic() >= self._ask_again:
            self._ask_again = time.monotonic() + LIMITS_PAUSE_SECONDS
            with contextlib.suppress(QueryFailed):
                self._limits = slurm.limits()
        return self._limits or Limits()

    def submit(self, commands: Sequence[JobCommand], parameters: dict[str, Any], folder: Path) -> list[Any]:
        """Ids of the submitted jobs: an array for several commands, a plain job for one. Raises Submission."""
        return [job.job_id for job in submit(self.name, commands, parameters, folder)]

    def query(self, jobs: Iterable[str]) -> Answer:
        """Asks the controller about all jobs now and then, and while one is unknown: accounting may be wrong."""
        self._num_queries += 1
        is_thorough = self._has_unknown or self._num_queries % THOROUGH_EVERY == 0
        answer = slurm.query(jobs, self.limits.has_accounting, is_thorough)
        self._has_unknown = bool(answer.unknown)
        return answer

    def cancel(self, jobs: Iterable[str]) -> list[str]:
        return slurm.cancel(jobs)

    def cancel_tickets(self, tickets: Iterable[str]) -> list[str]:
        """Cancel what was submitted with these tickets; those are returned for which Slurm did not answer."""
        wanted = list(tickets)
        try:
            found = slurm.tickets(wanted)
        except QueryFailed:
            return wanted
        return self.cancel(job for jobs in found.values() for job in jobs)


class LocalBackend:
    """Jobs as processes of this machine, one submitit controller each. There is no queue: all start at once."""

    name = "local"
    can_adopt = True
    limits = Limits(max_array_size=1, has_accounting=False, kill_wait_seconds=2, lost_after_seconds=0)

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}

    def check(self) -> None:
        check_submitit()

    def submit(self, commands: Sequence[JobCommand], parameters: dict[str, Any], folder: Path) -> list[str]:
        if parameters["nodes"] > 1:
            raise Submission(f"nodes: found {parameters['nodes']}; on this machine there is one, so ask for 1")
        submitted = submit(self.name, commands, parameters, folder)
        self.jobs |= {job.job_id: job for job in submitted}
        return [job.job_id for job in submitted]

    def query(self, jobs: Iterable[str]) -> Answer:
        """A controller's process is all there is to see; the records of attempts say how an ended job fared."""
        answer = Answer()
        for job in jobs:
            if self._is_alive(job):
                answer.found[job] = Status("RUNNING")
            else:
                answer.unknown.add(job)
        return answer

    def _is_alive(self, job: str) -> bool:
        if job in self.jobs:
            return not self.jobs[job].done()
        with contextlib.suppress(OSError):  # of an earlier driver
            return b"submitit.local._local" in (Path("/proc") / job / "cmdline").read_bytes()
        return False

    def cancel(self, jobs: Iterable[str]) -> list[str]:
        for job in jobs:
            if self._is_alive(job):
                with contextlib.suppress(OSError):
                    os.kill(int(job), 2)
        return []

    def cancel_tickets(self, tickets: Iterable[str]) -> list[str]:
        return []


class DebugBackend:
    """Jobs one after the other, with their output on this terminal."""

    name = "debug"
    can_adopt = False
    limits = LocalBackend.limits

    def check(self) -> None:
        check_submitit()

    def submit(self, commands: Sequence[JobCommand], parameters: dict[str, Any], folder: Path) -> list[str]:
        jobs = submit(self.name, commands, parameters, folder)
        for job in jobs:
            with contextlib.suppress(Exception, SystemExit):  # the record of the attempt says what happened
                job.results()
        return [job.job_id for job in jobs]

    def query(self, jobs: Iterable[str]) -> Answer:
        return Answer(unknown=set(jobs))

    def cancel(self, jobs: Iterable[str]) -> list[str]:
        return []

    def cancel_tickets(self, tickets: Iterable[str]) -> list[str]:
        return []


Backend = SlurmBackend | LocalBackend | DebugBackend
BACKENDS = {backend.name: backend for backend in (SlurmBackend, LocalBackend, DebugBackend)}


def check_submitit() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise ValueError(f"submitit: {error}; install it beside snakemake: pip install submitit") from None


def submit(cluster: str, commands: Sequence[JobCommand], parameters: dict[str, Any], folder: Path) -> list[Any]:
    """submitit's jobs. Raises Submission with what sbatch said."""
    # `exec`: Python takes the batch shell's place, and with it the signals that Slurm sends to the batch process.
    own = {"slurm_python": f"exec {shlex.quote(sys.executable)}", "slurm_max_num_timeout": 1000}
    try:
        from submitit import AutoExecutor

        folder.mkdir(parents=True, exist_ok=True)
        executor = AutoExecutor(folder=folder, cluster=cluster, **own)
        executor.update_parameters(**parameters)
        return executor.submit_array(commands)
    except Exception as error:  # submitit raises many kinds
        raise Submission(str(error).strip() or type(error).__name__) from error


def submit_patiently(backend: Backend, commands, parameters, folder, ticket: str, say, ending: Event) -> list[str]:
    """Submit; try again while the controller is busy, until the run is being stopped. Raises Submission.

    sbatch may fail after the controller took the job, so whatever carries the ticket is cancelled after each failure.
    """
    for pause in (*SUBMIT_PAUSES_SECONDS, None):
        try:
            return backend.submit(commands, parameters, folder)
        except Submission as error:
            is_final = pause is None or not error.is_transient
            if not is_final:
                say(f"sbatch: {error}; trying again in {pause} s")
                ending.wait(pause)
            if backend.cancel_tickets([ticket]):
                raise Submission(f"{error}; and Slurm does not say whether it was taken all the same") from error
            if is_final or ending.is_set():
                raise
