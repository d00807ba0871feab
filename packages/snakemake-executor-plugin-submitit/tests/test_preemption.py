"""Jobs that lose their place: plain, in an array, over two nodes, with and without an early notice from Slurm."""

import pytest

from driver import Study

pytestmark = pytest.mark.slurm

SNAKEFILE = """
rule all:
    input: "plain.txt", "array-a.txt", "array-b.txt", "wide.txt", "final.txt"

rule plain:
    output: "plain.txt"
    resources: gpus_per_node=1, runtime=30
    shell: "bash count.sh plain 1 go && touch {output}"

rule array:
    output: "array-{name}.txt"
    resources: gpus_per_node=1, runtime=30
    shell: "bash count.sh {wildcards.name} 1 go && touch {output}"

rule wide:
    output: "wide.txt"
    resources: nodes=2, gpus_per_node=1, runtime=30
    shell: "srun --ntasks-per-node=1 --cpus-per-task=1 bash -c 'bash count.sh wide$SLURM_NODEID 1 go' && touch {output}"

rule final:  # a partition that cancels what it preempts, and requeues nothing
    output: "final.txt"
    resources: partition="final", runtime=30
    shell: "bash count.sh final 1 go && touch {output}"
"""
KINDS = {"plain": ["plain"], "array element": ["a", "b"], "two nodes": ["wide0", "wide1"], "cancelled": ["final"]}
NAMES = {"plain": ["plain"], "array element": ["array a", "array b"], "two nodes": ["wide"], "cancelled": ["final"]}


# How the first attempt ends where Slurm says nothing before the end of the grace. Only srun's tasks hear of it earlier.
ENDS_WITHOUT_SIGNAL = {"two nodes": "preempted"}


def preempt_all(cluster, folder):
    """All kinds of jobs run, a job of higher priority takes every GPU, and the run still finishes."""
    study = Study(cluster, folder, SNAKEFILE)
    driver = study.start()
    counters = [name for names in KINDS.values() for name in names]
    study.wait_counted(*counters)
    cluster.wait_state(cluster.occupy(), "RUNNING", "COMPLETED", seconds=120)
    study.touch("go")
    code = driver.wait()
    assert code == 0, driver.output
    return study


@pytest.fixture(scope="module", params=[True, False], ids=["signal on", "signal off"])
def preempted(request, running, tmp_path_factory):
    running.restart_controller(user_signal=request.param)
    try:
        yield preempt_all(running, tmp_path_factory.mktemp("preempted"))
    finally:
        running.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_preempted_job_saves_its_state_and_resumes(preempted, kind):
    for name in KINDS[kind]:
        first, saved, second, end = preempted.journal(name)

        assert first == "start 0"
        assert saved.startswith("saved ") and int(saved.split()[1]) > 0
        assert second == saved.replace("saved", "start")
        assert end == "end"


@pytest.mark.parametrize("kind", KINDS)
def test_both_attempts_are_counted_with_their_gpu_seconds(preempted, kind):
    for name in NAMES[kind]:
        line = preempted.finished()[name]

        assert (line["outcome"], line["attempts"], line["interruptions"]) == ("done", 2, 1)
        assert 0 < line["gpu_seconds_interrupted"] < line["gpu_seconds"] or name == "final"  # which has no GPU


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_requeues_itself_if_it_hears_of_its_preemption_in_time(preempted, kind):
    heard = preempted.cluster.settings.user_signal

    first = "preempted" if heard else ENDS_WITHOUT_SIGNAL.get(kind, "terminated")

    for name in NAMES[kind]:
        assert preempted.ends(name) == [first, "finished"]
