"""What an executor does about the jobs of drivers before it: taken over, made again, cancelled, accounted for."""

import os
import threading
from pathlib import Path

import pytest

from cluster import wait_for
from snakemake_executor_plugin_submitit.driver.backends import Submission
from snakemake_executor_plugin_submitit.driver.jobs import key_of_job
from snakemake_executor_plugin_submitit.records.registry import Registry
from snakemake_executor_plugin_submitit.slurm.clients import Answer, QueryFailed
from snakemake_executor_plugin_submitit.slurm.texts import Status
from stand_in import Cluster, Group, Job, Study


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Study(tmp_path, [Job("sample", str(i)) for i in range(3)] + [Job("train", "mar", gpus_per_node=2)])


def refuse(tickets):
    raise QueryFailed("scancel: error: Access/permission denied")


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
    os.utime("train-mar.txt", (1000, 1000))  # as from an archive
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


def test_a_job_with_old_settings_is_cancelled_and_submitted_with_the_new_ones(study, caplog):
    first = study.driver()
    study.jobs = [Job("train", "mar", params={"epochs": 1})]
    first.run_jobs(study.jobs)
    study.kill(first)

    study.jobs = [Job("train", "mar", params={"epochs": 2})]
    study.driver().run_jobs(study.jobs)

    assert (
        "Slurm job 1 of an earlier run is cancelled and submitted again, since these have changed: params."
        in caplog.text
    )
    assert study.cluster.cancelled == ["1"]
    assert len(study.cluster.arrays) == 2
    assert study.finished() == [("train mar", "cancelled")]


def test_old_jobs_are_cancelled_together_and_those_that_stay_are_not_submitted_again(study, monkeypatch):
    study.jobs = [Job("train", str(i), params={"epochs": 1}) for i in range(3)]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)
    calls = []
    refusal = {"1_1": "scancel: error: Access/permission denied"}
    monkeypatch.setattr(study.cluster, "cancel", lambda jobs: calls.append(list(jobs)) or refusal)

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
    monkeypatch.setattr(study.cluster, "cancel_tickets", refuse)
    study.pauses_seconds = (0,)

    study.driver().run_jobs(study.jobs)

    assert study.ended == [("train-mar.txt", "failed")]
    assert len(study.cluster.arrays) == 1


def cut_short(study):
    """The entry of a driver that was killed while it submitted the last job; then the cluster works again."""
    study.jobs = study.jobs[3:]
    first = study.driver()
    study.cluster.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        first.run_jobs(study.jobs)
    study.kill(first)
    (entry,) = Registry(study.folder / "submitit").all()
    study.cluster.error = None
    return entry


def test_a_submission_that_was_cut_short_is_cancelled_before_the_next(study):
    entry = cut_short(study)
    assert entry.job == ""

    study.driver().run_jobs(study.jobs)

    assert study.cluster.tickets == [entry.ticket]
    assert len(study.cluster.arrays) == 1


@pytest.fixture
def hurried(study, monkeypatch):
    """Short pauses between tries, and an outage that begins after the cluster's limits are known."""
    study.pauses_seconds = (0.01,)
    monkeypatch.setattr(study.cluster, "learn_limits", lambda: None)


def test_a_submission_that_was_cut_short_is_settled_when_slurm_answers_again(study, hurried):
    entry = cut_short(study)

    second = study.driver()
    study.cluster.silences = 20
    second.run_jobs(study.jobs)

    assert set(study.cluster.tickets) == {entry.ticket}
    assert len(study.cluster.arrays) == 1
    assert study.ended == []


@pytest.mark.parametrize("epochs, arrays, cancelled", [(1, 1, []), (2, 2, ["1"])])
def test_jobs_of_a_killed_driver_are_asked_for_until_slurm_answers(study, hurried, epochs, arrays, cancelled):
    study.jobs = [Job("train", "mar", params={"epochs": 1})]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)

    study.jobs = [Job("train", "mar", params={"epochs": epochs})]
    second = study.driver()
    study.cluster.silences = 20
    second.run_jobs(study.jobs)

    assert (len(study.cluster.arrays), study.cluster.cancelled) == (arrays, cancelled)
    assert study.ended == []


