"""What runs on the node: one Snakemake job, with time to save its state when Slurm takes the node away.

submitit pickles a `JobCommand` and calls it in the batch process. We replace submitit's signal handlers: they take
every signal near a short limit for a timeout, and ignore SIGTERM. Slurm warns in two ways. SIGUSR2 comes early, before
the time limit or at a preemption (`preempt_send_user_signal`): the job saves, and this module requeues it. SIGTERM
comes KillWait seconds before the end, when Slurm has already decided: the job saves and ends.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from snakemake_executor_plugin_submitit.node.lease import holder, try_lease
from snakemake_executor_plugin_submitit.node.outputs import CACHED_SECONDS, fault_of_success, look, missing_inputs
from snakemake_executor_plugin_submitit.node.printed import meaning, printed_since, printed_so_far
from snakemake_executor_plugin_submitit.node.processes import Command
from snakemake_executor_plugin_submitit.records import attempts as ends
from snakemake_executor_plugin_submitit.records.attempts import Attempt, Attempts, interruptions, timeouts
from snakemake_executor_plugin_submitit.records.files import mark_incomplete
from snakemake_executor_plugin_submitit.slurm.clients import QueryFailed, client
from snakemake_executor_plugin_submitit.slurm.texts import Notice, is_preempted, read_notice, record_of

HEARTBEAT_SECONDS = 60
REQUEUE_TRIES = 5
# Leftover processes of an attempt die within a minute; a dead node's locks may take longer.
LEASE_SECONDS = 900
LOCAL_REQUEUE_CODE = 144  # submitit's local controller starts a task again that ends with this


class Signals:
    """The signals that Slurm sends, as flags. Handlers only set them, so they may interrupt anything."""

    NUMBERS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGCONT)

    def __init__(self) -> None:
        self.noticed = self.terminated = False
        self.since = time.time()  # the time limit counts from here, while waiting for the lease, too

    def _take(self, number: int, _frame: object) -> None:
        self.noticed |= number == signal.SIGUSR2
        self.terminated |= number in (signal.SIGTERM, signal.SIGINT)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._take) for number in self.NUMBERS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class JobCommand:
    """A Snakemake job as submitit's callable.

    line: the inner Snakemake. key: the job in the registry. submission: shared by all attempts under one budget.
    outputs, passing, inputs: files that success must make, may remove again, and needs before it starts.
    parts: keys of the jobs in its group, whose leases it holds; empty for a single job.
    markers: files that tell Snakemake that outputs are incomplete. The inner Snakemake removes them, but only a driver
    records what the outputs were made from, and it may be dead. So success marks them again, for a driver to accept.
    lease_seconds: how long it waits for another attempt to end. cached_seconds: how long a file system may hide an
    output.
    """

    line: str
    name: str
    key: str
    submission: str
    folder: str
    outputs: list[str]
    passing: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    markers: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    gpus: int = 0  # of all nodes together
    runtime_minutes: int = 60
    notice_seconds: int = 120
    kill_wait_seconds: int = 30
    lease_seconds: float = LEASE_SECONDS
    cached_seconds: float = CACHED_SECONDS
    requeue_tries: int = REQUEUE_TRIES
    checkpoint_seconds: int = 300
    max_preemptions: int = 100
    max_timeouts: int = 0

    def checkpoint(self):
        """For submitit's own handler, active until ours replaces it: there is nothing to save yet."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> str:
        """Run the job and record its end. Exits with the command's code if that is not 0."""
        job, signals = own_job_id(), Signals()
        forget_results(job)
        hide_log()
        try:
            with signals.listening(), self._leases(job, signals):
                earlier = Attempts(Path(self.folder), self.key).of(self.submission)
                if is_done(earlier, self.outputs):
                    say(f"{self.name}: finished in an earlier attempt; nothing to do")
                    return ends.FINISHED
                return self._attempt(job, signals, earlier)
        finally:
            if "SUBMITIT_DEBUG_JOB_ID" not in os.environ:  # then this is the driver's process
                os.umask(0o077)  # for the results that submitit writes now; the rules wrote under the user's mask

    @contextlib.contextmanager
    def _leases(self, job: str, signals: Signals) -> Iterator[None]:
        """Keep two attempts of one job from running at the same time, on any node, alone or in a group.

        All take several leases in the same order, so no two wait for each other.
        """
        keys = sorted(self.parts or [self.key])
        allow_open_files(len(keys) - 1)
        with contextlib.ExitStack() as held:
            for key in keys:
                held.enter_context(self._lease(Path(self.folder) / "leases" / key, job, signals))
            yield

    def _lease(self, path: Path, job: str, signals: Signals) -> IO:
        said = 0.0
        while (handle := try_lease(path, job)) is None:
            waited = time.time() - signals.since
            if signals.terminated:
                sys.exit(128 + signal.SIGTERM)
            is_last = signals.noticed and self._notice(signals).is_time_limit
            if is_last or waited > self.lease_seconds:
                say(f"{self.name}: {path} is still held after {waited:.0f} s by {holder(path, job, is_slurm())}")
                sys.exit(1)
            if signals.noticed:  # a preemption, and there is nothing to save yet
                requeue(job, self.requeue_tries)
                sys.exit(1)
            if waited - said > HEARTBEAT_SECONDS or not said:
                said = waited
                say(f"{self.name}: waiting for {path}, held by {holder(path, job, is_slurm())}")
            time.sleep(0.2)
        return handle

    def _attempt(self, job: str, signals: Signals, earlier: list[Attempt]) -> str:
        records = Attempts(Path(self.folder), self.key)
        attempt = records.begin(self.submission, job, self.gpus)
        if interruptions(earlier) > self.max_preemptions:
            say(f"{self.name}: interrupted {interruptions(earlier)} times; max_preemptions is {self.max_preemptions}")
            records.update(attempt, ended_by=ends.PREEMPTED, gave_up=True)
            sys.exit(1)
        say(f"{self.name}: attempt {attempt.number} as job {job} on {attempt.node}")
        # Unlike the key, a submission is unique on the node, whatever else runs there.
        mark = f"{self.submission}-{attempt.number}"
        # torchrun passes SIGTERM on to its workers, but kills them after 30 s unless this is set.
        patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(self.checkpoint_seconds)}
        begin = printed_so_far()
        before = look([*self.outputs, *self.passing], self.inputs, records.folder)
        command = Command(self.line, mark, {**patience, **os.environ})
        try:
            reason = self._watch(command, signals, records, attempt)
        finally:
            command.close()
        code = command.code()
        if code == 0:
            fault = fault_of_success(before, self.outputs, self.passing, 0 if reason else self.cached_seconds)
        else:
            fault = missing_inputs(before) or meaning(printed_since(begin))
        if code == 0 and not fault:
            for path in self.markers:
                mark_incomplete(Path(path), attempt.began)  # Snakemake reads its time as the job's start
            records.update(attempt, ended_by=ends.FINISHED, exit_code=0)
            return ends.FINISHED
        if not reason and is_preempted(own_slurm_record()):
            # Without an early signal Slurm signals srun's tasks at once, but this process only at the end.
            reason = ends.PREEMPTED
        if not reason:
            if fault:
                say(f"{self.name}: {fault}")
            records.update(attempt, ended_by=ends.FAILED, exit_code=code or None, fault=fault)
            sys.exit(exit_code(code))
        self._interrupted(reason, records, attempt, earlier)

    def _watch(self, command: Command, signals: Signals, records: Attempts, attempt: Attempt) -> str:
        """Wait for the command's end, or for a signal and then for the saved state. Returns the signal's reason."""
        while True:
            ended = command.wait(lambda: signals.noticed or signals.terminated, HEARTBEAT_SECONDS)
            if ended and not signals.terminated:
                return ""
            if signals.terminated:
                return self._save(command, ends.TERMINATED, max(0.8 * self.kill_wait_seconds - 0.5, 1.0))
            if not signals.noticed:
                records.update(attempt)
                continue
            notice = self._notice(signals)
            if notice.is_time_limit and not self.max_timeouts:
                signals.noticed = False  # it cannot resume, so it may use its time to the end
                say(f"{self.name}: the time limit is near")
                continue
            return self._save(command, *self._patience(notice))

    def _notice(self, signals: Signals) -> Notice:
        left = self.runtime_minutes * 60 - (time.time() - signals.since)
        return read_notice(own_slurm_record(), time.time(), left, self.notice_seconds)

    def _patience(self, notice: Notice) -> tuple[str, float]:
        """The reason of a notice and the seconds that the command may take to save; the rest is for the requeue."""
        left = notice.seconds_left
        seconds = min(left - max(0.25 * left, 3.0), self.checkpoint_seconds)
        return (ends.TIME_LIMIT if notice.is_time_limit else ends.PREEMPTED), max(seconds, 1.0)

    def _save(self, command: Command, reason: str, seconds: float) -> str:
        say(f"{self.name}: {reason}; the command has {seconds:.0f} s to save its state")
        if not ask_steps_to_stop():
            command.ask_to_stop()
        saved = command.wait_for_all(seconds)
        say(f"{self.name}: the command {'has ended' if saved else 'did not end in time and is killed'}")
        return reason

    def _interrupted(self, reason: str, records: Attempts, attempt: Attempt, earlier: list[Attempt]) -> NoReturn:
        """Exit after a signal. Requeue unless Slurm does so itself or the budget is spent."""
        over = timeouts(earlier) >= self.max_timeouts if reason == ends.TIME_LIMIT else False
        over |= reason == ends.PREEMPTED and interruptions(earlier) >= self.max_preemptions
        records.update(attempt, ended_by=reason, gave_up=over)
        if over:
            say(f"{self.name}: {reason} again; no requeue is left")
        elif reason != ends.TERMINATED:
            requeue(attempt.job, self.requeue_tries)
        sys.exit(1)


