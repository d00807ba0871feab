"""Calls Slurm's clients: one query for all jobs, cancelling, the cluster's limits. texts.py parses their output."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from snakemake_executor_plugin_submitit.slurm.texts import (
    OVER,
    Status,
    ids_of,
    is_outage,
    read_config,
    read_sacct,
    read_squeue,
)

CLIENT_SECONDS = 60
CANCEL_SECONDS = 30
IDS_PER_CALL = 500
# Of the job in which the driver itself may run; kept: how to reach the cluster.
KEPT_VARIABLES = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"}
KEPT_OPTIONS = {f"SBATCH_{name}" for name in ("ACCOUNT", "CONSTRAINT", "PARTITION", "QOS", "RESERVATION", "WCKEY")}
GPU_VARIABLES = {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES"}
# Users' defaults for clients: they would hide jobs from a query, or have scancel ask before it cancels.
CLIENT_PREFIXES = ("SACCT_", "SCANCEL_", "SCONTROL_", "SQUEUE_")


class QueryFailed(RuntimeError):
    """A client did not answer, or answered with an error."""


@dataclass
class Answer:
    """found: what Slurm says about jobs. unknown: jobs that Slurm does not know. Others could not be asked for."""

    found: dict[str, Status] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Limits:
    """What a cluster's configuration says. Defaults are Slurm's own."""

    max_array_size: int = 1001
    min_job_age_seconds: int = 300
    kill_wait_seconds: int = 30
    has_accounting: bool = True
    # A new job, or one that is being requeued, may be unknown for a moment.
    lost_after_seconds: int = 60
    cluster_name: str = ""


def client(*words: str, seconds: float = CLIENT_SECONDS) -> str:
    """Output of a client program. Raises QueryFailed with what it said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_PREFIXES)}
    environment["SLURM_TIME_FORMAT"] = "standard"
    try:
        result = subprocess.run(
            words, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueryFailed(f"{words[0]}: {error}") from None
    if result.returncode:
        raise QueryFailed(f"{words[0]}: {(result.stderr or result.stdout).strip() or f'exit code {result.returncode}'}")
    return result.stdout


def limits() -> Limits:
    """The cluster's limits; Slurm's defaults for what is not said. Raises QueryFailed."""
    config = read_config(client("scontrol", "show", "config"))

    def seconds(name: str, default: int) -> int:
        found = re.match(r"\d+", config.get(name, ""))
        return int(found[0]) if found else default

    storage = config.get("AccountingStorageType", "")
    return Limits(
        max_array_size=seconds("MaxArraySize", Limits.max_array_size),
        min_job_age_seconds=seconds("MinJobAge", Limits.min_job_age_seconds),
        kill_wait_seconds=seconds("KillWait", Limits.kill_wait_seconds),
        has_accounting=storage not in ("accounting_storage/none", "(null)", "none", ""),
        cluster_name=config.get("ClusterName", ""),
    )


def query(jobs: Iterable[str], has_accounting: bool, is_thorough: bool = False) -> Answer:
    """Ask for all jobs at once. Raises QueryFailed if Slurm does not answer.

    sacct knows every element and every ended job, but may lag behind the controller, above all at requeues. So the
    controller decides about jobs that are over or unknown, for as long as it remembers them. Only it knows why a job
    waits. Where accounting has lost the end of a job, it calls it running for ever. is_thorough: ask the controller
    about all jobs; what it does not know does not run.
    """
    wanted = list(dict.fromkeys(jobs))
    found, failed = {}, None
    if has_accounting:
        try:
            found = _ask_accounting(wanted)
        except QueryFailed as error:
            failed = error
    doubtful = [job for job in wanted if is_thorough or job not in found or found[job].state in (*OVER, "PENDING")]
    if doubtful:
        queued = _ask_controller()
        for job in doubtful:
            if job in queued:
                found[job] = merged(found.get(job), queued[job])
            elif is_thorough and job in found and not found[job].is_over:
                del found[job]
    unknown = set() if failed else set(wanted) - set(found)
    return Answer({job: found[job] for job in wanted if job in found}, unknown)


def merged(accounted: Status | None, queued: Status) -> Status:
    """The controller's state; exit code and reason from accounting if both report the same state."""
    if accounted is None or accounted.state != queued.state:
        return queued
    return replace(queued, exit_code=accounted.exit_code, reason=accounted.reason or queued.reason)


def _ask_accounting(jobs: list[str]) -> dict[str, Status]:
    found: dict[str, Status] = {}
    bases = ids_of(jobs)
    for start in range(0, len(bases), IDS_PER_CALL):
        ids = ",".join(bases[start : start + IDS_PER_CALL])
        columns = "--format=JobID,State,ExitCode,NodeList,Start"
        found |= read_sacct(client("sacct", "--noheader", "--parsable2", "--allocations", columns, f"--jobs={ids}"))
    return found


def _ask_controller() -> dict[str, Status]:
    # All of the user's jobs: a list of ids fails as a whole for one that is forgotten.
    columns = "--format=%i|%T|%r|%N|%S"
    return read_squeue(client("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", columns))


def cancel(jobs: Iterable[str], seconds: float = CANCEL_SECONDS) -> dict[str, str]:
    """Cancel jobs. Returns those that may still run, each with scancel's message.

    Without an answer it tries again, until nothing has been cancelled for so many seconds.
    """
    left, pause = dict.fromkeys(jobs, ""), 0
    deadline = time.monotonic() + seconds
    while left:
        ids, left = list(left), {}
        for start in range(0, len(ids), IDS_PER_CALL):
            part = ids[start : start + IDS_PER_CALL]
            try:
                client("scancel", *part, seconds=seconds)
                deadline = time.monotonic() + seconds
            except QueryFailed as error:
                problems = [line for line in str(error).splitlines() if not is_over_already(line)]
                left |= dict.fromkeys(part, "\n".join(problems)) if problems else {}
        if not any(map(is_outage, left.values())) or time.monotonic() + pause > deadline:
            break
        time.sleep(pause)
        pause += 1
    return left


def is_over_already(line: str) -> bool:
    """True for scancel's word on a job that has ended. It says one line for each job that it could not cancel."""
    return any(sign in line.lower() for sign in ("invalid job id", "already completing or completed"))


def tickets(wanted: Iterable[str], seconds: float = CLIENT_SECONDS) -> dict[str, list[str]]:
    """Ticket -> ids (of arrays as a whole) of the user's queued jobs whose comment holds it. Raises QueryFailed."""
    found: dict[str, list[str]] = {ticket: [] for ticket in wanted}
    words = ("squeue", "--noheader", f"--user={os.getuid()}", "--format=%F|%k")
    text = client(*words, seconds=seconds) if found else ""
    for line in text.splitlines():
        job, _, comment = line.partition("|")
        for ticket in found:
            if ticket in comment.split():
                found[ticket].append(job)
    return found


def misleading_variables(environment: dict[str, str]) -> set[str]:
    """Variables that would overrule what the rules ask for.

    sbatch prefers SBATCH_TIMELIMIT and the like to what a batch file says; kept are those that say where to run. And a
    driver that itself runs in a job has that job's limits in its environment.
    """
    found = {name for name in environment if name.startswith("SBATCH_")} - KEPT_OPTIONS
    if "SLURM_JOB_ID" in environment:
        found |= {name for name in environment if name.startswith("SLURM_")} - KEPT_VARIABLES
        found |= {name for name in environment if name in GPU_VARIABLES or name.startswith("SUBMITIT_")}
    return found
