"""What Slurm says, and what follows from it. The texts are those of Slurm 22.05."""

from datetime import datetime

import pytest

from snakemake_executor_plugin_submitit.driver.states import DONE, FAIL, RESUBMIT, WAIT, Budget, judge, remedy
from snakemake_executor_plugin_submitit.records.attempts import Attempt
from snakemake_executor_plugin_submitit.slurm.texts import (
    Status,
    expand_ids,
    is_outage,
    read_config,
    read_notice,
    read_sacct,
    read_squeue,
    record_of,
    sbatch_reason,
)

BUDGET = Budget(max_preemptions=2, max_timeouts=1, runtime_seconds=3600)


def attempt(ended_by, seconds=100.0, exit_code=None, gave_up=False, fault=""):
    return Attempt(1, "s", "7", "gpu1", 0, 0.0, seconds, ended_by, exit_code, gave_up, fault)


def test_sacct_tells_elements_apart_and_leaves_out_steps():
    text = (
        "7_0|COMPLETED|0:0|gpu1\n7_0.batch|FAILED|1:0|gpu1\n7_1|CANCELLED by 0|0:15|gpu[1-2]\n"
        "7_[2-3,5%2]|PENDING|0:0|None assigned\n8|OUT_OF_MEMORY|0:125|gpu2\n"
    )

    found = read_sacct(text)

    pending = {f"7_{i}": "PENDING" for i in (2, 3, 5)}
    ended = {"7_0": "COMPLETED", "7_1": "CANCELLED", "8": "OUT_OF_MEMORY"}
    assert {job: status.state for job, status in found.items()} == ended | pending
    assert found["7_1"] == Status("CANCELLED", "by 0", "0:15", "gpu[1-2]")
    assert found["7_2"].nodes == ""


def test_squeue_tells_why_a_job_waits():
    found = read_squeue("7_0|RUNNING|None|gpu1\n9|PENDING|JobHeldUser|\n")

    assert found == {"7_0": Status("RUNNING", "", "", "gpu1"), "9": Status("PENDING", "JobHeldUser")}
    assert "scontrol release" in remedy(found["9"])
    assert not remedy(found["7_0"])


@pytest.mark.parametrize(
    "reason, word",
    [
        ("PartitionConfig", "`threads`"),
        ("PartitionTimeLimit", "`runtime`"),
        ("ReqNodeNotAvail, UnavailableNodes:gpu1", "down, drained or reserved"),
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "down, drained",
        ),
        ("launch failed requeued held", "scontrol release"),
        ("InvalidAccount", "`account`"),
        ("QOSNotAllowed", "`qos`"),
        ("QOSMaxCpuPerJobLimit", "for one job"),
        ("AssocMaxWallDurationPerJobLimit", "for one job"),
        ("QOSMinGRES", "for one job"),
        ("MaxMemPerLimit", "for one job"),
        ("AssocGrpCPUMinutesLimit", "has used up"),
        ("AssocGrpBillingMinutes", "has used up"),
    ],
)
def test_a_job_that_may_wait_for_ever_has_a_remedy(reason, word):
    assert word in remedy(Status("PENDING", reason))
    assert not remedy(Status("RUNNING", reason))


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "Priority",
        "Resources",
        "BeginTime",
        "Reservation",
        "Dependency",
        "JobArrayTaskLimit",
        "QOSMaxJobsPerUserLimit",
    ]
    + ["AssocGrpCPURunMinutesLimit", "QOSGrpGRES", "MaxCpuPerAccount", "AccountingPolicy", "Licenses"],
)
def test_a_job_that_waits_for_its_turn_needs_none(reason):
    assert remedy(Status("PENDING", reason)) == ""


@pytest.mark.parametrize(
    "text, ids",
    [("7", ["7"]), ("7_3", ["7_3"]), ("7_[0-2]", ["7_0", "7_1", "7_2"]), ("7_[1,4-5%9]", ["7_1", "7_4", "7_5"])],
)
def test_ids_of_arrays_are_spelled_out(text, ids):
    assert expand_ids(text) == ids


def record(end, preempted=None):
    """A job that began at 11:00, as `scontrol show job` writes it."""
    when = f"2026-01-01T{preempted}:00" if preempted else "None"
    return f"JobId=7 JobName=train StartTime=2026-01-01T11:00:00 EndTime=2026-01-01T{end} PreemptTime={when}"


def test_of_several_records_a_job_reads_its_own():
    text = "JobId=24 ArrayTaskId=1 PreemptTime=None\nJobId=25 ArrayTaskId=0 PreemptTime=2026-01-01T12:00:00\n"

    assert record_of(text, "24") == "JobId=24 ArrayTaskId=1 PreemptTime=None"
    assert "ArrayTaskId=0" in record_of(text, "25")
    assert record_of(text, "2") == record_of("", "24") == ""


