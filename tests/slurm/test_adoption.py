"""What an executor does about the jobs of drivers before it: taken over, made again, cancelled, accounted for."""

from pathlib import Path

import pytest
from snakemake_executor_plugin_submitit.registry import Registry
from snakemake_executor_plugin_submitit.states import Status
from stand_in import Job, Study


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Study(tmp_path, [Job("sample", str(i)) for i in range(3)] + [Job("train", "mar", gpus_per_node=2)])


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "REQUEUED"])
def test_after_a_killed_driver_the_next_one_takes_its_jobs_over(study, state):
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)
    study.cluster.states = dict.fromkeys(study.cluster.states, Status(state))

    second = study.driver()
    second.run_jobs(study.jobs)

    assert len(study.cluster.arrays) == 2
    assert sorted(info.external_jobid for info in second.active_jobs) == ["1_0", "1_1", "1_2", "2"]
    study.ends("2", "COMPLETED", "finished")
    study.poll(second)
    assert study.ended == [("train-mar.txt", "done")]


@pytest.mark.parametrize("is_known", [True, False])
def test_what_finished_while_no_driver_lived_is_not_made_again(study, is_known):
    study.jobs = study.jobs[3:]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)
    Path("train-mar.txt").write_text("made")
    study.ends("1", "COMPLETED", "finished")
    if not is_known:
        study.cluster.states.clear()

    second = study.driver()
    second.run_jobs(study.jobs)
    study.poll(second)

    assert len(study.cluster.arrays) == 1
    assert study.ended == [("train-mar.txt", "done")]


def test_what_failed_or_lost_its_files_meanwhile_is_made_again(study):
    study.jobs = [Job("train", "mar"), Job("score")]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)
    ids = {info.job.name: info.external_jobid for info in first.active_jobs}
    study.ends(ids["train"], "FAILED", "failed", exit_code=1)
    study.ends(ids["score"], "COMPLETED", "finished")  # but its output is not there

    study.driver().run_jobs(study.jobs)

    assert len(study.cluster.arrays) == 4
    assert sorted(study.finished()) == [("score", "done"), ("train mar", "fail")]


@pytest.fixture
def away(study):
    """A job that ended well while no driver lived: its output, marked as not accepted."""
    study.jobs = [Job("train", "mar", params={"epochs": 1})]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)
    Path("train-mar.txt").write_text("made")
    study.ends("1", "COMPLETED", "finished")
    return study


def test_what_finished_with_old_params_is_made_again_and_accounted_for_once(away):
    away.jobs = [Job("train", "mar", params={"epochs": 2})]

    second = away.driver()
    second.run_jobs(away.jobs)
    away.ends("2", "COMPLETED", "finished")
    away.poll(second)

    assert len(away.cluster.arrays) == 2
    assert away.finished() == [("train mar", "done")] * 2


def test_a_forced_job_is_made_again_though_it_finished_meanwhile(away):
    away.forced.append(away.jobs[0].rule)

    away.driver().run_jobs(away.jobs)

    assert len(away.cluster.arrays) == 2


def test_what_snakemake_has_accepted_since_is_no_reason_not_to_make_it(away):
    Path("incomplete", "train-mar.txt").unlink()

    away.driver().run_jobs(away.jobs)

    assert len(away.cluster.arrays) == 2


def test_a_forced_job_that_runs_already_is_taken_over(away):
    away.forced.append(away.jobs[0].rule)
    away.cluster.states["1"] = Status("RUNNING")

    away.driver().run_jobs(away.jobs)

    assert len(away.cluster.arrays) == 1


@pytest.mark.parametrize("state, outcome", [("COMPLETED", "done"), ("FAILED", "fail")])
def test_what_ended_while_no_driver_lived_is_accounted_for_once_though_nobody_wants_it(away, state, outcome):
    away.cluster.states["1"] = Status(state)
    wanted, away.jobs = away.jobs, []

    for _ in range(2):
        away.kill(away.driver())
    away.jobs = wanted
    last = away.driver()
    last.run_jobs(away.jobs)
    away.poll(last)

    assert away.finished() == [("train mar", outcome)]


def test_what_another_driver_follows_is_its_to_account_for(study):
    first = study.driver()
    first.run_jobs(study.jobs)
    study.ends("2", "COMPLETED", "finished")
    study.jobs = [Job("score")]

    study.driver()

    assert study.finished() == []


def test_a_job_with_old_settings_is_cancelled_and_submitted_with_the_new_ones(study):
    first = study.driver()
    study.jobs = [Job("train", "mar", params={"epochs": 1})]
    first.run_jobs(study.jobs)
    study.kill(first)

    study.jobs = [Job("train", "mar", params={"epochs": 2})]
    study.driver().run_jobs(study.jobs)

    assert study.cluster.cancelled == ["1"]
    assert len(study.cluster.arrays) == 2
    assert study.finished() == [("train mar", "cancelled")]


def test_old_jobs_are_cancelled_together_and_those_that_stay_are_not_submitted_again(study, monkeypatch):
    study.jobs = [Job("train", str(i), params={"epochs": 1}) for i in range(3)]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)
    calls = []
    monkeypatch.setattr(study.cluster, "cancel", lambda jobs: calls.append(list(jobs)) or ["1_1"])

    study.jobs = [Job("train", str(i), params={"epochs": 2}) for i in range(3)]
    study.driver().run_jobs(study.jobs)

    assert calls == [["1_0", "1_1", "1_2"]]
    assert study.ended == [("train-1.txt", "failed")]
    assert "does not cancel its job 1_1" in study.jobs[1].errors[0]
    assert [len(commands) for commands, _ in study.cluster.arrays] == [3, 2]


def test_a_job_whose_cut_short_submission_cannot_be_cancelled_is_not_submitted_again(study, monkeypatch):
    study.jobs = study.jobs[2:]
    first = study.driver()
    study.cluster.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        first.run_jobs(study.jobs[1:])
    study.kill(first)
    study.cluster.error = None
    monkeypatch.setattr(study.cluster, "cancel_tickets", list)

    study.driver().run_jobs(study.jobs)

    assert study.ended == [("train-mar.txt", "failed")]
    assert len(study.cluster.arrays) == 1


def test_a_submission_that_was_cut_short_is_cancelled_before_the_next(study):
    study.jobs = study.jobs[3:]
    first = study.driver()
    study.cluster.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        first.run_jobs(study.jobs)
    study.kill(first)
    (entry,) = Registry(study.folder / "submitit").all()
    assert entry.job is None
    study.cluster.error = None

    study.driver().run_jobs(study.jobs)

    assert study.cluster.tickets == [entry.ticket]
    assert len(study.cluster.arrays) == 1