def test_a_job_that_only_accounting_could_tell_of_is_cancelled_before_it_is_made_again(study, monkeypatch):
    study.jobs = [Job("train", "mar", params={"epochs": 1})]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)
    monkeypatch.setattr(study.cluster, "query", lambda jobs: Answer())  # neither found nor known to be gone

    study.jobs = [Job("train", "mar", params={"epochs": 2})]
    study.driver().run_jobs(study.jobs)

    assert study.cluster.cancelled == ["1"]
    assert len(study.cluster.arrays) == 2


def test_an_outage_at_a_submission_is_waited_for(study, hurried):
    driver = study.driver()
    study.cluster.silences = 30

    driver.run_jobs(study.jobs)

    assert study.ended == []
    assert study.cluster.refused > 0
    assert [len(commands) for commands, _ in study.cluster.arrays] == [3, 1]
    assert driver.tickets == set()


def test_a_retry_settles_a_submission_that_its_own_driver_left_open(study, hurried):
    study.jobs = study.jobs[3:]
    driver = study.driver()
    study.cluster.error = Submission("sbatch: error: the answer is no longer readable")
    settled, study.cluster.cancel_tickets = study.cluster.cancel_tickets, refuse
    driver.run_jobs(study.jobs)
    assert study.ended == [("train-mar.txt", "failed")]
    (entry,) = Registry(study.folder / "submitit").all()
    assert driver.tickets == {entry.ticket}

    study.cluster.error, study.cluster.cancel_tickets = None, settled
    driver.run_jobs(study.jobs)

    assert study.cluster.tickets == [entry.ticket]
    assert len(study.cluster.arrays) == 1


def test_ctrl_c_while_an_outage_is_waited_for_ends_the_wait_and_names_what_is_open(study, monkeypatch, caplog):
    study.jobs = study.jobs[3:]
    study.pauses_seconds = (600,)
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.ends("1", "NODE_FAIL", "")

    def submit(*arguments):
        study.cluster.silences = 10
        return Cluster.submit(study.cluster, *arguments)

    monkeypatch.setattr(study.cluster, "submit", submit)
    polling = threading.Thread(target=study.poll, args=[driver])
    polling.start()
    wait_for(lambda: "trying again in 600 s" in caplog.text, "the driver waits")

    driver.cancel()
    polling.join(60)

    (ticket,) = driver.tickets
    assert not polling.is_alive()
    assert f"shows with {ticket}" in caplog.text
    assert [entry.ticket for entry in Registry(study.folder / "submitit").all()] == [ticket]
    assert study.ended == []


def touched(path):
    os.utime(path, (2_000_000_000, 2_000_000_000))


@pytest.mark.parametrize("triggers, arrays", [(("MTIME",), 1), (("MTIME", "PARAMS"), 2)])
def test_changed_params_count_only_where_they_are_a_rerun_trigger(study, triggers, arrays):
    study.triggers = triggers
    study.jobs = [Job("train", "mar", params={"epochs": 1})]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)

    study.jobs = [Job("train", "mar", params={"epochs": 2})]
    study.driver().run_jobs(study.jobs)

    assert len(study.cluster.arrays) == arrays


@pytest.mark.parametrize("content, arrays", [("old", 1), ("new", 2)])
def test_an_input_that_was_only_touched_is_no_reason_to_cancel_a_job(study, content, arrays):
    study.jobs = study.jobs[3:]
    study.jobs[0].input = ["data"]
    Path("data").write_text("old")
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)

    Path("data").write_text(content)
    touched("data")
    study.driver().run_jobs(study.jobs)

    assert len(study.cluster.arrays) == arrays


def test_an_entry_whose_driver_lives_is_not_touched_though_its_claim_cannot_be_read(study):
    study.jobs = [Job("train", "mar", params={"epochs": 1})]
    first = study.driver()
    first.run_jobs(study.jobs)
    (study.folder / "submitit" / "drivers" / f"{first.driver.id}.json").write_text("{")

    study.jobs = [Job("train", "mar", params={"epochs": 2})]
    study.driver().run_jobs(study.jobs)

    assert study.cluster.cancelled == []
    assert len(study.cluster.arrays) == 1
    assert "Slurm job 1 of another running snakemake is already" in study.jobs[0].errors[0]


def test_projects_that_share_a_folder_do_not_see_each_others_jobs(study, monkeypatch, tmp_path):
    first = study.driver()
    first.run_jobs(study.jobs)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")

    second = study.driver()
    study.kill(first)
    second.run_jobs(study.jobs)

    assert len(study.cluster.arrays) == 4
    assert study.cluster.cancelled == []
    assert len(Registry(study.folder / "submitit").all()) == 8


