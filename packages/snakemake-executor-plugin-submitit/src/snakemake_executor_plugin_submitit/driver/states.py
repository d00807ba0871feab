"""Decides what happens to a job. Pure: Slurm's state and the job's records in, a decision out.

Slurm's state decides whether a job is over; the records of attempts only explain. A job that ended well may be queued
again by a preemption, so only Slurm's state counts as long as Slurm knows the job.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from snakemake_executor_plugin_submitit.records import attempts as ends
from snakemake_executor_plugin_submitit.records.attempts import Attempt, timeouts
from snakemake_executor_plugin_submitit.slurm.texts import Status

# Ends that the job did not cause.
TAKEN = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "LAUNCH_FAILED", "RECONFIG_FAIL", "REVOKED"}
# Reasons, as regular expressions, for which a pending job may never start, and what to do about them.
STUCK = {
    "PartitionConfig": "No node of its partition has what it asks for: lower `threads`, `mem_mb` or its GPUs, or "
    "choose another `partition`.",
    "PartitionNodeLimit": "It exceeds its partition's limits: lower `nodes`, `threads`, `mem_mb` or its GPUs, or "
    "choose another `partition`.",
    "PartitionTimeLimit": "It exceeds its partition's time limit: lower `runtime`, or choose another `partition`.",
    "PartitionDown|PartitionInactive": "Its partition accepts no jobs now: choose another `partition`, or ask the "
    "cluster's administrators.",
    "BadConstraints": "No node has all the features and GPUs that it asks for: check `constraint` and `gpu_type`.",
    "ReqNodeNotAvail|NodeDown|Nodes.required.for.job": "The nodes it could run on are down, drained or reserved: "
    "check `constraint`, `exclude` and `reservation`, or ask the administrators.",
    "ReservationDeleted|InvalidReservation": "Its reservation has ended or is not yours: check `reservation`.",
    "InvalidAccount|AccountNotAllowed": "Its account may not run it: check `account` and `partition`.",
    r"Grp\w*(?<!Run)Minutes": "Its account or QOS has used up its time: choose another `account` or `qos`.",
    "PerJob|PerNode|PerLimit|NotSatisfied|QOSMin|QOSTimeLimit": "It is outside the limits of its "
    "QOS or account for one job: change what it asks for, or choose another `qos` or `account`.",
    "InvalidQOS|QOSNotAllowed": "It may not use its QOS: check `qos`.",
    "DependencyNeverSatisfied": "A job it depends on has failed: check --dependency in `extra`, and cancel it.",
    "JobHeldUser": "It is held: `scontrol release` frees it.",
    "JobHeldAdmin": "An administrator holds it: ask them to release it.",
    "launch.failed|MaxRequeue|SystemFailure": "It failed to start on a node and is held: check the node, then "
    "`scontrol release` it.",
}
HINTS = {
    "BOOT_FAIL": "A node failed to boot; submit again, or skip the node with `exclude`.",
    "CANCELLED": "It was cancelled outside of this run (scancel, or an administrator).",
    "DEADLINE": "Its deadline passed before it could end.",
    "LOST": "Slurm has forgotten it, and it recorded no end: check its log, and whether its node was shut down.",
    "NODE_FAIL": "Its node died; submit again, or skip the node with `exclude`.",
    "OUT_OF_MEMORY": "It needs more memory: raise `mem_mb` of the rule.",
    "PREEMPTED": "It was preempted more often than `max_preemptions` allows.",
    "TIMEOUT": "It needs more time: raise `runtime`, or if the rule resumes from checkpoints, `max_timeouts`.",
}
KILLED_HINT = "It was killed, often for using more memory than it asked for: raise `mem_mb`."
NOT_BEGUN_HINT = "It failed before its command began: check the log, the node and the site's `setup`."
# A requeued job starts again after more than that; a node's clock may be behind the controller's by less.
CLOCKS_SECONDS = 3
WAIT, DONE, FAIL, RESUBMIT, CANCELLED = "wait", "done", "fail", "resubmit", "cancelled"


@dataclass(frozen=True)
class Budget:
    """How often a job may start again, and how often the driver has submitted it again so far."""

    max_preemptions: int = 0
    max_timeouts: int = 0
    resubmissions: int = 0
    late: int = 0  # of these, after a time limit
    runtime_seconds: float = 3600


@dataclass(frozen=True)
class Verdict:
    action: str  # one of WAIT, DONE, FAIL, RESUBMIT; CANCELLED where a driver decided it
    message: str = ""
    is_late: bool = False  # submitted again because of a time limit


def judge(job: str, status: Status | None, attempts: list[Attempt], budget: Budget) -> Verdict:
    """What to do about a job. status: None where Slurm does not know it (any more). attempts: of this submission."""
    last = record_of_start(job, status, attempts)
    if status is None:
        if attempts and attempts[-1].ended_by == ends.FINISHED:
            return Verdict(DONE)
        state = "FAILED" if last and last.ended_by else "LOST"
        status = Status(state)
    if not status.is_over and status.state != "LOST":
        return Verdict(WAIT)
    if status.state == "COMPLETED":
        return Verdict(DONE)
    message = explain(status, last)
    reason = reason_to_go_on(status, last, timeouts(attempts), budget)
    return Verdict(RESUBMIT, message, is_late=reason == ends.TIME_LIMIT) if reason else Verdict(FAIL, message)


def record_of_start(job: str, status: Status | None, attempts: list[Attempt]) -> Attempt | None:
    """The record of the start that Slurm's word is about; None where it failed before it could leave one.

    Then the last record is of an earlier start, and says nothing about this one: a broken node would use up the whole
    budget for preemptions, because the last attempt that ran was preempted.
    """
    last = attempts[-1] if attempts else None
    if last is None or last.job != job:
        return None
    is_older = status is not None and status.started is not None and last.seen < status.started - CLOCKS_SECONDS
    return None if is_older else last


def reason_to_go_on(status: Status, last: Attempt | None, num_timeouts: int, budget: Budget) -> str:
    """TIME_LIMIT or PREEMPTED if the job may restart, else "". Each reason has a separate budget.

    A job may restart if it was not at fault, or if it saves checkpoints.
    """
    by_time = status.state == "TIMEOUT" or (last is not None and last.ended_by == ends.TIME_LIMIT)
    if status.state == "TIMEOUT" and last and last.seconds < 0.8 * budget.runtime_seconds - 90:
        by_time = False  # Slurm 22.05 calls some preempted jobs so, at the end of their grace
    if by_time and not (last and last.gave_up):
        return ends.TIME_LIMIT if max(budget.late, num_timeouts) < budget.max_timeouts else ""
    was_interrupted = last is not None and not last.gave_up and last.ended_by in (ends.PREEMPTED, ends.TIME_LIMIT)
    could_not_requeue = was_interrupted and status.state in ("FAILED", "TIMEOUT")
    taken = status.state in TAKEN or could_not_requeue or (status.state == "TIMEOUT" and not by_time)
    return ends.PREEMPTED if taken and budget.resubmissions - budget.late < budget.max_preemptions else ""


def explain(status: Status, last: Attempt | None) -> str:
    """State, reason and what to do about it, in a few sentences."""
    parts = [status.state if not status.reason else f"{status.state} ({status.reason})"]
    if status.nodes:
        parts.append(f"on {status.nodes}")
    code = last.exit_code if last and last.ended_by == ends.FAILED else None
    hint = HINTS.get(status.state, "")
    if code is not None:
        parts.append(f"exit code {code}" if code >= 0 else f"killed by signal {-code}")
        hint = hint or (KILLED_HINT if code in (-9, 137) else "")
    elif status.exit_code.endswith(":9") and not hint:
        hint = KILLED_HINT
    elif last is None and status.state == "FAILED":
        hint = NOT_BEGUN_HINT
    if last and last.fault:
        hint = last.fault
    if last and last.gave_up:
        hint = HINTS["TIMEOUT" if last.ended_by == ends.TIME_LIMIT else "PREEMPTED"]
        parts.append(f"stopped by: {last.ended_by}, with no requeue left")
    return ", ".join(parts) + "." + (f" {hint}" if hint else "")


def remedy(status: Status) -> str:
    """What to do about a pending job that may never start; "" for one that waits for its turn."""
    if status.state != "PENDING":
        return ""
    return next((text for reasons, text in STUCK.items() if re.search(reasons, status.reason)), "")
