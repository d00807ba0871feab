"""Where jobs run: a Slurm cluster, processes on this machine, or this process. All three submit through submitit."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.driver.patience import FEW, Patience
from snakemake_executor_plugin_submitit.node.command import JobCommand
from snakemake_executor_plugin_submitit.records.files import private_folder
from snakemake_executor_plugin_submitit.slurm import clients
from snakemake_executor_plugin_submitit.slurm.clients import CANCEL_SECONDS, Answer, Limits, QueryFailed
from snakemake_executor_plugin_submitit.slurm.texts import Status, is_full, is_outage, sbatch_reason

CLIENTS = ("sbatch", "squeue", "scancel", "scontrol")
LIMITS_PAUSE_SECONDS = 60
THOROUGH_EVERY = 10  # queries


class Submission(RuntimeError):
    """Jobs could not be submitted.

    is_outage, is_full: the same may work later. is_open: Slurm may have accepted them.
    """

    def __init__(self, message: str, is_open: bool = False) -> None:
        super().__init__(message)
        self.is_outage, self.is_full = is_outage(sbatch_reason(message)), is_full(message)
        self.is_open = is_open


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
        """Raise ValueError if nothing can be submitted from here."""
        check_submitit()
        missing = [name for name in CLIENTS if not shutil.which(name)]
        if missing:
            raise ValueError(
                f"{', '.join(missing)}: not found on the PATH; start snakemake on a machine of the cluster, or run "
                "the jobs on this one with --submitit-cluster local"
            )

    @property
    def place(self) -> str:
        """Where job ids are valid: several clusters may share a home."""
        return f"Slurm cluster {self.limits.cluster_name}"

    @property
    def limits(self) -> Limits:
        """The cluster's limits; Slurm's defaults until it has answered once, and it is asked again after some time."""
        if self._limits is None and time.monotonic() >= self._ask_again:
            self._ask_again = time.monotonic() + LIMITS_PAUSE_SECONDS
            with contextlib.suppress(QueryFailed):
                self._limits = clients.limits()
        return self._limits or Limits()

    def learn_limits(self) -> None:
        """Ask for the limits, unless they are known. Raises QueryFailed in an outage.

        Submitted with Slurm's own limits, an array may be longer than this cluster takes.
        """
        if self._limits is None:
            try:
                self._limits = clients.limits()
            except QueryFailed as error:
                if is_outage(str(error)):
                    raise

    def submit(self, commands: Sequence[JobCommand], parameters: dict[str, Any], folder: Path) -> list[Any]:
        """Ids of the submitted jobs: an array for several commands, a plain job for one. Raises Submission."""
        return [job.job_id for job in submit(self.name, commands, parameters, folder)]

    def query(self, jobs: Iterable[str]) -> Answer:
        """Asks the controller about all jobs now and then, and while one is unknown: accounting may be wrong."""
        self._num_queries += 1
        is_thorough = self._has_unknown or self._num_queries % THOROUGH_EVERY == 0
        answer = clients.query(jobs, self.limits.has_accounting, is_thorough)
        self._has_unknown = bool(answer.unknown)
        return answer

    def cancel(self, jobs: Iterable[str], seconds: float = CANCEL_SECONDS) -> dict[str, str]:
        """Cancel jobs. Returns those that may still run, each with Slurm's message."""
        return clients.cancel(jobs, seconds)

    def cancel_tickets(self, tickets: Iterable[str], seconds: float = CANCEL_SECONDS) -> None:
        """Cancel what was submitted with these tickets. Raises QueryFailed if Slurm does not confirm."""
        found = clients.tickets(tickets, seconds)
        left = self.cancel((job for jobs in found.values() for job in jobs), seconds)
        if left:
            raise QueryFailed("\n".join(set(left.values())))


