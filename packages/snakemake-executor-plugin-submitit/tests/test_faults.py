"""A cluster that fails under a running study: the controller restarts, a node dies, the database is away."""

import signal
import subprocess

import pytest

from driver import Study

pytestmark = pytest.mark.slurm

SNAKEFILE = """
rule pinned:
    output: "{node}.txt"
    resources: extra=lambda wildcards: f"--nodelist={wildcards.node}"
    shell: "bash count.sh {wildcards.node} 1 go && touch {output}"

rule unlucky:
    output: "unlucky.txt"
    resources: extra="--nodelist=gpu2", max_preemptions=0
    shell: "bash count.sh unlucky 1 go && touch {output}"

rule failing:
    output: "failing.txt"
    shell: "bash count.sh failing 1 go; exit 1"
"""


@pytest.fixture(scope="module")
def outlived(running, tmp_path_factory):
    """A study under which the controller restarted and a node died: its study and its driver's exit code."""
    study = Study(running, tmp_path_factory.mktemp("outlived"), SNAKEFILE)
    try:
        driver = study.start("gpu1.txt", "gpu2.txt", "unlucky.txt")
        study.wait_counted("gpu1", "gpu2", "unlucky")
        running.restart_controller(slurmd_timeout=8)
        running.kill_node("gpu2")
        study.wait(lambda: running.node_state("gpu2").startswith("DOWN"), "the node is down")
        running.start_node("gpu2")
        study.touch("go")
        code = driver.wait()
        yield study, code
    finally:
        running.clear()


def test_a_study_outlives_a_restart_of_the_controller_and_the_death_of_a_node(outlived):
    study, _ = outlived

    # The dead node's job began again; no other one did.
    assert study.journal("gpu1") == ["start 0", "end"]
    assert study.journal("gpu2") == ["start 0", "start 0", "end"]
    assert study.finished()["pinned gpu2"]["interruptions"] == 1


def test_a_dead_node_is_named_where_no_budget_is_left(outlived):
    study, code = outlived

    line = study.finished()["unlucky"]

    assert (code, line["outcome"]) == (1, "fail")
    assert "NODE_FAIL" in line["message"] and "gpu2" in line["message"]
    assert study.journal("unlucky") == ["start 0"]


def let_go_and_forget(study, cluster, jobs):
    """The jobs end, and Slurm forgets them."""
    cluster.restart_controller(min_job_age=2)
    study.touch("go")
    study.wait(lambda: not any(cluster.job(job) for job in jobs), "Slurm forgot the jobs")


def test_jobs_that_slurm_has_forgotten_are_judged_by_their_records(cluster, tmp_path):
    study = Study(cluster, tmp_path, SNAKEFILE)
    shim = study.shim()
    driver = study.start("gpu1.txt", "failing.txt")
    study.wait_counted("gpu1", "failing")

    (shim / "fail").touch()
    let_go_and_forget(study, cluster, cluster.queue())
    (shim / "fail").unlink()
    code = driver.wait()

    assert code == 1
    assert study.finished()["pinned gpu1"]["outcome"] == "done"
    failed = study.finished()["failing"]
    assert failed["outcome"] == "fail" and "FAILED, exit code 1" in failed["message"]
    assert failed["log"] in driver.output
    assert "failing: attempt 1" in (study.folder / failed["log"]).read_text()


def test_a_job_forgotten_after_its_driver_was_killed_is_not_repeated(cluster, tmp_path):
    study = Study(cluster, tmp_path, SNAKEFILE)
    first = study.start("gpu1.txt", "gpu2.txt")
    study.wait_counted("gpu1", "gpu2")
    first.kill()
    let_go_and_forget(study, cluster, cluster.queue())

    driver = study.run("gpu1.txt", "gpu2.txt")

    assert driver.process.returncode == 0, driver.output
    assert study.journal("gpu1") == study.journal("gpu2") == ["start 0", "end"]


def test_jobs_end_and_begin_while_the_accounting_database_refuses_connections(cluster_with_accounting, tmp_path):
    cluster = cluster_with_accounting
    study = Study(cluster, tmp_path, DATABASE)
    driver = study.start("last.txt")
    study.wait_counted("first")

    cluster.stop_daemon("slurmdbd")
    try:
        said = subprocess.run(["sacct"], env=study.environment, capture_output=True, text=True).stderr
        study.touch("go")
        code = driver.wait()
    finally:
        cluster.start_accounting_daemon()

    assert "Connection refused" in said
    assert code == 0, driver.output
    assert study.journal() == ["first start 0", "first end", "last start 0", "last end"]


DATABASE = """
rule first:
    output: "first.txt"
    shell: "bash count.sh first 1 go && touch {output}"

rule last:
    input: "first.txt"
    output: "last.txt"
    shell: "bash count.sh last 1 && touch {output}"
"""

OUTAGE = """
rule counted:
    output: "{name}.txt"
    resources: runtime=lambda wildcards: 5 + int(wildcards.name)
    shell: "bash count.sh {wildcards.name} 1 && touch {output}"
"""


@pytest.fixture
def submitting(cluster, tmp_path):
    """A study whose driver has just called sbatch, which continues when `go_on` is called."""
    study = Study(cluster, tmp_path, OUTAGE)
    shim = study.shim("sbatch")
    (shim / "hang").touch()
    driver = study.start("1.txt", "2.txt", "3.txt")
    study.wait((shim / "hanging").exists, "sbatch begins")
    yield study, driver, (shim / "hang").unlink
    driver.kill()


def test_an_outage_at_a_submission_loses_and_doubles_no_job(cluster, submitting):
    study, driver, go_on = submitting
    cluster.stop_daemon("munged")
    try:
        go_on()
        study.wait(lambda: "whether it was taken" in driver.output, "the driver asks what became of its job")
    finally:
        cluster.start_munge()
    code = driver.wait()

    assert code == 0, driver.output
    assert "Protocol authentication error" in driver.output
    assert [study.journal(number) for number in "123"] == [["start 0", "end"]] * 3


def test_what_a_hung_controller_takes_late_runs_once(cluster, submitting):
    study, driver, go_on = submitting
    cluster.daemons["slurmctld"].send_signal(signal.SIGSTOP)
    try:
        go_on()
        study.wait(lambda: "whether it was taken" in driver.output, "the driver asks what became of its job")
    finally:
        cluster.daemons["slurmctld"].send_signal(signal.SIGCONT)
    code = driver.wait()

    assert code == 0, driver.output
    assert [study.journal(number) for number in "123"] == [["start 0", "end"]] * 3
    study.wait(lambda: not cluster.queue(), "no job is left")
