"""The progress line: what it counts, what it estimates, and that errors are never swallowed."""

import io
import logging
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_mixar import LogHandler, Progress, clock


def progress(**expected):
    """Jobs a0, a1, ... of rules with the announced seconds: progress(train=(2, 100.0))."""
    jobs = [(rule, seconds) for rule, (count, seconds) in expected.items() for _ in range(count)]
    return Progress(0.0, expected=dict(enumerate(jobs)))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (42.9, "0:42"), (725, "12:05"), (11400, "3:10:00")])
def test_times_read_at_a_glance(seconds, text):
    assert clock(seconds) == text


def test_before_anything_ran_the_announced_minutes_count():
    p = progress(train=(2, 100.0), sample=(3, 10.0))

    assert p.seconds_left(0.0) == 230.0
    assert p.line(1.0) == "0/5 jobs, 0:01 elapsed, estimating the time left"  # nothing measured yet: no promise


def test_a_finished_job_replaces_the_announcement_for_its_rule_and_scales_the_others():
    p = progress(train=(2, 100.0), sample=(1, 10.0))

    p.start(0, 0.0)
    p.finish(0, 50.0)

    assert p.seconds_of(1) == 50.0
    assert p.seconds_of(2) == 5.0
    assert p.seconds_left(50.0) == 55.0


def test_jobs_side_by_side_share_the_time_left():
    p = progress(train=(4, 100.0))
    for job in (0, 1):
        p.start(job, 0.0)
        p.finish(job, 100.0)

    assert p.seconds_left(100.0) == 100.0


def test_a_running_job_counts_for_what_is_left_of_it():
    p = progress(train=(1, 100.0))

    p.start(0, 0.0)

    assert p.seconds_left(30.0) == 70.0
    assert p.seconds_left(500.0) == 0.0


@pytest.fixture
def handler():
    return handler_of()


def handler_of(**settings):
    usual = {"stdout": True, "dryrun": False, "quiet": None, "show_failed_logs": False, "printshellcmds": False}
    made = LogHandler(SimpleNamespace(**{**usual, "verbose": False, **settings}), None)
    made.stream = io.StringIO()
    made.setFormatter(logging.Formatter("%(message)s"))
    return made


def record(message=None, level=logging.INFO, **extra):
    made = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    made.__dict__.update(extra)
    return made


def test_each_finished_job_prints_a_line_where_there_is_no_terminal(handler):
    handler.emit(record(mixar_jobs={1: ("train", 2), 2: ("sample", 1)}))
    handler.emit(record(event=LogEvent.JOB_INFO, jobid=1, rule_name="train", wildcards={"run": "mar", "seed": "0"}))
    handler.emit(record(event=LogEvent.JOB_FINISHED, job_id=1))

    lines = handler.stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("train mar 0 took 0:00. 1/2 jobs, ")
    assert "left" in lines[0]


def test_a_run_that_announces_nothing_is_followed_by_snakemakes_own_counts(handler):
    handler.emit(record(event=LogEvent.RUN_INFO, stats={"train": 3, "total": 3}))
    for job in (1, 2):
        handler.emit(record(event=LogEvent.JOB_INFO, jobid=job, rule_name="train", wildcards={"run": str(job)}))
    handler.emit(record(event=LogEvent.JOB_FINISHED, job_id=1))

    assert handler.stream.getvalue().startswith("train 1 took 0:00. 1/3 jobs, ")


def test_jobs_that_were_only_counted_take_as_long_as_those_that_finished():
    p = Progress(0.0, planned=4)

    p.start(0, 0.0, "train")
    p.finish(0, 50.0)

    assert p.seconds_left(50.0) == 150.0


def test_errors_are_shown_and_counted_as_not_running(handler):
    handler.emit(record(mixar_jobs={1: ("train", 2)}))
    handler.emit(record(event=LogEvent.JOB_INFO, jobid=1, rule_name="train", wildcards={}))
    handler.emit(record("Error in rule train, log: logs/train.log", logging.ERROR, event=LogEvent.JOB_ERROR, jobid=1))

    assert "log: logs/train.log" in handler.stream.getvalue()
    assert not handler.progress.running


def test_what_is_up_to_date_is_said_and_chatter_is_not(handler):
    handler.emit(record("Building DAG of jobs..."))
    handler.emit(record("Nothing to be done (all requested files are present and up to date)."))

    assert handler.stream.getvalue() == "Everything is up to date; nothing to do.\n"


MISSING = "Missing output files: a.txt"
FOLLOWS = "Input files updated by another job: a.txt"


def plan(handler, *jobs):
    """Give the jobs of a dry run to a handler and close it; jobs: (rule, reason). Returns the lines it printed."""
    for number, (rule, reason) in enumerate(jobs):
        info = {"event": LogEvent.JOB_INFO, "jobid": number, "rule_name": rule, "wildcards": {}, "reason": reason}
        handler.emit(record(f"rule {rule}", **info))
    handler.emit(record("This was a dry-run"))
    handler.close()
    return handler.stream.getvalue().splitlines()


def test_a_dry_run_closes_with_one_table_of_rules_and_reasons():
    jobs = [("train", f"{MISSING}; {FOLLOWS}")] * 200 + [("train", "Params have changed since last execution: x")]

    jobs += [("report", "Updated input files: b.yaml, c; " + FOLLOWS), ("all", FOLLOWS)]

    lines = plan(handler_of(dryrun=True), *jobs)

    assert [line.split(maxsplit=2) for line in lines[1:6]] == [
        ["rule", "jobs", "why"],
        ["train", "201", "200 not made yet, 1 settings changed"],
        ["report", "1", "newer inputs: b.yaml"],
        ["all", "1", "follows from the others"],
        ["total", "203"],
    ]
    assert len(lines) == 8 and "snakemake -n -p" in lines[-1]


def test_what_is_missing_closes_a_dry_run_and_opens_a_real_one():
    missing = "study needs 1 file that is not there:\n  data.path = nowhere"
    dry, real = handler_of(dryrun=True), handler_of()

    for handler in (dry, real):
        handler.emit(record(missing, logging.WARNING, mixar_closing=True))
    lines = plan(dry, ("train", MISSING))

    assert lines[-2:] == missing.splitlines() and lines[1].startswith("rule")
    assert real.stream.getvalue() == f"{missing}\n"


def test_every_job_of_a_dry_run_is_printed_where_that_is_asked_for():
    assert "rule train" in plan(handler_of(dryrun=True, printshellcmds=True), ("train", MISSING))


def test_what_an_executor_or_another_mode_says_is_shown_during_a_run(handler):
    handler.emit(record(mixar_jobs={1: ("train", 2)}))
    handler.emit(record("train.mar: Slurm job 7 of an earlier run is taken over."))
    handler.emit(record("Select jobs to execute..."))

    assert handler.stream.getvalue() == "train.mar: Slurm job 7 of an earlier run is taken over.\n"


def test_a_study_file_that_snakemake_cannot_read_is_named(handler):
    handler.emit(record("Traceback\n in load_configfile\nUnicodeDecodeError: 'utf-8' codec", logging.ERROR))

    assert handler.stream.getvalue().startswith("A file of --configfile is not UTF-8.")
    assert "Traceback" not in handler.stream.getvalue()


def test_printing_continues_where_the_terminal_lacks_a_letter(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    made = LogHandler(SimpleNamespace(stdout=True, dryrun=False, quiet=None, show_failed_logs=False), None)

    made.emit(record("L\u00f6ss", logging.WARNING))

    assert terminal.buffer.getvalue() == b"L?ss\n"
