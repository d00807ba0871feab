"""Parses Slurm's output. Pure: texts in, values out.

Times are seconds since 1970. Decisions are in driver/states.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
}  # fmt: skip


@dataclass(frozen=True)
class Status:
    """A job as Slurm describes it. state: in Slurm's words, the first word only."""

    state: str
    reason: str = ""
    exit_code: str = ""  # code:signal
    nodes: str = ""
    # Seconds since 1970, of the last start. No news: for a job that waits it is an estimate, and changes all the time.
    started: float | None = field(default=None, compare=False)

    @property
    def is_over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True)
class Notice:
    """Why a job has to save its state, and when it will be ended."""

    is_time_limit: bool
    seconds_left: float


def read_sacct(text: str) -> dict[str, Status]:
    """`JobID|State|ExitCode|NodeList|Start` lines by job id, array elements apart. Steps are left out."""
    found: dict[str, Status] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) >= 4 and "." not in fields[0]:
            state, _, rest = fields[1].partition(" ")  # CANCELLED by 1000
            status = Status(state.rstrip("+"), rest, fields[2], readable_nodes(fields[3]), read_time(*fields[4:5]))
            found |= dict.fromkeys(expand_ids(fields[0]), status)
    return found


def read_squeue(text: str) -> dict[str, Status]:
    """`JobID|State|Reason|NodeList|StartTime` lines by job id, array elements apart."""
    found: dict[str, Status] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) >= 4:
            reason = "" if fields[2] == "None" else fields[2]
            status = Status(fields[1], reason, "", readable_nodes(fields[3]), read_time(*fields[4:5]))
            found |= dict.fromkeys(expand_ids(fields[0]), status)
    return found


def readable_nodes(text: str) -> str:
    return "" if text in ("None assigned", "(null)", "n/a") else text


def expand_ids(text: str) -> list[str]:
    """`7`, `7_3` and `7_[0-2,5%4]` as single ids."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", text.strip())
    if not match:
        return [text.strip()]
    found = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        found += [f"{match[1]}_{i}" for i in range(int(first), int(last or first) + 1)]
    return found


def record_of(text: str, job: str) -> str:
    """The line of one job in `scontrol --oneliner show job`. job: Slurm's plain id, unique to each element.

    For an array's id Slurm shows every element, and one element has that id.
    """
    return next((line for line in text.splitlines() if line.startswith(f"JobId={job} ")), "")


def read_notice(record: str, now: float, expected_left: float, notice_seconds: int) -> Notice:
    """Distinguish preemption from the time limit by `scontrol show job`; without it, by the time left.

    now: seconds since 1970. expected_left: seconds to the requested limit, used if the record has none.
    Slurm gives a preempted job an earlier end, so an end well before the limit also means preemption.
    """
    fields = dict(re.findall(r"(\w+)=(\S+)", record))
    end = read_time(fields.get("EndTime"))
    if end is None:
        return Notice(expected_left <= max(notice_seconds, 30) + 60, max(expected_left, 0.0))
    start, limit = read_time(fields.get("StartTime")), read_duration(fields.get("TimeLimit", ""))
    if start is not None and limit is not None:
        expected_left = start + limit - now
    is_early = end - now < expected_left - 90
    return Notice(not (is_preempted(record) or is_early), max(end - now, 0.0))


def is_preempted(record: str) -> bool:
    """True where `scontrol show job` says that this attempt is losing its place."""
    fields = dict(re.findall(r"(\w+)=(\S+)", record))
    preempted, started = read_time(fields.get("PreemptTime")), read_time(fields.get("StartTime"))
    return preempted is not None and (started is None or preempted >= started)


def read_time(text: str | None = None) -> float | None:
    """Slurm's local time as seconds since 1970; None for Unknown and None."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def read_duration(text: str) -> float | None:
    """`D-HH:MM:SS` as seconds; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


# What clients say while the controller, its database, munge or the network between them is away or busy.
OUTAGES = (
    "authentication", "broken pipe", "communication", "configuration source", "connect failure", "connection",
    "credential", "database", "i/o error writing", "message receive failure", "message send failure", "munge",
    "name resolution", "no route to host", "not connected", "slurmdbd", "standby", "temporarily", "timed out",
    "try again", "unable to contact", "unreachable", "zero bytes",
)  # fmt: skip
FULL = ("job submit limit", "maxsubmit")


def is_outage(text: str) -> bool:
    """True if a client's word says that it had no answer, and that it may have one later."""
    return any(sign in text.lower() for sign in OUTAGES)


def sbatch_reason(message: str) -> str:
    """The final reason why sbatch failed, without its earlier attempts; "" if the error is not sbatch's."""
    reasons = re.findall(r"submission failed: (.*)", message)
    own = [line for line in message.splitlines() if line.startswith("sbatch: ")]
    return reasons[-1] if reasons else "\n".join(own)


def is_full(message: str) -> bool:
    """True if sbatch says that the user has as many jobs in the queue as are allowed."""
    return any(sign in message.lower() for sign in FULL)


def read_config(text: str) -> dict[str, str]:
    """`scontrol show config` as names and values."""
    return {k: v.strip() for k, v in re.findall(r"^(\w+)\s*=\s*(.*)$", text, re.M)}


def ids_of(jobs: Iterable[str]) -> list[str]:
    """Ids without array indices, each once: the shortest way to ask for all elements."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))