NOW = datetime(2026, 1, 1, 12, 0, 0).timestamp()


@pytest.mark.parametrize(
    "text, expected_left, is_time_limit, left",
    [
        # Preempted with a grace of 20 s, in the middle and shortly before the limit.
        (record("12:00:20", "12:00"), 3600, False, 20),
        (record("12:00:20", "12:00"), 100, False, 20),
        # The limit, two minutes ahead.
        (record("12:02:00"), 120, True, 120),
        # Preempted in an earlier attempt, now at the limit.
        (record("12:02:00", "10:00"), 120, True, 120),
        # An end of its own, without a word about preemption.
        (record("12:00:30"), 3600, False, 30),
        # The job may run for longer than was asked for, or for less: the partition's limit.
        (record("12:02:00") + " TimeLimit=01:02:00", 3600, True, 120),
        (record("12:00:30") + " TimeLimit=1-00:00:00", 30, False, 30),
        (record("12:02:00") + " TimeLimit=UNLIMITED", 120, True, 120),
        # Slurm does not answer: by the time left.
        ("", 150, True, 150),
        ("", 3000, False, 3000),
    ],
)
def test_a_notice_is_a_preemption_or_the_time_limit(text, expected_left, is_time_limit, left):
    notice = read_notice(text, NOW, expected_left, notice_seconds=120)

    assert notice.is_time_limit == is_time_limit
    assert notice.seconds_left == pytest.approx(left, abs=1)


@pytest.mark.parametrize(
    "state", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING"]
)
def test_success_that_slurm_runs_again_is_no_success_yet(state):
    assert judge("7", Status(state), [attempt("finished")], BUDGET).action == WAIT


@pytest.mark.parametrize(
    "status, records, action",
    [
        (Status("COMPLETED"), [], DONE),
        (None, [attempt("finished")], DONE),
        (None, [attempt("failed", exit_code=1)], FAIL),
        (None, [], FAIL),
        (Status("FAILED", exit_code="1:0"), [attempt("failed", exit_code=1)], FAIL),
        (Status("CANCELLED", "by 0"), [attempt("terminated")], FAIL),
        (Status("OUT_OF_MEMORY"), [attempt("")], FAIL),
        (Status("NODE_FAIL"), [attempt("")], RESUBMIT),
        (Status("NODE_FAIL"), [attempt("finished")], RESUBMIT),
        (Status("PREEMPTED"), [attempt("terminated")], RESUBMIT),
        (Status("TIMEOUT"), [attempt("terminated", 3590)], RESUBMIT),
        (Status("TIMEOUT"), [attempt("time limit", 3500), attempt("time limit", 3500)], FAIL),
        # Long before the limit: a preemption that Slurm calls so.
        (Status("TIMEOUT"), [attempt("terminated", 600)], RESUBMIT),
        # The job failed to requeue itself.
        (Status("FAILED"), [attempt("preempted")], RESUBMIT),
        (Status("FAILED"), [attempt("preempted", gave_up=True)], FAIL),
        (Status("FAILED"), [attempt("time limit", 3500, gave_up=True)], FAIL),
    ],
)
def test_each_end_has_its_consequence(status, records, action):
    assert judge("7", status, records, BUDGET).action == action


@pytest.mark.parametrize("state, action", [("FAILED", FAIL), ("NODE_FAIL", RESUBMIT), ("RUNNING", WAIT)])
def test_a_start_without_a_record_is_not_judged_by_that_of_an_earlier_one(state, action):
    earlier = [attempt("preempted", seconds=100)]
    verdict = judge("7", Status(state, started=106), earlier, BUDGET)

    assert verdict.action == action
    assert state != "FAILED" or "before its command began" in verdict.message
    assert judge("8", Status(state), earlier, BUDGET).action == action
    # The record is of this start, and the node's clock is two seconds behind.
    assert judge("7", Status("FAILED", started=102), earlier, BUDGET).action == RESUBMIT


def test_the_last_start_is_read():
    assert read_sacct("7|FAILED|1:0|gpu1|2026-01-01T12:00:00\n")["7"].started == NOW
    assert read_squeue("7|RUNNING|None|gpu1|2026-01-01T12:00:00\n")["7"].started == NOW
    assert read_squeue("7|PENDING|Priority||N/A\n")["7"].started is None


def test_an_estimated_start_is_no_news():
    assert Status("PENDING", started=1) == Status("PENDING", started=2)