def is_done(earlier: list[Attempt], outputs: list[str]) -> bool:
    """True if an earlier attempt of this submission finished: Slurm may requeue a job that ended just in time."""
    return any(a.ended_by == ends.FINISHED for a in earlier) and all(os.path.exists(path) for path in outputs)


def exit_code(code: int | None) -> int:
    """The job's exit code after a failed command, as in a shell: 128 plus the signal's number if it was killed."""
    if not code:
        return 1
    return code if code > 0 else 128 - code


def allow_open_files(more: int) -> None:
    """Raise this process's limit of open files by `more`, up to its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def own_job_id() -> str:
    """The id by which the driver knows this job; an array element's includes its index."""
    e = os.environ
    if "SUBMITIT_DEBUG_JOB_ID" in e:
        return e["SUBMITIT_DEBUG_JOB_ID"]
    if e.get("SUBMITIT_EXECUTOR") == "local":
        return e["SUBMITIT_LOCAL_JOB_ID"]
    if e.get("SLURM_ARRAY_JOB_ID"):
        return f"{e['SLURM_ARRAY_JOB_ID']}_{e['SLURM_ARRAY_TASK_ID']}"
    return e["SLURM_JOB_ID"]


def is_slurm() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def forget_results(job: str) -> None:
    """Remove submitit's results of earlier attempts, complete or partial."""
    if folder := os.environ.get("SUBMITIT_FOLDER"):
        for suffix in ("", ".save_tmp"):
            (Path(folder) / f"{job}_0_result.pkl{suffix}").unlink(missing_ok=True)


