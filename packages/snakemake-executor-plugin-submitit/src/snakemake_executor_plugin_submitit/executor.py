"""The executor: submits Snakemake's jobs, polls them, and adopts the jobs of a dead driver.

Two threads work here. Snakemake's scheduler calls `run_jobs`; a polling thread of the base class calls
`check_active_jobs`. Snakemake empties its own list of jobs during a poll, so `live` is the list to trust.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.utils import encode_target_jobs_cli_args, format_cli_arg

from snakemake_executor_plugin_submitit.driver.adopt import Earlier, ended_unseen, take_stock
from snakemake_executor_plugin_submitit.driver.backends import BACKENDS, Backend, Submission, submit_patiently
from snakemake_executor_plugin_submitit.driver.jobs import Description, check_targets, describe, keys_of_members, safe
from snakemake_executor_plugin_submitit.driver.patience import Patience
from snakemake_executor_plugin_submitit.driver.poll import Live, Poll, pause
from snakemake_executor_plugin_submitit.driver.prepare import Prepared, batches, prepare
from snakemake_executor_plugin_submitit.driver.states import CANCELLED, DONE, FAIL, RESUBMIT, WAIT, Verdict
from snakemake_executor_plugin_submitit.driver.tails import OnlyTails
from snakemake_executor_plugin_submitit.parameters import check_names
from snakemake_executor_plugin_submitit.records.files import private_folder
from snakemake_executor_plugin_submitit.records.ledger import Ledger
from snakemake_executor_plugin_submitit.records.registry import Driver, Entry, remove_old
from snakemake_executor_plugin_submitit.settings import FOLDER, read_site
from snakemake_executor_plugin_submitit.slurm.clients import CANCEL_SECONDS, QueryFailed, misleading_variables

# How long Ctrl-C waits for a submission under way, and for the answer of a silent Slurm.
SUBMISSION_SECONDS = 15
SILENCE_SECONDS = 5


class Executor(RemoteExecutor):
    """One driver's view of its jobs. backend: where they run, instead of what --submitit-cluster names."""

    def __init__(self, workflow, logger, backend: Backend | None = None) -> None:
        # The base class starts the polling thread, so it comes last.
        settings = workflow.executor_settings
        for name in misleading_variables(dict(os.environ)):
            del os.environ[name]
        self.backend = backend or BACKENDS[settings.cluster]()
        self.folder = Path(settings.folder or FOLDER).absolute()
        self.site = read_site(settings.site)
        self.ledger = Ledger(self.folder, logger)
        self.driver = Driver(self.folder)
        self.runs = self.folder / "runs" / self.driver.id
        try:
            private_folder(self.folder)
        except (ValueError, OSError) as error:
            raise WorkflowError(str(error)) from None
        self.live: dict[str, Live] = {}
        self.tickets: set[str] = set()  # of submissions in flight
        self.poll = Poll(settings.poll_min_seconds, settings.poll_max_seconds)
        self.submitting = threading.Lock()
        self.threads_of_job = 1
        self.ending = threading.Event()
        self.patience = Patience(self.ending, logger.warning)
        # Snakemake makes its executors before it runs `onstart`: a driver that is refused has changed nothing yet.
        self._claim(workflow)
        if workflow.output_settings.show_failed_logs:
            logger.addFilter(OnlyTails(self.runs / "ends"))
        super().__init__(workflow, logger)

    def _claim(self, workflow) -> None:
        """Refuse what cannot work, and a second driver on the same jobs. Raises WorkflowError."""
        if workflow.remote_execution_settings.immediate_submit:
            raise WorkflowError(
                "--immediate-submit: this executor submits a job once its inputs are there, and sets no dependencies "
                "in Slurm; leave the option out and keep snakemake running"
            )
        jobs = remote_jobs(workflow)
        try:
            if jobs:
                self.backend.check()
            for job in {job.rule.name: job for job in jobs}.values():
                check_names(job.rule.resources, workflow.global_resources, source=f"rule {job.rule.name}: ")
            alive = self.driver.claim(keys_of_members(*jobs))
        except (ValueError, OSError) as error:
            raise WorkflowError(str(error)) from None
        for entry, verdict in ended_unseen(self.ledger.registry, alive, self.backend, self.folder):
            self.ledger.account(
                entry, verdict.action, verdict.message
            )  # its entry stays, for a driver that wants the job
        remove_old(self.folder, workflow.executor_settings.retention_days)

    def _claim_late(self, jobs) -> dict[str, str]:
        """Claim the jobs that checkpoints added to the DAG. Returns other drivers' jobs: key -> driver, as text.

        Raises ValueError where no claim can be made now.
        """
        if keys_of_members(*jobs) <= self.driver.keys:
            return {}
        self.backend.check()
        return self.driver.claim_free(keys_of_members(*jobs, *remote_jobs(self.workflow)))

    # Submitting: the scheduler's thread

    def run_jobs(self, jobs) -> None:
        """Adopt or submit all jobs that are ready; jobs of one rule with equal parameters become one array."""
        described = sorted(((describe(job, self.workflow), job) for job in jobs), key=lambda pair: pair[0].name)
        earlier = self._take_stock(described)
        for entry, verdict in earlier.ended:
            self.ledger.account(entry, verdict.action, verdict.message)
            self.ledger.forget(entry)
        fresh = []
        for d, job in described:
            self.run_job_pre(job)
            if d.key in earlier.refused:
                self._refuse(d, job, earlier.refused[d.key])
            elif d.key in earlier.good:
                self._adopt(d, job, earlier.good[d.key])
            else:
                fresh.append(self._prepare(d, job, uuid.uuid4().hex[:12]))
        largest = min(self.executor_settings.array_limit, self.backend.limits.max_array_size)
        for batch in batches(filter(None, fresh), largest):
            self._submit(batch)

    def _take_stock(self, described: list[tuple[Description, Any]]) -> Earlier:
        """Take stock of what earlier drivers left of these jobs; refuse those that cannot run now."""
        try:
            taken = self._claim_late([job for _, job in described])
            refused = {d.key: taken[key] for d, job in described for key in keys_of_members(job) if key in taken}
            self.patience.ask(self.backend.learn_limits, "for the limits of the cluster")
            earlier = take_stock(
                [d for d, _ in described if d.key not in refused],
                self.ledger.registry,
                self.driver,
                self.backend,
                self.folder,
                {trigger.name for trigger in self.workflow.rerun_triggers},
                self.patience,
            )
        except (OSError, ValueError, QueryFailed) as error:
            return Earlier(refused={d.key: str(error) for d, _ in described})
        earlier.refused |= refused
        if earlier.refused:
            self._keep_folders()
        return earlier

    def run_job(self, job) -> None:
        self.run_jobs([job])

    def _refuse(self, d: Description, job, error: object) -> None:
        """An error of one job. Raised from here, it would make Snakemake cancel all that run."""
        self.report_job_error(SubmittedJobInfo(job), msg=f"{d.name} could not be submitted: {error} ")

    def _adopt(self, d: Description, job, entry: Entry) -> None:
        if p := self._prepare(d, job, entry.submission):
            # A group of which only a part is wanted keeps its own key.
            p = replace(p, command=replace(p.command, key=entry.key))
            self.logger.info(f"{d.name}: Slurm job {entry.job} of an earlier run is taken over.")
            live = self._live(p, replace(entry, driver=self.driver.id))
            self.live[entry.key] = live
            self.ledger.note(live.entry)
            self._follow(job, live, register_job=False)

    def _prepare(self, d: Description, job, submission: str) -> Prepared | None:
        """None if the job is refused."""
        self.threads_of_job = max(int(d.threads), 1)
        try:
            command, parameters = prepare(
                d,
                self.format_job_exec(job),
                submission,
                settings=self.executor_settings,
                site=self.site,
                folder=self.folder,
                kill_wait_seconds=self.backend.limits.kill_wait_seconds,
                also=self.workflow.global_resources,
            )
        except (ValueError, OSError) as error:
            self._refuse(d, job, error)
            return None
        return Prepared(d, job, command, parameters)

    def _live(self, p: Prepared, earlier: Entry | None = None) -> Live:
        d = p.description
        place, submission = self.backend.place, p.command.submission
        entry = Entry(d.key, d.name, d.parts, "", submission, self.driver.id, place=place, markers=d.markers)
        return Live(earlier or entry, p.command, p.parameters, logs=self.folder / "logs" / d.folder)

    def _submit(self, batch: list[Prepared]) -> None:
        lives = [self._live(p) for p in batch]
        first = batch[0].description
        try:
            lives = self._send(lives, first.rule if len(batch) > 1 else safe(first.name.replace(" ", ".")))
        except Submission as error:
            for p, live in zip(batch, lives, strict=True):
                if not error.is_open:
                    self.ledger.forget(live.entry)
                self._refuse(p.description, p.job, error)
            return
        for p, live in zip(batch, lives, strict=True):
            self._follow(p.job, live)

    def _send(self, lives: list[Live], name: str) -> list[Live]:
        """Submit, with an entry on disk before and after: a driver may be killed at any moment. Raises Submission."""
        ticket = f"snakemake-{uuid.uuid4().hex[:12]}"
        parameters = lives[0].parameters | {"name": name, "slurm_comment": f"{name} {ticket}"}
        with self.submitting:
            if self.ending.is_set():
                raise Submission("this run is being stopped")
            self.tickets.add(ticket)
            now = time.time()
            entries = [
                replace(live.of_command().entry, ticket=ticket, job="", submitted=now, is_accounted=False)
                for live in lives
            ]
            try:
                for entry in entries:
                    self.ledger.registry.put(entry)
            except OSError as error:
                raise Submission(str(error)) from error
            commands = [live.command for live in lives]
            try:
                ids = submit_patiently(self.backend, commands, parameters, self.runs, ticket, self.patience)
            except Submission as error:
                if not error.is_open:
                    self.tickets.discard(ticket)
                raise
            entries = [replace(entry, job=job) for entry, job in zip(entries, ids, strict=True)]
            sent = [replace(live, entry=e).with_log(self.runs) for live, e in zip(lives, entries, strict=True)]
            self.live |= {live.entry.key: live for live in sent}
            for live in sent:
                self.ledger.note(live.entry)
            self.tickets.discard(ticket)
        self.poll.hurry()
        return sent

    def _follow(self, job, live: Live, register_job: bool = True) -> None:
        info = SubmittedJobInfo(job, external_jobid=live.entry.job, aux={"key": live.entry.key})
        self.report_job_submission(info, register_job=register_job)

    # Following: the polling thread

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report jobs that are over, and yield all others. Errors lose no job."""
        verdicts = {}
        if active_jobs:
            async with self.status_rate_limiter:
                try:
                    verdicts = self._judge_all(active_jobs)
                except Exception as error:  # an exception here would end the thread, and all jobs with it
                    self.poll.failed(self.logger, error)
        for info in active_jobs:
            verdict = verdicts.get(info.aux["key"])
            try:
                keep = verdict is None or self._act(info, verdict)
            except Exception as error:
                self.poll.failed(self.logger, error)
                keep = True
            if keep:
                yield info
        self.next_seconds_between_status_checks = self.poll.pause(self.backend.limits)

    def _judge_all(self, infos: list[SubmittedJobInfo]) -> dict[str, Verdict]:
        lives = [live for info in infos if (live := self.live.get(info.aux["key"]))]
        answer = self.backend.query([live.entry.job for live in lives])
        self.poll.answered(answer)
        limits = self.backend.limits
        return {live.entry.key: self.poll.judge(live, answer, self.folder, limits, self.logger) for live in lives}

    def _act(self, info: SubmittedJobInfo, verdict: Verdict) -> bool:
        """Do what was decided; True if the job is still live."""
        live = self.live.get(info.aux["key"])
        if live is None or verdict.action == WAIT:
            return True
        self.poll.hurry()
        if self.ending.is_set():
            return True
        if verdict.action == RESUBMIT:
            self.logger.info(f"{live.entry.name}: Slurm job {live.entry.job}: {verdict.message} Submitted again.")
            resubmissions, late = live.entry.resubmissions + 1, live.entry.late + verdict.is_late
            entry = replace(live.entry, resubmissions=resubmissions, late=late)
            try:
                sent = self._send([replace(live, entry=entry)], safe(entry.name.replace(" ", ".")))[0]
                info.external_jobid = sent.entry.job
                return True
            except Submission as error:
                if self.ending.is_set():
                    return True
                verdict = Verdict(FAIL, f"{verdict.message} It could not be submitted again: {error}.")
        self.ledger.account(live.entry, verdict.action, verdict.message)
        if verdict.action == DONE:
            for path in set(live.entry.markers) - set(live.command.markers):
                Path(path).unlink(missing_ok=True)  # group members that were not requested again
            self.report_job_success(info)
        else:
            message = f"{live.entry.name}, Slurm job {live.entry.job}: {verdict.message} Log: {live.entry.log} "
            self.report_job_error(info, msg=message, aux_logs=[live.entry.log])
        # Only now: a driver that is killed in between leaves the entry to the next one.
        self._forget(live.entry)
        return False

    def _forget(self, entry: Entry) -> None:
        live = self.live.get(entry.key)
        if live and live.entry.job == entry.job:
            del self.live[entry.key]
        self.ledger.forget(entry)

    async def sleep(self) -> None:
        await pause(self.next_seconds_between_status_checks, lambda: self.wait and not self.poll.is_hurried)

    # Ending

    def cancel(self) -> None:
        """Cancel all our jobs, even during a poll; called on Ctrl-C or an error of Snakemake itself."""
        self.ending.set()  # the polling thread no longer submits
        self._keep_folders()
        # A submission under way is waited for, to know its jobs; one that hangs is found by its ticket.
        was_free = self.submitting.acquire(timeout=SUBMISSION_SECONDS)
        entries = [live.entry for live in list(self.live.values())]
        if self.executor_settings.detach:
            self.logger.info(f"{len(entries)} jobs keep running; the next snakemake adopts them.")
        else:
            self._cancel(entries)
        if was_free:
            self.submitting.release()
        self.shutdown()

    def _keep_folders(self) -> None:
        """Stop Snakemake from removing empty folders at exit: jobs that still run or save their state need them."""
        self.workflow.dag.cleanup_workdir = lambda: None

    def _cancel(self, entries: list[Entry]) -> None:
        """Cancel these, and submissions whose jobs are not known. What Slurm does not confirm is named and kept."""
        seconds = SILENCE_SECONDS if self.patience.is_silent or self.poll.failures else CANCEL_SECONDS
        left = self.backend.cancel([entry.job for entry in entries], seconds)
        silence = "Slurm does not answer; still to be cancelled:"
        if left:
            self.logger.error(f"{silence} scancel {' '.join(left)}")
        try:
            self.backend.cancel_tickets(list(self.tickets), seconds)
        except QueryFailed:
            lost = " or ".join(sorted(self.tickets))
            self.logger.error(f"{silence} what `squeue --me --format '%i %k'` shows with {lost}")
        for entry in entries:
            # What has ended well since the last poll is left for the next driver to accept.
            if entry.job not in left and not self.ledger.has_finished(entry):
                self.ledger.account(entry, CANCELLED, "This run was stopped.")
                self._forget(entry)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        self.backend.cancel([info.external_jobid for info in active_jobs])

    def shutdown(self) -> None:
        """Stop following. The folder for temporary files stays: jobs that are still queued wait for it to exist."""
        with self.lock:
            self.wait = False
        # A query that hangs in an outage must not hold up the end.
        self.wait_thread.join(timeout=SILENCE_SECONDS)
        self.ledger.summarise()
        self.driver.leave()

    # The inner Snakemake's command line

    def get_job_args(self, job, **more) -> str:
        """With words as a shell reads them: Snakemake quotes as Python does, which spoils a line break in a name.

        Raises ValueError for wildcards that would not reach the node.
        """
        check_targets(job.get_target_spec())
        line = super().get_job_args(job, **more)
        targets = encode_target_jobs_cli_args(job.get_target_spec())
        files = [self.tmpdir, *map(str, job.get_wait_for_files())]
        for flag, words in (("--target-jobs", targets), ("--wait-for-files", files)):
            line = line.replace(format_cli_arg(flag, words), f"{flag} {shlex.join(words)}", 1)
        return line

    @property
    def cores(self) -> int:
        """CPUs of the job whose command is being written, not all that its node has."""
        return self.threads_of_job

    @property
    def tmpdir(self) -> str:
        # One per driver: its files are named by Snakemake's job numbers, which restart with every driver.
        private_folder(self.runs)
        path = self.runs / "tmp"
        path.mkdir(exist_ok=True)
        return str(path)


def remote_jobs(workflow) -> list:
    return [job for job in workflow.dag.needrun_jobs() if not job.is_local]
