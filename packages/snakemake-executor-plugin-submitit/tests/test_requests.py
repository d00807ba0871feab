"""What jobs ask for and leave behind, on a real Slurm: what only it can refuse, hold and clean up."""

from pathlib import Path

import pytest

from driver import Study

pytestmark = pytest.mark.slurm

SNAKEFILE = """
rule all:
    input: "asked.txt", "stale.txt", "big.txt"
    localrule: True

rule asked:
    output: "asked.txt"
    resources:
        runtime=5,
        mem_mb=0,
        gres="gpu:fake:1",
        tasks=2,
        slurm_extra="'--nice=5 --export=ALL,TOLD=yes'",
    shell:
        "setsid env -i bash -c 'echo $$ > daemon; exec sleep 600' & until [ -s daemon ]; do sleep 0.1; done; "
        "echo $SLURM_NTASKS $TOLD gpus=$CUDA_VISIBLE_DEVICES > {output}"

rule stale:
    input: "source"
    output: "stale.txt"
    resources: runtime=5, slurm_extra="--hold"
    shell: "cp {input} {output}"

rule big:
    output: "big.txt"
    threads: 999
    resources: runtime=5
    shell: "touch {output}"
"""


def test_requests_are_met_or_explained_and_nothing_old_or_running_is_left(cluster, tmp_path):
    study = Study(cluster, tmp_path, SNAKEFILE)
    (tmp_path / "stale.txt").write_text("old")
    (tmp_path / "source").write_text("new")

    driver = study.start("--max-threads", "999")
    study.wait(lambda: "asked" in study.finished(), "the good job has ended")
    study.wait(lambda: "may never start: JobHeldUser. It is held" in driver.output, "the held job is explained")
    study.wait(lambda: "big: Slurm job" in driver.output, "the big job is explained")
    (tmp_path / "source").unlink()
    cluster.call("scontrol", "release", *study.slurm_ids("stale"))
    study.wait(lambda: "stale" in study.finished(), "the job without its input has ended")
    cluster.call("scancel", *study.slurm_ids("big"))

    assert driver.wait() == 1
    assert (tmp_path / "asked.txt").read_text() == "2 yes gpus=0\n"
    assert not Path("/proc", (tmp_path / "daemon").read_text().strip()).exists()
    assert driver.output.count("may never start: PartitionConfig. No node of its partition has what it asks for") == 1
    assert study.finished()["stale"]["outcome"] == "fail"
    folder = tmp_path / ".snakemake" / "submitit"
    assert [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077] == []
    assert f"Inputs are missing on the node: {tmp_path / 'source'}." in driver.output
