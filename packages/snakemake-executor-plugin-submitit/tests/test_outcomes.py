"""How a run reports jobs that do not simply succeed: mixed arrays, time limits, scancel, status queries that fail."""

import pytest

from driver import Study

pytestmark = pytest.mark.slurm

SNAKEFILE = """
rule all:
    input: expand("mixed-{i}.txt", i=range(8)), "cancelled.txt", "resuming.txt", "spent.txt", "endless.txt"

rule mixed:  # elements 2, 5 and 7 fail
    output: "mixed-{i}.txt"
    shell: "echo {wildcards.i} start 0 >> journal; [[ {wildcards.i} != [257] ]] && touch {output}"

rule cancelled:
    output: "cancelled.txt"
    shell: "bash count.sh cancelled 1 never && touch {output}"

rule resuming:  # continues until it has been at its time limit
    output: "resuming.txt"
    resources: runtime=1, max_timeouts=20
    shell: "bash count.sh resuming 1 go && touch {output}"

rule spent:  # needs more time than its budget has
    output: "spent.txt"
    resources: runtime=1, max_timeouts=1
    shell: "bash count.sh spent 1 never && touch {output}"

rule endless:
    output: "endless.txt"
    resources: runtime=1
    shell: "bash count.sh endless 1 never && touch {output}"
"""


@pytest.fixture(scope="module")
def ended(running_with_accounting, tmp_path_factory):
    """A run in which everything happens at once: its study, what the driver said, how often queries were refused."""
    cluster = running_with_accounting
    cluster.restart_controller(user_signal=True)
    study = Study(cluster, tmp_path_factory.mktemp("outcomes"), SNAKEFILE)
    shim = study.shim()
    refused = shim / "refused"
    try:
        driver = study.start()
        study.wait_counted("cancelled")
        (shim / "fail").touch()
        cluster.call("scancel", *study.slurm_ids("cancelled"))
        study.wait(lambda: refused.exists() and len(refused.read_text().split()) >= 4, "four queries were refused")
        assert driver.process.poll() is None, driver.output
        (shim / "fail").unlink()
        study.wait(lambda: any("saved" in line for line in study.journal("resuming")), "the time limit was near")
        study.touch("go")
        code = driver.wait()
        yield study, driver.output, code
    finally:
        cluster.clear()


def test_elements_of_an_array_are_reported_each_for_itself(ended):
    study, output, code = ended

    outcomes = {i: study.finished()[f"mixed {i}"]["outcome"] for i in range(8)}

    assert outcomes == {i: "fail" if i in (2, 5, 7) else "done" for i in range(8)}
    assert {study.finished()[f"mixed {i}"]["job"].split("_")[0] for i in range(8)} == {
        study.finished()["mixed 0"]["job"].split("_")[0]
    }
    assert code == 1


def test_failed_queries_lose_no_job(ended):
    study, output, _ = ended

    assert "Unable to contact" in output
    assert set(study.finished()) == {*(f"mixed {i}" for i in range(8)), "cancelled", "resuming", "spent", "endless"}


def test_a_job_cancelled_by_hand_is_reported_as_such(ended):
    study, output, _ = ended

    line = study.finished()["cancelled"]

    assert line["outcome"] == "fail"
    assert "CANCELLED" in line["message"] and "scancel" in line["message"]
    assert len([entry for entry in study.journal("cancelled") if entry.startswith("start")]) == 1


def test_a_job_with_a_budget_resumes_after_its_time_limit(ended):
    study, _, _ = ended

    lines, line = study.journal("resuming"), study.finished()["resuming"]

    saved = next(entry for entry in lines if entry.startswith("saved"))
    assert lines == ["start 0", saved, saved.replace("saved", "start"), "end"]
    assert line["outcome"] == "done"
    # An attempt that reaches its limit before the command has begun leaves no line of its own.
    assert study.ends("resuming") == ["time limit"] * (line["attempts"] - 1) + ["finished"]


def test_a_job_that_used_up_its_budget_fails_with_the_reason(ended):
    study, _, _ = ended

    line = study.finished()["spent"]

    assert (line["outcome"], line["timeouts"]) == ("fail", 2)
    assert study.ends("spent") == ["time limit"] * 2
    assert "FAILED" in line["message"] and "time limit, with no requeue left" in line["message"]


def test_a_job_without_a_budget_fails_at_its_time_limit_with_a_hint(ended):
    study, output, _ = ended

    line = study.finished()["endless"]

    assert (line["outcome"], line["attempts"]) == ("fail", 1)
    assert "TIMEOUT" in line["message"] and "runtime" in line["message"]


def test_failures_name_a_log_that_exists(ended):
    study, output, _ = ended

    for name in ("mixed 2", "cancelled", "spent", "endless"):
        line = study.finished()[name]
        assert line["log"] in output
        assert study.folder.joinpath(line["log"]).read_text()
