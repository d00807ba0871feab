"""The test cluster itself, shown with plain Slurm commands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import Cluster, processes, require, wait_for
from cluster_files import is_free

pytestmark = pytest.mark.slurm


def test_without_slurm_a_test_is_skipped(monkeypatch):
    monkeypatch.delenv("REQUIRE_SLURM", raising=False)

    with pytest.raises(pytest.skip.Exception, match="there is no munged"):
        require(path="")


def test_without_slurm_a_test_fails_where_slurm_is_required(monkeypatch):
    monkeypatch.setenv("REQUIRE_SLURM", "1")

    with pytest.raises(pytest.fail.Exception, match="REQUIRE_SLURM=1, but there is no munged"):
        require(path="")


def test_a_job_gets_the_gpus_it_asked_for(cluster):
    job = cluster.submit("echo gpus=$CUDA_VISIBLE_DEVICES", "--gpus-per-node=fake:2")

    cluster.wait_state(job, "COMPLETED")

    assert "gpus=0,1\n" in cluster.output(job)


def test_a_job_over_two_nodes_reaches_both_with_srun(cluster):
    script = "srun --ntasks-per-node=1 bash -c 'echo $SLURM_NODEID $SLURMD_NODENAME'"

    job = cluster.submit(script, "--nodes=2", "--gpus-per-node=1")
    cluster.wait_state(job, "COMPLETED")

    assert sorted(cluster.output(job).split("\n")[:2]) == ["0 gpu1", "1 gpu2"]


def test_accounting_remembers_every_attempt(cluster_with_accounting):
    cluster = cluster_with_accounting
    job = cluster.submit('echo start; [ "$SLURM_RESTART_COUNT" ] || sleep 300', "--requeue")
    wait_for(lambda: "start" in cluster.output(job), "the job began")

    cluster.call("scontrol", "requeue", job)
    cluster.wait_state(job, "COMPLETED")

    columns = ("-j", job, "-X", "-n", "-P", "-o", "State")
    wait_for(lambda: "COMPLETED" in cluster.call("sacct", *columns), "accounting knows the end")
    assert cluster.call("sacct", *columns, "--duplicates").split() == ["REQUEUED", "COMPLETED"]


def test_two_clusters_run_side_by_side(cluster):
    with Cluster() as other:
        jobs = [each.submit("echo $SLURM_CONF") for each in (cluster, other)]
        for each, job in zip((cluster, other), jobs, strict=True):
            each.wait_state(job, "COMPLETED")
            assert each.output(job).strip() == str(each.folder / "etc" / "slurm.conf")


def test_nothing_is_left_of_a_closed_cluster(running):
    with Cluster() as cluster:
        job = cluster.submit("setsid bash -c 'trap \"\" TERM; echo start; exec sleep 300'")
        wait_for(lambda: "start" in cluster.output(job), "the job began")

    assert not cluster.folder.exists()
    assert is_free(cluster.ports.controller)
    assert not processes(cluster.folder)


def test_nothing_is_left_of_a_session_that_was_killed(running):
    code = "import time; from cluster import Cluster\nwith Cluster() as c: print(c.folder, flush=True); time.sleep(300)"
    session = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent / "support", stdout=subprocess.PIPE, text=True
    )
    folder = session.stdout.readline().strip()

    session.kill()
    session.wait()

    wait_for(lambda: not processes(folder), "the daemons ended with the session")
    shutil.rmtree(folder)