def hide_log() -> None:
    """Make this job's log readable for its user only: Slurm created it under the umask of the rules' own files."""
    folder = os.environ.get("SUBMITIT_FOLDER")
    with contextlib.suppress(OSError):
        if folder and os.readlink("/proc/self/fd/1").startswith(os.path.realpath(folder) + os.sep):
            os.fchmod(1, 0o600)


def own_slurm_record() -> str:
    """The controller's record of this job; "" if it does not answer."""
    if not is_slurm():
        return ""
    try:
        text = client("scontrol", "--oneliner", "show", "job", own_job_id(), seconds=5)
    except QueryFailed:
        return ""
    return record_of(text, os.environ["SLURM_JOB_ID"])


def ask_steps_to_stop() -> bool:
    """Send SIGTERM to the tasks of a job on several nodes; False if there are none.

    SIGTERM to srun would end the step at once. We use the id with the index: in one element of each array, SLURM_JOB_ID
    is the id of the array and would signal all elements.
    """
    if not is_slurm() or int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) < 2:
        return False
    try:
        client("scancel", "--signal=TERM", own_job_id(), seconds=10)
    except QueryFailed:
        return False
    return True


def requeue(job: str, tries: int) -> None:
    """Put this job back into the queue. If Slurm does not answer, the driver resubmits it."""
    if not is_slurm():
        sys.exit(LOCAL_REQUEUE_CODE)
    for attempt in range(tries):
        try:
            client("scontrol", "requeue", job, seconds=10)
        except QueryFailed as error:
            say(f"{job} could not be requeued: {error}")
            time.sleep(attempt)
        else:
            return


def say(text: str) -> None:
    """A line in the job's log."""
    print(f"[submitit {time.strftime('%H:%M:%S')}] {text}", flush=True)
