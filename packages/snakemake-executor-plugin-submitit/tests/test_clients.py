"""What Slurm's programs are asked, and how their answers and failures are taken, with stand-ins for the programs."""

import sys
from threading import Event

import pytest

from fake_slurm import FakeSlurm
from snakemake_executor_plugin_submitit.driver.backends import LocalBackend, SlurmBackend, Submission, submit_patiently
from snakemake_executor_plugin_submitit.driver.patience import FEW, Patience
from snakemake_executor_plugin_submitit.node.command import JobCommand
from snakemake_executor_plugin_submitit.parameters import to_parameters
from snakemake_executor_plugin_submitit.slurm import clients
from snakemake_executor_plugin_submitit.slurm.clients import Limits, QueryFailed


def prepared(folder):
    return JobCommand("true", "sample 0", "key", "sub", str(folder), []), to_parameters({}, 1)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", fake.path)
    return fake


def test_one_query_asks_for_all_jobs(fake):
    fake.answer("sacct", "7_0|RUNNING|0:0|gpu1\n7_1|RUNNING|0:0|gpu1\n8|RUNNING|0:0|gpu2\n")

    answer = clients.query(["7_0", "7_1", "8"], has_accounting=True)

    assert {job: status.state for job, status in answer.found.items()} == {
        "7_0": "RUNNING",
        "7_1": "RUNNING",
        "8": "RUNNING",
    }
    assert len(fake.calls()) == 1
    assert "--jobs=7,8" in fake.calls()[0]


def test_the_controller_says_why_a_job_waits(fake):
    fake.answer("sacct", "7|PENDING|0:0|None assigned\n8|PENDING|0:0|None assigned\n")
    fake.answer("squeue", "7|PENDING|PartitionConfig|\n")

    answer = clients.query(["7", "8"], has_accounting=True)

    assert {job: status.reason for job, status in answer.found.items()} == {"7": "PartitionConfig", "8": ""}


def test_a_users_defaults_for_the_clients_do_not_count(fake, monkeypatch):
    for name in ("squeue", "scancel"):
        (fake.folder / "bin" / name).write_text(f"#!/bin/bash\nenv > {fake.folder}/environment-{name}\n")
    wrong = {"SQUEUE_STATES": "PD", "SACCT_FEDERATION": "1", "SCANCEL_INTERACTIVE": "1", "SCONTROL_FUTURE": "1"}
    for name, value in (wrong | {"SLURM_CLUSTERS": "c"}).items():
        monkeypatch.setenv(name, value)

    clients.query(["7"], has_accounting=False)
    clients.cancel(["7"])

    for name in ("squeue", "scancel"):
        seen = dict(line.split("=", 1) for line in (fake.folder / f"environment-{name}").read_text().splitlines())
        assert seen.keys().isdisjoint(wrong)
        assert (seen["SLURM_CLUSTERS"], seen["SLURM_TIME_FORMAT"]) == ("c", "standard")


def test_the_controller_has_the_last_word_on_jobs_that_are_over(fake):
    fake.answer("sacct", "7|COMPLETED|0:0|gpu1\n8|FAILED|3:0|gpu1\n9|PREEMPTED|0:0|gpu1\n")
    fake.answer("squeue", "7|PENDING|BeginTime|\n8|FAILED|NonZeroExitCode|gpu1\n10|PENDING|Priority|\n")

    answer = clients.query(["7", "8", "9", "10", "11"], has_accounting=True)

    states = {job: status.state for job, status in answer.found.items()}
    assert states == {"7": "PENDING", "8": "FAILED", "9": "PREEMPTED", "10": "PENDING"}
    assert answer.found["8"].exit_code == "3:0"
    assert answer.unknown == {"11"}


def test_a_job_that_accounting_calls_running_for_ever_is_found_out(fake):
    fake.answer("scontrol-show", "AccountingStorageType = accounting_storage/slurmdbd\n")
    fake.answer("sacct", "7|RUNNING|0:0|gpu1\n8|RUNNING|0:0|gpu1\n")
    fake.answer("squeue", "8|RUNNING|None|gpu1\n")
    backend = SlurmBackend()

    answers = [backend.query(["7", "8"]) for _ in range(12)]

    assert [sorted(answer.unknown) for answer in answers] == [[]] * 9 + [["7"]] * 3
    assert len(fake.calls("squeue")) == 3


def test_without_accounting_only_the_controller_is_asked(fake):
    fake.answer("squeue", "7|RUNNING|None|gpu1\n")

    assert clients.query(["7", "8"], has_accounting=False).unknown == {"8"}
    assert fake.calls("sacct") == []