def test_the_ids_of_another_cluster_are_neither_asked_for_nor_cancelled(study):
    study.jobs = [Job("train", "mar", params={"epochs": 1})]
    first = study.driver()
    first.run_jobs(study.jobs)
    study.kill(first)

    study.cluster.place = "Slurm cluster of the same home"
    study.jobs = [Job("train", "mar", params={"epochs": 2})]
    study.driver().run_jobs(study.jobs)

    assert study.cluster.cancelled == []
    assert len(study.cluster.arrays) == 2
    assert study.finished() == []


@pytest.fixture(params=["independent", "chained"])
def group(study, request):
    """Two jobs in one group, which runs. Its driver was killed when the first job had made its output."""
    study.jobs = [Job("first"), Job("second", params={"epochs": 1})]
    if request.param == "chained":
        study.jobs[1].input = ["first.txt"]
    driver = study.driver()
    driver.run_jobs([Group(*study.jobs)])
    study.kill(driver)
    study.cluster.states["1"] = Status("RUNNING")
    Path("first.txt").write_text("made")
    touched("first.txt")
    return study


def test_of_a_group_that_is_partly_done_the_rest_is_followed(group):
    first, group.jobs = group.jobs[0], group.jobs[1:]
    driver = group.driver()
    driver.run_jobs([Group(*group.jobs)])
    Path("second.txt").write_text("made")
    group.ends("1", "COMPLETED", "finished")
    marker = Path("incomplete", *first.output)
    marker.touch()  # the group's job marks all that it has made
    group.poll(driver)

    assert (len(group.cluster.arrays), group.cluster.cancelled) == (1, [])
    assert group.ended == [("second.txt", "done")]
    assert not marker.exists()
    assert Registry(group.folder / "submitit").all() == []


def test_a_group_that_is_partly_done_is_submitted_again_as_what_is_left(group):
    whole = group.jobs
    group.jobs = whole[1:]
    driver = group.driver()
    driver.run_jobs([Group(*group.jobs)])
    group.ends("1", "NODE_FAIL", "")
    group.poll(driver)
    group.ends("2", "COMPLETED", "finished")
    (entry,) = Registry(group.folder / "submitit").all()
    group.poll(driver)

    (command,), _ = group.cluster.arrays[1]
    assert command.line.startswith("make second.txt")
    assert list(entry.parts) == command.parts == [key_of_job(whole[1])]
    assert group.ended == [("second.txt", "done")]


@pytest.mark.parametrize("state, epochs", [("PENDING", 1), ("RUNNING", 2)])
def test_a_group_that_would_make_something_else_is_cancelled(group, state, epochs):
    group.cluster.states["1"] = Status(state)
    group.jobs = [Job("second", params={"epochs": epochs})]
    group.jobs[0].input = ["first.txt"] if epochs == 1 else []

    group.driver().run_jobs([Group(*group.jobs)])

    assert group.cluster.cancelled == ["1"]
    assert len(group.cluster.arrays) == 2
    assert group.finished() == [("group", "cancelled")]


def test_a_group_whose_jobs_are_wanted_one_by_one_is_cancelled_once(group):
    group.driver().run_jobs(group.jobs)

    assert group.cluster.cancelled == ["1"]
    assert [len(commands) for commands, _ in group.cluster.arrays] == [1, 1, 1]


def test_jobs_that_are_wanted_as_a_group_are_cancelled(study):
    study.jobs = [Job("first"), Job("second")]
    driver = study.driver()
    driver.run_jobs(study.jobs)
    study.kill(driver)

    study.driver().run_jobs([Group(*study.jobs)])

    assert sorted(study.cluster.cancelled) == ["1", "2"]
    assert len(study.cluster.arrays) == 3


def test_a_group_that_cannot_be_cancelled_is_not_submitted_again(group, monkeypatch):
    monkeypatch.setattr(group.cluster, "cancel", lambda jobs: dict.fromkeys(jobs, "scancel: error: denied"))

    group.driver().run_jobs(group.jobs)

    assert sorted(group.ended) == [("first.txt", "failed"), ("second.txt", "failed")]
    assert len(group.cluster.arrays) == 1
