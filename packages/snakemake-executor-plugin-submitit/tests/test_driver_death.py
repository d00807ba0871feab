"""A driver that is killed, interrupted, or not alone: its jobs are taken over, cancelled or left, and never doubled."""

import pytest

from driver import Study

pytestmark = pytest.mark.slurm

SNAKEFILE = """
rule all:
    input: expand("{name}.txt", name=["running", "requeued", "finished", "failed"]), "held.txt"

rule count:
    output: "{name}.txt"
    wildcard_constraints: name="running|requeued"
    shell: "bash count.sh {wildcards.name} 1 go && touch {output}"

rule short:
    output: "{name}.txt"
    wildcard_constraints: name="finished|failed"
    shell: "bash count.sh {wildcards.name} 1 unwatched && [ {wildcards.name} = finished ] && touch {output}"

rule held:
    output: "held.txt"
    resources: extra="--hold"
    shell: "bash count.sh held 1 && touch {output}"
"""
ENDLESS = """
rule all:
    input: "a.txt", "b.txt"

rule endless:
    output: "{name}.txt"
    shell: "bash count.sh {wildcards.name} 1 never && touch {output}"
"""


@pytest.fixture(scope="module")
def adopted(running, tmp_path_factory):
    """A run whose driver was killed while jobs were pending, running and requeued, and others ended meanwhile."""
    study = Study(running, tmp_path_factory.mktemp("killed"), SNAKEFILE)
    try:
        first = study.start()
        study.wait_counted("running", "requeued", "finished", "failed")
        first.kill()
        study.touch("unwatched")
        study.wait(lambda: not study.slurm_ids("short"), "the short jobs ended while nobody watched")
        requeued = study.slurm_ids("count")[-1]
        running.call("scontrol", "requeue", requeued)
        study.wait(lambda: running.job(requeued)["Restarts"] == "1", "a job was requeued")
        running.wait_state(requeued, "PENDING", "RUNNING")
        before = running.queue()
        second = study.start()
        study.wait(lambda: second.output.count("taken over") == 4, "the jobs were taken over")  # the finished one, too
        running.call("scontrol", "release", *study.slurm_ids("held"))
        study.touch("go")
        code = second.wait()
        yield study, before, second.output, code
    finally:
        running.clear()


def test_pending_running_and_requeued_jobs_are_taken_over(adopted):
    study, before, output, _ = adopted

    assert sorted(before.values()) in (["PENDING", "PENDING", "RUNNING"], ["PENDING", "RUNNING", "RUNNING"])
    for name in ("running", "requeued", "held"):
        line = study.finished()[f"count {name}" if name != "held" else "held"]
        assert line["outcome"] == "done"
        assert line["job"] in before
    assert study.journal("held") == ["start 0", "end"]


def test_nothing_ran_twice_at_the_same_time(adopted):
    study, *_ = adopted

    assert not [line for line in study.journal() if "overlaps" in line]
    starts = {name: sum(x.startswith("start") for x in study.journal(name)) for name in ("running", "requeued")}
    assert sorted(starts.values()) == [1, 2]


def test_what_finished_while_nobody_watched_is_not_repeated(adopted):
    study, *_ = adopted

    assert study.journal("finished") == ["start 0", "end"]


def test_what_failed_while_nobody_watched_runs_again(adopted):
    study, _, _, code = adopted

    assert study.journal("failed") == ["start 0", "end"] * 2
    assert code == 1


def test_ctrl_c_during_a_poll_cancels_every_job(cluster, tmp_path):
    study = Study(cluster, tmp_path, ENDLESS)
    shim = study.shim()
    driver = study.start()
    study.wait_counted("a", "b")
    (shim / "hang").touch()
    study.wait((shim / "hanging").exists, "a poll hangs")

    driver.interrupt()

    study.wait(lambda: not cluster.queue(), "no job is left")
    (shim / "hang").unlink()
    assert driver.wait() != 0


def test_a_second_driver_is_refused_and_a_detached_run_can_be_taken_over(cluster, tmp_path):
    study = Study(cluster, tmp_path, ENDLESS)
    first = study.start("--submitit-detach")
    study.wait_counted("a", "b")
    before = cluster.queue()

    second = study.run()
    first.interrupt()
    first.wait()
    after = cluster.queue()
    third = study.start()
    study.wait(lambda: third.output.count("taken over") == 2, "the third driver took over")
    third.interrupt()
    third.wait()

    assert second.process.returncode != 0
    assert "by another snakemake: process" in second.output
    assert before == after
    assert [line for line in study.journal() if "start" in line and line.startswith("a")] == ["a start 0"]
    study.wait(lambda: not cluster.queue(), "no job is left")
