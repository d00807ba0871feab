"""Jobs of an earlier driver that was killed: which of them still make what is wanted, and which have ended."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_executor_plugin_submitit.driver.backends import Backend
from snakemake_executor_plugin_submitit.driver.jobs import Description
from snakemake_executor_plugin_submitit.driver.patience import Patience
from snakemake_executor_plugin_submitit.driver.states import CANCELLED, Budget, Verdict, judge
from snakemake_executor_plugin_submitit.records import attempts as ends
from snakemake_executor_plugin_submitit.records.registry import Driver, Entry, Registry
from snakemake_executor_plugin_submitit.slurm.clients import Answer, QueryFailed
from snakemake_executor_plugin_submitit.slurm.texts import Status, is_outage

# A job that Slurm does not know counts as ended after this long without a sign of life.
QUIET_SECONDS = 600

Ends = list[tuple[Entry, Verdict]]
Found = list[tuple[Description, Entry]]  # an entry may cover several jobs, and a job may have several entries


@dataclass
class Earlier:
    """What earlier drivers left of the wanted jobs.

    good: key -> entry of jobs that need no submission. refused: key -> why a job cannot be submitted now.
    """

    good: dict[str, Entry] = field(default_factory=dict)
    ended: Ends = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def take_stock(
    wanted: Iterable[Description],
    registry: Registry,
    driver: Driver,
    backend: Backend,
    folder: Path,
    triggers: Collection[str],
    patience: Patience,
) -> Earlier:
    """Sort the jobs that earlier drivers left. driver: this one. triggers: the rerun triggers that count.

    Cancels submissions that were cut short and jobs with old inputs or settings. Waits during an outage: a job of
    unknown state may be running, and submitting it again could run it twice. Raises QueryFailed if the run is stopped
    meanwhile, OSError and ValueError if the registry cannot be used.
    """
    earlier = Earlier()
    if not backend.can_adopt:
        return earlier
    # Its own entry without an id is of a submission that Slurm has not confirmed to be cancelled. Jobs of another
    # cluster cannot be asked for here; they and what replaces them do not run at the same time.
    holders = registry.holders()
    found = [
        (d, e)
        for d in wanted
        for key in sorted({key for part in d.parts for key in holders.get(part, ())})
        if (e := registry.get(key)) and e.place == backend.place and (e.driver != driver.id or not e.job)
    ]
    alive = driver.alive() if found else set()
    earlier.refused = {
        d.key: f"Slurm job {entry.job} of another running snakemake is already making it; wait for it, or stop it"
        for d, entry in found
        if entry.driver in alive
    }
    found = [(d, entry) for d, entry in found if entry.driver not in alive]
    _cancel_cut_short([(d, e) for d, e in found if not e.job], backend, folder, earlier, patience)
    found = [(d, entry) for d, entry in found if entry.job]
    jobs = [entry.job for _, entry in found]
    answer = patience.ask(lambda: backend.query(jobs), "about jobs of an earlier run") if jobs else Answer()
    old = []
    for d, entry in found:
        status = answer.found.get(entry.job)
        changed = differences(entry, d, status, driver.keys, triggers)
        if d.key in earlier.good:
            changed = ["the jobs of its group"]  # it is part of a second one
        if not changed and is_good(entry, d, answer, folder):
            earlier.good[d.key] = entry
        elif status.is_over if status else entry.job in answer.unknown:
            earlier.ended.append((entry, judge(entry.job, status, entry.attempts(folder), Budget())))
        else:
            old.append((d, entry))
            patience.say(
                f"{entry.name}: Slurm job {entry.job} of an earlier run is cancelled and submitted again, since these "
                f"have changed: {', '.join(changed[:5])}."
            )
    _cancel_old(old, backend, earlier, patience)
    return earlier


def _cancel_cut_short(found: Found, backend: Backend, folder: Path, earlier: Earlier, patience: Patience) -> None:
    tickets = {entry.ticket for _, entry in found}
    try:
        if tickets:
            patience.ask(lambda: backend.cancel_tickets(tickets), "whether a submission that was cut short was taken")
    except QueryFailed as error:
        why = f"an earlier submission was cut short, and Slurm does not confirm whether it was accepted: {error}"
        earlier.refused |= {d.key: why for d, _ in found}
        return
    verdict = Verdict(CANCELLED, "Its snakemake was killed while submitting it.")
    earlier.ended += [(entry, verdict) for _, entry in found if entry.attempts(folder)]


def _cancel_old(found: Found, backend: Backend, earlier: Earlier, patience: Patience) -> None:
    jobs = list(dict.fromkeys(entry.job for _, entry in found))

    def cancel() -> dict[str, str]:
        left = backend.cancel(jobs)
        if any(map(is_outage, left.values())):
            raise QueryFailed("\n".join(set(left.values())))
        return left

    left = patience.ask(cancel, "to cancel them") if found else {}
    for d, entry in found:
        if entry.job in left:
            why = f"Slurm does not cancel its job {entry.job}, which has old inputs or settings: {left[entry.job]}"
            earlier.refused[d.key] = why
        else:
            earlier.ended.append((entry, Verdict(CANCELLED, "It had old inputs or settings.")))


def ended_unseen(registry: Registry, alive: set[str], backend: Backend, folder: Path) -> Ends:
    """Jobs that ended while no driver followed them, and are not accounted for. alive: drivers that follow theirs."""
    unseen = [e for e in registry.all() if e.job and e.driver not in alive and not e.is_accounted]
    left = [e for e in unseen if e.place == backend.place]
    try:
        answer = backend.query([entry.job for entry in left]) if left else Answer()
    except QueryFailed:  # a later driver will ask again
        return []
    found = [(entry, answer.found.get(entry.job), entry.attempts(folder)) for entry in left]
    return [
        (e, judge(e.job, status, records, Budget()))
        for e, status, records in found
        if _is_over(e, status, records, answer)
    ]


def _is_over(entry: Entry, status: Status | None, records: list[ends.Attempt], answer: Answer) -> bool:
    if status or entry.job not in answer.unknown:
        return status is not None and status.is_over
    return bool(records) and time.time() - records[-1].seen > QUIET_SECONDS


def differences(
    entry: Entry, d: Description, status: Status | None, claimed: Collection[str], triggers: Collection[str]
) -> list[str]:
    """Reasons why an earlier submission does not fit the wanted jobs; empty if it fits.

    claimed: keys of all jobs of this driver. Of a group some jobs may be done, and the rest wanted. Such a group is
    good while it runs: one that is still queued, or queued again, would make all of them.
    """
    others = set(entry.parts) - set(d.parts)
    is_queued = status is not None and not status.is_over and status.state not in ("RUNNING", "COMPLETING")
    if not set(d.parts) <= set(entry.parts) or others & set(claimed) or (others and is_queued):
        return ["the jobs of its group"]
    return entry.changes(d.parts, triggers)


def is_good(entry: Entry, d: Description, answer: Answer, folder: Path) -> bool:
    """True if an earlier driver's submission still makes what is wanted, or has made it while no driver was running.

    A job of unknown state counts as good: submitting it twice would be worse. One that is over is not
    where the user forces the job, or where Snakemake has accepted its outputs since: then another reason calls for it.
    """
    status = answer.found.get(entry.job)
    if status is not None and not status.is_over:
        return True
    if status is None and entry.job not in answer.unknown:
        return True
    if d.is_forced or not all(os.path.exists(path) for path in d.markers):
        return False
    if status is not None and status.state != "COMPLETED":
        return False
    # The attempt itself has seen that its outputs are new. Their times prove nothing: archives keep old ones.
    records = entry.attempts(folder)
    has_finished = bool(records) and records[-1].ended_by == ends.FINISHED
    return has_finished and all(os.path.exists(path) for path in [*d.made, *d.passing])