def test_if_accounting_fails_what_the_controller_does_not_know_stays_open(fake):
    fake.fail("sacct", "sacct: error: Sending PersistInit msg: Connection refused")
    fake.answer("squeue", "7|RUNNING|None|gpu1\n")

    answer = clients.query(["7", "8"], has_accounting=True)

    assert list(answer.found) == ["7"]
    assert answer.unknown == set()


def test_if_nobody_answers_the_query_fails(fake):
    fake.fail("squeue", "Unable to contact slurm controller")

    with pytest.raises(QueryFailed, match="squeue: Unable to contact"):
        clients.query(["7"], has_accounting=False)


def test_limits_are_read_once(fake):
    config = "MaxArraySize = 11\nMinJobAge = 2 sec\nKillWait = 3 sec\nAccountingStorageType = accounting_storage/none\n"
    fake.answer("scontrol-show", config)
    backend = SlurmBackend()

    assert backend.limits == Limits(11, 2, 3, False)
    assert backend.limits.max_array_size == 11
    assert len(fake.calls("scontrol")) == 1


def test_a_cluster_goes_by_its_name(fake):
    fake.answer("scontrol-show", "ClusterName = vision\n")

    assert SlurmBackend().place == "Slurm cluster vision"


def test_until_slurm_answers_the_limits_are_its_own(fake):
    fake.fail("scontrol", "Unable to contact slurm controller")

    backend = SlurmBackend()
    assert backend.limits == backend.limits == Limits()
    assert len(fake.calls("scontrol")) == 1

    fake.recover("scontrol")
    fake.answer("scontrol-show", "AccountingStorageType = accounting_storage/none\n")
    backend._ask_again = 0  # some time later
    assert not backend.limits.has_accounting


def test_what_cannot_be_cancelled_is_named(fake):
    assert clients.cancel(["7_0", "8", "7_0"]) == {}
    assert fake.calls("scancel") == ["scancel 7_0 8"]

    fake.fail("scancel", "scancel: error: Kill job error on job id 9: Unable to contact slurm controller")
    assert clients.cancel(["9"], seconds=0.5)["9"].endswith("Unable to contact slurm controller")


def test_what_may_not_be_cancelled_is_not_tried_again(fake):
    fake.fail("scancel", "scancel: error: Kill job error on job id 9: Access/permission denied")

    assert list(clients.cancel(["9"])) == ["9"]
    assert len(fake.calls("scancel")) == 1


@pytest.mark.parametrize(
    "text, left",
    [
        ("scancel: error: Kill job error on job id 7: Invalid job id specified\n", []),
        ("scancel: error: Kill job error on job id 7: Job/step already completing or completed\n", []),
        (
            "scancel: error: Kill job error on job id 7: Invalid job id specified\n"
            "scancel: error: Kill job error on job id 8: Socket timed out on send/recv operation\n",
            ["7", "8"],
        ),
    ],
)
def test_a_job_that_is_over_needs_no_cancelling_but_says_nothing_of_the_others(fake, text, left):
    fake.fail("scancel", text)

    assert list(clients.cancel(["7", "8"], seconds=0.5)) == left


def test_jobs_are_found_by_the_ticket_in_their_comment(fake):
    fake.answer("squeue", "7|sample 0 ticket-a\n7|sample 0 ticket-a\n8|train mar ticket-b\n9|(null)\n")

    assert clients.tickets(["ticket-b", "ticket-c"]) == {"ticket-b": ["8"], "ticket-c": []}


def submit(tmp_path, say=lambda text: None, ending=None, pauses_seconds=(0.01,)):
    command, parameters = prepared(tmp_path)
    patience = Patience(ending or Event(), say, pauses_seconds)
    return submit_patiently(SlurmBackend(), [command], parameters, tmp_path / "runs", "ticket", patience)


@pytest.mark.parametrize("word", ["Socket timed out on send/recv operation", "Protocol authentication error"])
def test_a_submission_and_the_question_whether_it_was_taken_outlast_an_outage(tmp_path, fake, word):
    said = []
    fake.fail("sbatch", f"sbatch: error: Batch job submission failed: {word}")
    fake.fail("squeue", f"slurm_load_jobs error: {word}")

    def say(text):
        said.append(text)
        if len(said) == 12:  # far more than a run would try for an error of its own
            fake.recover("squeue")
            fake.recover("sbatch")

    ids = submit(tmp_path, say)

    assert ids == ["1"]
    assert len(fake.calls("sbatch")) == 2
    assert word in said[0] and "trying again" in said[0]
    assert word in said[-1] and "whether it was taken" in said[-1]
    assert "exec " in (fake.folder / "script-1.sh").read_text()


