"""The executor between Snakemake and a cluster that is a stand-in: what it submits, adopts, reports and cancels."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.driver.backends import Submission
from snakemake_executor_plugin_submitit.records.attempts import Attempts
from snakemake_executor_plugin_submitit.records.registry import Registry
from snakemake_executor_plugin_submitit.slurm.clients import Limits, QueryFailed
from snakemake_executor_plugin_submitit.slurm.texts import Status
from stand_in import Job, Study


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Study(tmp_path, [Job("sample", str(i)) for i in range(3)] + [Job("train", "mar", gpus_per_node=2)])


def test_jobs_of_one_rule_become_an_array_and_a_single_one_a_plain_job(study):
    study.driver().run_jobs(study.jobs)

    (shards, parameters), (training, plain) = study.cluster.arrays
    assert [c.line for c in shards] == [f"make sample-{i}.txt with 1 cores" for i in range(3)]
    assert parameters["name"] == "sample"
    assert [c.gpus for c in training] == [2]
    assert plain["name"] == "train.mar"
    assert [job.registered for job in study.jobs] == [["1_0"], ["1_1"], ["1_2"], ["2"]]


def test_jobs_with_different_parameters_are_kept_apart(study):
    study.jobs = [Job("sample", "0", mem_mb=100), Job("sample", "1", mem_mb=200), Job("sample", "2", mem_mb=100)]

    study.driver().run_jobs(study.jobs)

    assert sorted(len(commands) for commands, _ in study.cluster.arrays) == [1, 2]


@pytest.mark.parametrize("limit, sizes", [({"array_limit": 2}, [2, 1, 1]), ({"array_limit": 1}, [1, 1, 1, 1])])
def test_arrays_are_no_longer_than_allowed(study, limit, sizes):
    study.driver(**limit).run_jobs(study.jobs)

    assert [len(commands) for commands, _ in study.cluster.arrays] == sizes


def test_arrays_are_no_longer_than_the_cluster_takes(study):
    study.cluster.limits = Limits(max_array_size=2)

    study.driver().run_jobs(study.jobs)

    assert [len(commands) for commands, _ in study.cluster.arrays] == [2, 1, 1]


def test_each_job_is_reported_by_slurms_word(study):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("1_0", "COMPLETED", "finished")
    study.ends("1_1", "FAILED", "failed", exit_code=3)
    study.ends("1_2", "PENDING", "finished")  # a success that Slurm runs again

    left = study.poll(driver)

    assert study.ended == [("sample-0.txt", "done"), ("sample-1.txt", "failed")]
    assert left == [study.jobs[2], study.jobs[3]]
    (message,) = study.jobs[1].errors
    assert "exit code 3" in message
    assert "logs/sample/1/1_1.log" in message
    assert {entry.job for entry in Registry(study.folder / "submitit").all()} == {"1_2", "2"}


def test_drivers_share_no_temporary_files(study):
    first = study.driver()
    study.kill(first)

    assert first.tmpdir != study.driver().tmpdir


def test_logs_are_found_by_rule_and_wildcards(study):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    driver.runs.mkdir(parents=True)
    (driver.runs / "1_2_0_log.out").write_text("hello")

    assert (study.folder / "submitit/logs/sample/2/1_2.log").read_text() == "hello"


def test_what_may_wait_for_ever_is_said_once_for_an_array(study, caplog):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.cluster.states |= dict.fromkeys(study.cluster.states, Status("PENDING", "PartitionConfig"))
    study.cluster.states["2"] = Status("PENDING", "Priority")

    for _ in range(3):
        study.poll(driver)

    (warning,) = [record.message for record in caplog.records if "never start" in record.message]
    assert warning.startswith("sample 0: Slurm job 1_0 may never start: PartitionConfig. No node of its partition has")


def test_failed_queries_lose_no_job(study, caplog):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.cluster.error = QueryFailed("squeue: Unable to contact slurm controller")

    for _ in range(5):
        assert study.poll(driver) == study.jobs

    assert sum("Cannot query the jobs" in record.message for record in caplog.records) == 1
    study.cluster.error = None
    study.ends("2", "COMPLETED", "finished")
    study.poll(driver)
    assert study.ended == [("train-mar.txt", "done")]


def test_a_full_disk_takes_the_news_from_no_job(study, caplog):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("1_0", "COMPLETED", "finished")
    study.ends("2", "COMPLETED", "finished")
    (study.folder / "submitit" / "finished.jsonl").mkdir()

    assert study.poll(driver) == study.jobs[1:3]

    assert study.ended == [("sample-0.txt", "done"), ("train-mar.txt", "done")]
    assert "its record could not be written" in caplog.text
    assert study.poll(driver) == study.jobs[1:3]


def test_a_report_that_fails_is_made_again(study):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("2", "FAILED", "failed", exit_code=1)
    good, study.jobs[3].log_error = study.jobs[3].log_error, None
    assert study.poll(driver) == study.jobs

    study.jobs[3].log_error = good

    assert study.poll(driver) == study.jobs[:3]
    assert study.ended == [("train-mar.txt", "failed")]


def test_a_retry_that_comes_with_the_report_keeps_its_entry(study):
    study.jobs = study.jobs[3:]
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("1", "FAILED", "failed", exit_code=1)
    driver.workflow.scheduler.error_callback = lambda job: driver.run_jobs([job])

    assert study.poll(driver) == []

    assert [entry.job for entry in Registry(study.folder / "submitit").all()] == ["2"]
    assert list(driver.live.values())[0].entry.job == "2"
    assert study.finished() == [("train mar", "fail")]


def test_a_job_that_slurm_forgot_is_judged_by_its_record(study):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("2", "COMPLETED", "finished")
    study.cluster.states.clear()

    assert study.poll(driver) == study.jobs[:3]
    assert study.ended == [("train-mar.txt", "done")]


def test_a_lost_job_is_waited_for_and_then_reported(study):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    del study.cluster.states["2"]
    assert study.poll(driver) == study.jobs

    driver.poll.missing_since["2"] = time.monotonic() - 100
    study.poll(driver)

    assert study.ended == [("train-mar.txt", "failed")]
    assert "LOST" in study.jobs[3].errors[0]


def test_a_job_whose_node_died_is_submitted_again_within_its_budget(study):
    study.jobs = [Job("train", "mar", max_preemptions=1)]
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("1", "NODE_FAIL", "")

    assert study.poll(driver) == study.jobs
    first, second = (commands[0] for commands, _ in study.cluster.arrays)
    assert first == second  # the same submission: attempts and budgets are counted on
    assert driver.active_jobs[0].external_jobid == "2"

    study.ends("2", "NODE_FAIL", "")
    assert study.poll(driver) == []
    assert study.ended == [("train-mar.txt", "failed")]


def test_ctrl_c_during_a_submission_cancels_it_by_its_ticket(study):
    driver = study.driver()
    study.cluster.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        driver.run_jobs(study.jobs)

    driver.cancel()

    assert study.cluster.tickets == [Registry(study.folder / "submitit").all()[0].ticket]


def test_ctrl_c_in_the_middle_of_a_poll_cancels_everything(study):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    driver.active_jobs = []  # as the base class leaves it while it polls

    driver.cancel()

    assert sorted(study.cluster.cancelled) == ["1_0", "1_1", "1_2", "2"]
    assert [outcome for _, outcome in study.finished()] == ["cancelled"] * 4
    assert Registry(study.folder / "submitit").all() == []


def test_a_cancelled_job_is_charged_for_its_gpus_to_the_last_sign_of_life(study):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    folder = study.folder / "submitit"
    entry = next(entry for entry in Registry(folder).all() if entry.job == "2")
    records = Attempts(folder, entry.key)
    begun = records.begin(entry.submission, "2", gpus=2)
    records._write(replace(begun, seen=begun.began + 90))
    driver.cancel()

    lines = [json.loads(line) for line in (folder / "finished.jsonl").read_text().splitlines()]
    charged = {line["name"]: (line["gpu_seconds"], line["gpu_seconds_interrupted"]) for line in lines}
    assert charged == {**{f"sample {i}": (0, 0) for i in range(3)}, "train mar": (180, 180)}


def test_ctrl_c_waits_for_a_job_that_is_just_being_submitted_again_and_cancels_it(study, monkeypatch):
    study.jobs = study.jobs[3:]
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("1", "NODE_FAIL", "")
    began, submit = threading.Event(), study.cluster.submit

    def slow_submit(*arguments):
        began.set()
        time.sleep(0.5)
        return submit(*arguments)

    monkeypatch.setattr(study.cluster, "submit", slow_submit)
    polling = threading.Thread(target=study.poll, args=[driver])
    polling.start()
    began.wait(10)

    driver.cancel()
    polling.join()

    assert study.cluster.cancelled == ["2"]
    assert Registry(study.folder / "submitit").all() == []


def test_what_finished_just_before_ctrl_c_is_left_to_the_next_driver(study):
    study.jobs = study.jobs[3:]
    driver = study.driver()
    driver.run_jobs(study.jobs)
    Path("train-mar.txt").write_text("made")
    study.ends("1", "COMPLETED", "finished")

    driver.cancel()
    second = study.driver()
    second.run_jobs(study.jobs)
    study.poll(second)

    assert len(study.cluster.arrays) == 1
    assert study.ended == [("train-mar.txt", "done")]
    assert study.finished() == [("train mar", "done")]


def test_after_ctrl_c_nothing_is_submitted_again(study):
    study.jobs = study.jobs[3:]
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("1", "NODE_FAIL", "")

    driver.cancel()
    study.poll(driver)

    assert len(study.cluster.arrays) == 1
    assert study.ended == []


def test_what_could_not_be_cancelled_is_named_and_kept(study, monkeypatch, caplog):
    driver = study.driver()
    driver.run_jobs(study.jobs)
    driver.tickets.add("snakemake-1")
    monkeypatch.setattr(study.cluster, "cancel", lambda jobs, seconds: {"2": "scancel: error: Access denied"})
    study.cluster.silences = 1

    driver.cancel()

    assert "still to be cancelled: scancel 2\n" in caplog.text
    assert "shows with snakemake-1" in caplog.text
    assert [entry.job for entry in Registry(study.folder / "submitit").all()] == ["2"]


def test_detached_jobs_continue_and_are_taken_over(study):
    driver = study.driver(detach=True)
    driver.run_jobs(study.jobs)
    driver.cancel()
    assert study.cluster.cancelled == []

    second = study.driver()
    second.run_jobs(study.jobs)

    assert len(study.cluster.arrays) == 2
    assert len(second.active_jobs) == 4


def test_a_second_driver_on_the_same_jobs_is_refused_before_it_has_changed_anything(study):
    first = study.driver()

    with pytest.raises(WorkflowError, match="already being made by another snakemake: process"):
        study.driver()  # Snakemake runs `onstart` after this

    first.run_jobs(study.jobs)
    assert study.cluster.cancelled == []
    assert len(study.cluster.arrays) == 2


def test_immediate_submission_is_refused_before_anything_runs(study):
    study.is_immediate = True

    with pytest.raises(WorkflowError, match="--immediate-submit: .* leave the option out"):
        study.driver()


@pytest.fixture
def late(study):
    """A driver, a job that it had wanted from the start, and two that a checkpoint has added since."""
    study.jobs = study.jobs[:1]
    first = study.driver()
    study.jobs = [*study.jobs, Job("late", "0", params={"epochs": 1}), Job("late", "1")]
    return first


def test_jobs_that_a_checkpoint_adds_are_claimed_with_the_first_of_them(study, late):
    late.run_jobs(study.jobs[1:2])

    for job in study.jobs[1:]:
        study.jobs = [job]
        with pytest.raises(WorkflowError, match="already being made by another snakemake: process"):
            study.driver()


def test_a_job_that_a_checkpoint_adds_late_is_left_to_the_driver_that_makes_it(study, late):
    job = study.jobs[1]
    study.jobs = []
    second = study.driver()
    late.run_jobs([job])
    other = Job("late", "0", params={"epochs": 2})

    second.run_jobs([other, Job("other")])
    second.workflow.dag.cleanup_workdir()

    assert study.ended == [("late-0.txt", "failed")]
    assert "already being made by another snakemake: process" in other.errors[0]
    assert study.cluster.cancelled == []
    assert [commands[0].name for commands, _ in study.cluster.arrays] == ["late 0", "other"]

    study.kill(late)
    second.run_jobs([other])
    assert study.cluster.cancelled == ["1"]
    assert [commands[0].name for commands, _ in study.cluster.arrays] == ["late 0", "other", "late 0"]


def test_an_unknown_resource_stops_the_run_before_anything_runs(study):
    study.jobs.append(Job("score", gpu_count=1))

    with pytest.raises(WorkflowError, match="rule score: resources gpu_count are unknown; choose from"):
        study.driver()


def test_a_refused_submission_is_an_error_of_its_jobs_alone(study):
    driver = study.driver()
    study.cluster.error = Submission("sbatch: error: Invalid account")

    driver.run_jobs(study.jobs)

    assert len(study.ended) == 4
    assert "could not be submitted: sbatch: error: Invalid account" in study.jobs[0].errors[0]
    assert Registry(study.folder / "submitit").all() == []


def test_a_full_disk_is_an_error_of_its_jobs_and_not_of_those_that_run(study):
    driver = study.driver()
    driver.run_jobs(study.jobs[:3])
    Path("submitit", "jobs").rename("elsewhere")
    Path("submitit", "jobs").touch()

    driver.run_jobs(study.jobs[3:])

    assert study.ended == [("train-mar.txt", "failed")]
    assert "train mar could not be submitted" in study.jobs[3].errors[0]
    assert study.cluster.cancelled == []


def test_a_running_job_continues_without_its_entry_and_its_link(study, caplog):
    driver = study.driver()
    Path("submitit", "logs").touch()
    submit = study.cluster.submit

    def submit_on_a_full_disk(*arguments):
        Path("submitit", "jobs").rename("elsewhere")
        Path("submitit", "jobs").touch()
        return submit(*arguments)

    study.cluster.submit = submit_on_a_full_disk
    driver.run_jobs(study.jobs[3:])

    assert study.jobs[3].registered == ["1"]
    assert driver.live.popitem()[1].entry.log == str(driver.runs / "1_0_log.out")
    assert "Slurm job 1 is missing from the registry" in caplog.text


def test_where_nothing_can_be_submitted_a_driver_is_refused(study, monkeypatch):
    def check():
        raise ValueError("sbatch: not found")

    monkeypatch.setattr(study.cluster, "check", check)
    with pytest.raises(WorkflowError, match="sbatch: not found"):
        study.driver()

    study.jobs = []
    study.driver()


def test_pauses_grow_while_nothing_changes_and_shrink_when_a_job_ends(study):
    driver = study.driver(poll_min_seconds=2, poll_max_seconds=10)
    driver.run_jobs(study.jobs)
    pauses = []
    for _ in range(6):
        study.poll(driver)
        pauses.append(driver.next_seconds_between_status_checks)
    assert pauses[0] == 2
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10

    study.ends("2", "COMPLETED", "finished")
    study.poll(driver)
    assert driver.next_seconds_between_status_checks == 2


def test_without_accounting_slurm_is_asked_before_it_forgets(study):
    study.cluster.limits = Limits(has_accounting=False, min_job_age_seconds=6)
    driver = study.driver(poll_min_seconds=30)
    driver.run_jobs(study.jobs)

    study.poll(driver)

    assert driver.next_seconds_between_status_checks == 2