class LocalBackend:
    """Jobs as processes of this machine, one submitit controller each. There is no queue: all start at once."""

    name = "local"
    can_adopt = True
    limits = Limits(max_array_size=1, has_accounting=False, kill_wait_seconds=2, lost_after_seconds=0)
    place = f"processes of {socket.gethostname()}"

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}

    def check(self) -> None:
        check_submitit()

    def learn_limits(self) -> None:
        pass

    def submit(self, commands: Sequence[JobCommand], parameters: dict[str, Any], folder: Path) -> list[str]:
        if parameters["nodes"] > 1:
            raise Submission(f"nodes: found {parameters['nodes']}; this machine is one node, so ask for 1")
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

    def cancel(self, jobs: Iterable[str], seconds: float = CANCEL_SECONDS) -> dict[str, str]:
        for job in jobs:
            if self._is_alive(job):
                with contextlib.suppress(OSError):
                    os.kill(int(job), 2)
        return {}

    def cancel_tickets(self, tickets: Iterable[str], seconds: float = CANCEL_SECONDS) -> None:
        pass


class DebugBackend:
    """Jobs one after the other, with their output on this terminal."""

    name = "debug"
    can_adopt = False
    limits = LocalBackend.limits
    place = LocalBackend.place

    def check(self) -> None:
        check_submitit()

    def learn_limits(self) -> None:
        pass

    def submit(self, commands: Sequence[JobCommand], parameters: dict[str, Any], folder: Path) -> list[str]:
        jobs = submit(self.name, commands, parameters, folder)
        for job in jobs:
            with contextlib.suppress(Exception, SystemExit):  # the attempt's record holds the outcome
                job.results()
        return [job.job_id for job in jobs]

    def query(self, jobs: Iterable[str]) -> Answer:
        return Answer(unknown=set(jobs))

    def cancel(self, jobs: Iterable[str], seconds: float = CANCEL_SECONDS) -> dict[str, str]:
        return {}

    def cancel_tickets(self, tickets: Iterable[str], seconds: float = CANCEL_SECONDS) -> None:
        pass


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
    start = f"{shlex.quote(sys.executable)} -u -m snakemake_executor_plugin_submitit.node.start"
    own = {"slurm_python": f"exec {start}", "local_python": start, "slurm_max_num_timeout": 1000}
    try:
        from submitit import AutoExecutor

        private_folder(folder)
        executor = AutoExecutor(folder=folder, cluster=cluster, **own)
        # Slurm starts the batch process alone, and so do the others: tasks are for the rule's own launcher.
        here = {} if cluster == "slurm" else {"tasks_per_node": 1}
        executor.update_parameters(**parameters | here)
        jobs = executor.submit_array(commands)
    except Exception as error:  # submitit raises many types of error
        raise Submission(str(error).strip() or type(error).__name__) from error
    for path in {path for job in jobs for path in (job.paths.submitted_pickle, job.paths.submission_file)}:
        with contextlib.suppress(OSError):  # the folder is private as well
            path.chmod(0o600)
    return jobs


def submit_patiently(backend: Backend, commands, parameters, folder, ticket: str, patience: Patience) -> list[str]:
    """Submit; in an outage, wait for its end and try again. Stops trying after a few tries if the queue is full.

    sbatch may fail after the controller took the job. So after each failure whatever carries the ticket is cancelled,
    and nothing is submitted before Slurm has confirmed that. Raises Submission.
    """
    for number, pause in enumerate(patience.pauses()):
        try:
            ids = backend.submit(commands, parameters, folder)
            patience.is_silent = False
            return ids
        except Submission as error:
            patience.is_silent = error.is_outage
            may_pass = error.is_outage or (error.is_full and number < FEW)
            if may_pass and not patience.wait(pause, f"{error}; trying again in {pause} s"):
                raise Submission(f"{error}; this run is being stopped", is_open=True) from error
            try:
                patience.ask(lambda: backend.cancel_tickets([ticket]), "whether it was taken", error.is_outage)
            except QueryFailed as silence:
                message = f"{error}; and Slurm does not confirm whether it was accepted ({silence})"
                raise Submission(message, is_open=True) from error
            if not may_pass:
                raise
    raise AssertionError("pauses have no end")
