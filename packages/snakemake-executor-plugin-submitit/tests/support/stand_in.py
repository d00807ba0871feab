"""A cluster, Snakemake's jobs and their study as stand-ins, for tests of the executor alone."""

import asyncio
import json
import logging
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace as Names

from snakemake_executor_plugin_submitit import Executor, ExecutorSettings, common_settings
from snakemake_executor_plugin_submitit.driver.backends import Submission
from snakemake_executor_plugin_submitit.driver.patience import PAUSES_SECONDS
from snakemake_executor_plugin_submitit.records.attempts import Attempts
from snakemake_executor_plugin_submitit.records.files import mark_incomplete
from snakemake_executor_plugin_submitit.records.registry import Registry
from snakemake_executor_plugin_submitit.slurm.clients import Answer, Limits, QueryFailed
from snakemake_executor_plugin_submitit.slurm.texts import Status


@dataclass
class Cluster:
    """A backend that records what it is asked to do."""

    name = "slurm"
    place: str = "Slurm cluster test"
    can_adopt = True
    limits: Limits = field(default_factory=Limits)
    states: dict = field(default_factory=dict)  # id -> Status
    arrays: list = field(default_factory=list)  # (commands, parameters) of each submission
    cancelled: list = field(default_factory=list)
    tickets: list = field(default_factory=list)
    error: Exception | None = None
    silences: int = 0  # calls that get no answer
    refused: int = 0  # of these, submissions

    def check(self):
        pass

    def _answer(self):
        if self.silences:
            self.silences -= 1
            raise QueryFailed("squeue: slurm_load_jobs error: Unable to contact slurm controller (connect failure)")

    def submit(self, commands, parameters, folder):
        try:
            self._answer()
        except QueryFailed:
            self.refused += 1
            raise Submission("sbatch: error: Batch job submission failed: Protocol authentication error") from None
        if isinstance(self.error, Submission | KeyboardInterrupt):
            raise self.error
        self.arrays.append((commands, parameters))
        number = len(self.arrays)
        ids = [f"{number}_{i}" for i in range(len(commands))] if len(commands) > 1 else [str(number)]
        self.states |= dict.fromkeys(ids, Status("PENDING"))
        return ids

    def query(self, jobs):
        self._answer()
        if self.error:
            raise self.error
        jobs = list(jobs)
        found = {job: self.states[job] for job in jobs if job in self.states}
        return Answer(found, set(jobs) - set(found))

    def learn_limits(self):
        self._answer()

    def cancel(self, jobs, seconds=0):
        jobs = list(jobs)
        try:
            self._answer()
        except QueryFailed as error:
            return dict.fromkeys(jobs, str(error))
        self.cancelled += jobs
        return {}

    def cancel_tickets(self, tickets, seconds=0):
        self._answer()
        self.tickets += tickets


class Job:
    """As much of a Snakemake job as an executor sees."""

    threads, is_local, input, attempt = 1, False, (), 1

    def __init__(self, rule, *wildcards, params=None, **resources):
        self.name, self.wildcards, self.resources = rule, wildcards, resources
        self.rule = Names(name=rule, resources=resources, script=None, notebook=None, shellcmd="")
        self.output = ["-".join([rule, *wildcards]) + ".txt"]
        self.non_derived_params = list((params or {}).values())
        self.registered, self.errors = [], []

    def is_group(self):
        return False

    def log_info(self):
        pass

    def log_error(self, message, **more):
        self.errors.append(message)

    def register(self, external_jobid=None):
        self.registered.append(external_jobid)


class Group(Job):
    """Jobs that are submitted as one."""

    def __init__(self, *jobs):
        super().__init__("group")
        self.jobs = jobs
        read = {path for job in jobs for path in job.input}
        made = [path for job in jobs for path in job.output]
        self.input, self.output = sorted(read - set(made)), [path for path in made if path not in read]

    def is_group(self):
        return True


class Driven(Executor):
    def format_job_exec(self, job):
        return f"make {job.output[0]} with {self.cores} cores"


@dataclass
class Study:
    """A folder with jobs to make; every call of `driver` is another Snakemake."""

    folder: Path
    jobs: list
    cluster: Cluster = field(default_factory=Cluster)
    ended: list = field(default_factory=list)
    forced: list = field(default_factory=list)  # rules
    pauses_seconds: tuple = PAUSES_SECONDS
    is_immediate: bool = False
    shows_logs: bool = False
    triggers: tuple = ("MTIME", "PARAMS", "INPUT", "SOFTWARE_ENV", "CODE")

    def driver(self, **settings):
        scheduler = Names(
            submit_callback=lambda job: None,
            finish_callback=lambda job: self.ended.append((job.output[0], "done")),
            error_callback=lambda job: self.ended.append((job.output[0], "failed")),
        )
        workflow = Names(
            executor_settings=ExecutorSettings(folder=self.folder / "submitit", **settings),
            remote_execution_settings=Names(
                max_status_checks_per_second=10,
                jobname="job.{jobid}",
                jobscript=None,
                seconds_between_status_checks=1,
                immediate_submit=self.is_immediate,
            ),
            storage_settings=Names(shared_fs_usage=()),
            executor_plugin=Names(common_settings=replace(common_settings, init_seconds_before_status_checks=10**6)),
            main_snakefile="Snakefile",
            dag=Names(
                needrun_jobs=lambda: self.jobs,
                cleanup_workdir=lambda: self.ended.append("empty folders are removed"),
                forcerules=self.forced,
                targetjobs=(),
                max_checksum_file_size=1000,
            ),
            dag_settings=Names(forcerun=frozenset(), forcetargets=False),
            rerun_triggers=[Names(name=name) for name in self.triggers],
            persistence=Names(
                _incomplete_path="incomplete",
                _record_path=os.path.join,
                _get_key=str,
                _serialize_param=repr,
                _code=lambda rule: rule.shellcmd,
                _software_stack_hash=lambda job: "",
            ),
            global_resources={},
            output_settings=Names(show_failed_logs=self.shows_logs),
            scheduler=scheduler,
        )
        driver = Driven(workflow, logging.getLogger("test"), backend=self.cluster)
        driver.patience.pauses_seconds = self.pauses_seconds
        driver.wait_thread = threading.Thread()  # the real one sleeps; the tests poll themselves
        driver.wait_thread.start()
        return driver

    def poll(self, driver):
        """One poll, as the base class makes it; the jobs that continue."""
        infos, driver.active_jobs = driver.active_jobs, []

        async def collect():
            return [info async for info in driver.check_active_jobs(infos)]

        driver.active_jobs = asyncio.run(collect())
        return [info.job for info in driver.active_jobs]

    def ends(self, job, state, ended_by, exit_code=0):
        """End the job with this id; Slurm reports `state`."""
        for entry in Registry(self.folder / "submitit").all():
            if entry.job == job:
                records = Attempts(self.folder / "submitit", entry.key)
                records.update(records.begin(entry.submission, job, 2), ended_by=ended_by, exit_code=exit_code)
                if ended_by == "finished":
                    mark_incomplete(Path("incomplete", f"{entry.name.replace(' ', '-')}.txt"), 0)
        self.cluster.states[job] = Status(state)

    def finished(self):
        """The recorded names and outcomes of ended jobs."""
        file = self.folder / "submitit" / "finished.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [(line["name"], line["outcome"]) for line in lines]

    def kill(self, driver):
        """What remains of a driver after SIGKILL: its files, without its lock."""
        driver.driver.handle.close()