@pytest.mark.parametrize("state, ended_by", [("NODE_FAIL", ""), ("PREEMPTED", "terminated"), ("TIMEOUT", "terminated")])
def test_without_a_budget_nothing_is_submitted_again(state, ended_by):
    assert judge("7", Status(state), [attempt(ended_by, 3590)], Budget()).action == FAIL


def test_a_budget_ends_even_if_no_attempt_ever_starts():
    spent = Budget(max_preemptions=2, resubmissions=2)

    assert judge("7", Status("NODE_FAIL"), [], spent).action == FAIL


def test_dead_nodes_and_time_limits_have_budgets_of_their_own():
    late = [attempt("terminated", 3590)]
    many_nodes = Budget(max_preemptions=5, max_timeouts=1, resubmissions=3)
    assert judge("7", Status("TIMEOUT"), late, many_nodes) == judge("7", Status("TIMEOUT"), late, BUDGET)
    assert judge("7", Status("TIMEOUT"), late, many_nodes).is_late

    used = Budget(max_preemptions=1, max_timeouts=1, resubmissions=1, late=1)
    assert judge("7", Status("TIMEOUT"), late, used).action == FAIL
    assert judge("7", Status("NODE_FAIL"), late, used).action == RESUBMIT
    assert not judge("7", Status("NODE_FAIL"), late, used).is_late


@pytest.mark.parametrize(
    "status, records, words",
    [
        (Status("OUT_OF_MEMORY", nodes="gpu1"), [], ["OUT_OF_MEMORY", "on gpu1", "raise `mem_mb`"]),
        (Status("TIMEOUT"), [attempt("terminated", 3590)], ["TIMEOUT", "raise `runtime`", "max_timeouts"]),
        (Status("CANCELLED", "by 1000"), [], ["CANCELLED (by 1000)", "cancelled outside"]),
        (Status("FAILED"), [attempt("failed", exit_code=3)], ["exit code 3"]),
        (Status("FAILED"), [attempt("failed", exit_code=-9)], ["killed by signal 9", "memory"]),
        (
            Status("FAILED", exit_code="1:0"),
            [attempt("failed", fault="It did not make a.")],
            ["FAILED. It did not make a."],
        ),
        (Status("FAILED"), [attempt("failed", exit_code=1, fault="No a.")], ["exit code 1. No a."]),
        (Status("FAILED"), [attempt("preempted", gave_up=True)], ["max_preemptions"]),
        (None, [], ["LOST", "Slurm has forgotten it"]),
    ],
)
def test_a_failure_is_explained(status, records, words):
    message = judge("7", status, records, Budget()).message

    assert all(word in message for word in words), message


MUNGE = """sbatch: error: If munged is up, restart with --num-threads=10
sbatch: error: Munge encode failed: Failed to access "/run/munge.sock": No such file (Did you start munged?)
sbatch: error: slurm_send_node_msg: auth_g_create: REQUEST_SUBMIT_BATCH_JOB has authentication error
sbatch: error: Batch job submission failed: Protocol authentication error"""


@pytest.mark.parametrize(
    "message",
    [
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller",
        "sbatch: error: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        "sbatch: error: Batch job submission failed: Invalid authentication credential",
        "sbatch: error: Batch job submission failed: Slurm backup controller in standby mode",
        "sbatch: error: Batch job submission failed: Connection refused",
        "sbatch: error: Batch job submission failed: Connection reset by peer",
        "sbatch: error: Batch job submission failed: Transport endpoint is not connected",
        "sbatch: error: Batch job submission failed: Message receive failure",
        "sbatch: error: Batch job submission failed: Problem talking to the database: Connection refused",
        "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
        "sbatch: error: Batch job submission failed: Slurm temporarily unable to accept job, sleeping and retrying",
        "sbatch: fatal: Could not establish a configuration source",
        MUNGE,
    ],
)
def test_errors_of_an_outage_pass(message):
    assert is_outage(sbatch_reason(message))


@pytest.mark.parametrize(
    "message",
    [
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        "sbatch: error: For help contact the database team, who are unreachable at night\n"
        "sbatch: error: Batch job submission failed: Invalid qos specification",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Invalid job array specification",
        # A path of the user's, not sbatch's word.
        "[Errno 13] Permission denied: '/data/database/connection/munge'",
        "nodes: found 2; this machine is one node, so ask for 1",
    ],
)
def test_errors_of_a_request_do_not_pass(message):
    assert not is_outage(sbatch_reason(message))


def test_the_configuration_is_read_by_name():
    config = read_config(
        "Configuration data as of 2026-01-01T12:00:00\nMaxArraySize            = 1001\nMinJobAge = 300 sec\n"
    )

    assert config == {"MaxArraySize": "1001", "MinJobAge": "300 sec"}
