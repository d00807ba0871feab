"""Jobs of other shapes than one process on one node: arrays within the cluster's limits, and several nodes."""

from collections import defaultdict

import pytest

from driver import Study

pytestmark = pytest.mark.slurm

SNAKEFILE = """
import sys

rule all:
    input: expand("limited-{i}.txt", i=range(5)), "wide-a.txt", "wide-b.txt", "ranks.txt", "gpus.txt"

rule limited:
    output: "limited-{i}.txt"
    shell: "bash count.sh limited{wildcards.i} 1 go && touch {output}"

rule wide:
    output: "wide-{name}.txt"
    resources: nodes=2, gpus_per_node=1, max_timeouts=1
    shell:
        "srun --ntasks-per-node=1 --cpus-per-task=1 bash -c "
        "'bash count.sh {wildcards.name}$SLURM_NODEID 1 go' && touch {output}"

rule ranks:  # torchrun has a --run-path
    output: "ranks.txt"
    threads: 2
    resources: nodes=2, gpus_per_node=2
    shell:
        f"{sys.executable} -m snakemake_executor_plugin_submitit.node.launch --nproc-per-node 2 ranks --run x"
        " && sort journal-of-ranks > {output}"

rule gpus:
    output: "gpus.txt"
    resources: gpu=2
    shell: "echo $CUDA_VISIBLE_DEVICES >> journal-of-gpus && cp journal-of-gpus {output}"
"""
RANKS = """
import os
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor(dist.get_rank() + 1)
dist.all_reduce(total)
with open("journal-of-ranks", "a") as f:
    f.write(f"{dist.get_rank()} {os.environ['SLURMD_NODENAME']} {total}\\n")
dist.destroy_process_group()
"""
LIMITED = [f"limited{i}" for i in range(5)]


@pytest.fixture(scope="module")
def ended(running, tmp_path_factory):
    """A run with all shapes: its study, the ids of the element that was told to stop, what waited and why."""
    running.restart_controller(max_array_size=3)
    study = Study(running, tmp_path_factory.mktemp("shapes"), SNAKEFILE)
    (study.folder / "ranks.py").write_text(RANKS)
    try:
        driver = study.start("--submitit-array-parallelism", "2")
        study.wait_counted("a0", "a1", "b0", "b1")
        study.wait(lambda: sum((study.folder / f"{name}.counted").exists() for name in LIMITED) == 4, "four counted")
        waiting = running.call("squeue", "-h", "-r", "-t", "PENDING", "--name=limited", "-o", "%i %r").split()
        told = element_with_the_id_of_its_array(study, "wide")
        running.call("scancel", "--signal=USR2", "--batch", told)
        study.wait(lambda: running.job(told)["Restarts"] == "1", "the element was requeued")
        study.touch("go")
        assert driver.wait() == 0, driver.output
        yield study, told, waiting
    finally:
        running.clear()


def element_with_the_id_of_its_array(study, name):
    """The element whose SLURM_JOB_ID names the whole array, so that a careless command reaches all of it."""
    lines = study.cluster.call("squeue", "-h", "-r", "-o", "%j %i %A %F").splitlines()
    (job,) = (job for n, job, own, array in map(str.split, lines) if n == name and own == array)
    return job


def test_an_array_is_cut_where_the_cluster_takes_no_longer_one(ended):
    study, *_ = ended

    indices = defaultdict(list)
    for i in range(5):
        array, _, index = study.finished()[f"limited {i}"]["job"].partition("_")
        indices[array].append(index)

    assert list(indices.values()) == [["0", "1", "2"], ["0", "1"]]


def test_no_more_elements_run_at_once_than_allowed(ended):
    study, _, waiting = ended

    arrays = defaultdict(list)
    for i in range(5):
        arrays[study.finished()[f"limited {i}"]["job"].partition("_")[0]].append(f"limited{i}")

    assert [most_at_once(study, names) for names in arrays.values()] == [2, 2]
    assert waiting == [study.finished()["limited 2"]["job"], "JobArrayTaskLimit"]


def most_at_once(study, names):
    running = most = 0
    for name, event, *_ in map(str.split, study.journal()):
        if name in names:
            running += {"start": 1, "end": -1}[event]
            most = max(most, running)
    return most


def test_a_notice_to_one_element_over_two_nodes_leaves_the_other_alone(ended):
    study, told, _ = ended
    first, second = sorted("ab", key=lambda name: study.finished()[f"wide {name}"]["job"] != told)

    assert study.ends(f"wide {first}") == ["time limit", "finished"]
    assert study.ends(f"wide {second}") == ["finished"]
    for node in range(2):
        start, saved, again, end = study.journal(f"{first}{node}")
        assert (start, again, end) == ("start 0", saved.replace("saved", "start"), "end")
        assert study.journal(f"{second}{node}") == ["start 0", "end"]


def test_the_launcher_starts_processes_on_both_nodes_that_find_each_other(ended):
    study, *_ = ended

    lines = (study.folder / "ranks.txt").read_text().splitlines()

    total = 1 + 2 + 3 + 4
    assert lines == [f"{rank} {node} {total}" for rank, node in enumerate(["gpu1", "gpu1", "gpu2", "gpu2"])]


def test_a_job_with_two_gpus_starts_once_and_sees_both(ended):
    study = ended[0]

    assert len((study.folder / "gpus.txt").read_text().splitlines()) == 1
    assert len((study.folder / "gpus.txt").read_text().split(",")) == 2