def test_what_a_hung_controller_takes_late_is_cancelled_before_the_next_try(tmp_path, fake):
    fake.fail("sbatch", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    # The job comes into the queue after the first question.
    (fake.folder / "bin" / "squeue").write_text(
        f"#!/bin/bash\necho x >> {fake.folder}/asked\n"
        f"[ $(wc -l < {fake.folder}/asked) = 2 ] || exit 0\n"
        f"echo '5|sample 0 ticket'; rm {fake.folder}/answers/sbatch.error"
    )

    ids = submit(tmp_path)

    assert ids == ["1"]
    assert [call for call in fake.calls() if call.startswith(("sbatch", "scancel"))][1] == "scancel 5"


def test_a_wrong_account_is_an_error_at_once(tmp_path, fake):
    fake.fail("sbatch", "sbatch: error: Batch job submission failed: Invalid account or account/partition combination")

    with pytest.raises(Submission, match="Invalid account"):
        submit(tmp_path)
    assert len(fake.calls("sbatch")) == 1


def test_a_full_queue_is_tried_for_some_time_only(tmp_path, fake):
    fake.fail(
        "sbatch",
        "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
        "accounting/QOS policy (job submit limit, user's size and/or time limits)",
    )

    with pytest.raises(Submission, match="AssocMaxSubmitJobLimit"):
        submit(tmp_path)

    assert len(fake.calls("sbatch")) == FEW + 1


def test_a_job_that_was_taken_without_a_readable_answer_is_cancelled(tmp_path, fake):
    fake.answer("sbatch", "welcome to this cluster")
    fake.fail("squeue", "Unable to contact slurm controller")
    fake.answer("squeue", "1|sample 0 ticket\n")

    with pytest.raises(Submission, match="welcome to this cluster"):
        submit(tmp_path, lambda text: fake.recover("squeue"))

    assert fake.calls("scancel")[0] == "scancel 1"
    assert len(fake.calls("sbatch")) == 1


def test_a_question_that_is_refused_leaves_the_submission_open(tmp_path, fake):
    fake.answer("sbatch", "welcome to this cluster")
    fake.fail("squeue", "squeue: error: no such option")

    with pytest.raises(Submission, match="does not confirm whether it was accepted.*no such option") as error:
        submit(tmp_path)

    assert error.value.is_open


@pytest.mark.parametrize("silent", ["sbatch", "squeue"])
def test_a_run_that_is_being_stopped_waits_no_longer(tmp_path, fake, silent):
    fake.fail("sbatch", "sbatch: error: Unable to contact slurm controller")
    fake.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    ending = Event()

    with pytest.raises(Submission, match="Unable to contact") as error:
        submit(tmp_path, lambda text: ending.set() if text.startswith(silent) else None, ending)

    assert error.value.is_open
    assert len(fake.calls("sbatch")) == 1


def test_a_question_is_asked_again_after_a_silence():
    answers = [QueryFailed("Unable to contact"), "too early", "the answer"]

    def question():
        answer = answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    patience = Patience(Event(), print, pauses_seconds=(0.01,))
    assert patience.ask(question, "") == "the answer"
    assert patience.ask(lambda: "at once", "") == "at once"


def test_limits_are_waited_for_in_an_outage_alone(fake):
    fake.fail("scontrol", "slurm_load_ctl_conf error: Protocol authentication error")
    with pytest.raises(QueryFailed):
        SlurmBackend().learn_limits()

    fake.fail("scontrol", "scontrol: error: not for you")
    backend = SlurmBackend()
    backend.learn_limits()
    assert backend.limits == Limits()


def test_what_is_missing_for_a_submission_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="sbatch, .*: not found on the PATH.*--submitit-cluster local"):
        SlurmBackend().check()
    LocalBackend().check()

    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="pip install submitit"):
        LocalBackend().check()


def test_inside_a_job_only_the_way_to_the_cluster_is_kept():
    environment = {
        "SLURM_JOB_ID": "1",
        "SLURM_CONF": "c",
        "SLURM_MEM_PER_NODE": "9",
        "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "h",
    }

    found = clients.misleading_variables(environment)
    assert found == {"SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "CUDA_VISIBLE_DEVICES"}
    assert clients.misleading_variables({"CUDA_VISIBLE_DEVICES": "0", "SLURM_CONF": "c"}) == set()


def test_nothing_overrules_what_the_rules_ask_for():
    environment = {"SBATCH_TIMELIMIT": "5", "SBATCH_EXPORT": "NONE", "SBATCH_ACCOUNT": "vision"}

    assert clients.misleading_variables(environment) == {"SBATCH_TIMELIMIT", "SBATCH_EXPORT"}
