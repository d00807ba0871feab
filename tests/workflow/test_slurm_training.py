"""Trainings on a real Slurm that lose their place again and again, and end as if nothing had happened."""

import random
import re
import subprocess
import sys

import numpy as np
import pytest
from cluster import wait_for
from disturbed import kill_inside_a_checkpoint, metrics, paced_study, training_alone, wait_attempt
from driver import Driver
from safetensors.numpy import load_file
from snakemake_executor_plugin_submitit.records.attempts import Attempts

from mixar.study.layout import Layout
from mixar.training.metrics import RESUMED, STARTED

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]
PACE = ("--submitit-poll-min-seconds", "1", "--submitit-poll-max-seconds", "2", "--latency-wait", "5")


def snakemake(root, running, folder, study_file, layout, *options) -> Driver:
    """The command of a user that trains run `mix`, from a folder of its own."""
    environment = running.environment | {"PYTHONPATH": str(folder)}
    where = ("--snakefile", root / "workflow" / "Snakefile", "--profile", root / "slurm", "--configfile", study_file)
    chosen = ("--allowed-rules", "train", "--set-threads", "train=1", *options)
    return Driver(folder, environment, layout.weights("mix", 0), *where, *PACE, *chosen)


def weights(layout: Layout) -> dict[str, np.ndarray]:
    return load_file(layout.weights("mix", 0))


def watch(folder, study_file) -> str:
    command = [sys.executable, "-m", "mixar", "watch", str(study_file), "--once"]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=True).stdout


@pytest.fixture
def alone(tmp_path):
    """A function that starts the undisturbed training; what runs at the end of the test is killed."""
    started = []

    def start(processes, **hardware):
        process, layout = training_alone(tmp_path / "alone", processes, **hardware)
        started.append(process)
        return process, layout

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_four_processes_on_two_nodes_survive_preemptions_and_the_death_of_their_writer(root, running, alone, tmp_path):
    process, undisturbed = alone(4, nodes=2)
    file, layout = paced_study(tmp_path, nodes=2)
    rng = random.Random(0)
    driver = snakemake(root, running, tmp_path, file, layout, "--set-resources", "train:gpus_per_node=2")
    try:
        for attempt, disturbance in enumerate(["preempted", "killed", "preempted", "preempted"], start=1):
            wait_attempt(layout, attempt, steps=rng.randrange(25))
            if disturbance == "killed":
                half_written = kill_inside_a_checkpoint(layout)
            else:
                running.wait_state(running.occupy(), "RUNNING", "COMPLETED", seconds=120)
        wait_attempt(layout, 5, steps=1)
        shown = watch(tmp_path, file)
        (tmp_path / "released").touch()
        code = driver.wait()
    finally:
        driver.kill()
        running.clear()

    assert code == 0, driver.output
    begun = [event["step"] for event in metrics(layout).events if event["event"] in (STARTED, RESUMED)]
    assert len(begun) == 5 and 0 < begun[2] < int(half_written.stem[-8:]), "the dead writer's file is not continued"
    assert not half_written.exists()
    assert re.search(r"^ mix +0 +training \(job \d+\) +\d+\.\d\d/200 .* gpu1 +4 *$", shown, re.M), shown
    assert process.wait(300) == 0, (tmp_path / "alone" / "output.txt").read_text()
    assert_same_but_for_rounding(weights(layout), weights(undisturbed))


def assert_same_but_for_rounding(found, expected):
    """DDP rearranges gradients after the first step of each attempt, and gloo's sums over four processes then round
    otherwise. Attention ignores the keys' bias: its gradient is rounding alone, which Adam scales up."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        rows = np.ones(len(value), bool)
        if name.endswith("qkv.bias"):
            rows[len(value) // 3 : 2 * len(value) // 3] = False
        np.testing.assert_allclose(found[name][rows], value[rows], rtol=0, atol=5e-5, err_msg=name)


def test_a_training_that_reaches_the_sites_max_runtime_resumes_and_equals_an_undisturbed_one(
    root, running, alone, tmp_path
):
    process, undisturbed = alone(1)
    file, layout = paced_study(tmp_path)
    (tmp_path / "site.yaml").write_text("max_runtime: 60\n")
    driver = snakemake(root, running, tmp_path, file, layout, "--submitit-site", tmp_path / "site.yaml")
    try:
        wait_attempt(layout, 1, steps=5)
        (job,) = running.queue()
        limit = running.job(job)["TimeLimit"]
        let_its_time_be_over_soon(running, job)
        wait_for(lambda: running.job(job)["Restarts"] == "1", "the job was requeued", 600)
        running.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
        wait_attempt(layout, 2, steps=1)
        (tmp_path / "released").touch()
        code = driver.wait()
    finally:
        driver.kill()
        running.clear()

    assert code == 0, driver.output
    assert limit == "01:00:00"  # the rule asks for two days
    (record,) = (tmp_path / ".snakemake" / "submitit" / "attempts").iterdir()
    ends = [attempt.ended_by for attempt in Attempts(record.parents[1], record.name).all()]
    assert ends == ["time limit", "finished"]
    assert process.wait(300) == 0, (tmp_path / "alone" / "output.txt").read_text()
    found, expected = weights(layout), weights(undisturbed)
    assert found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in expected)


def let_its_time_be_over_soon(cluster, job):
    """Leave a running job one to two minutes: less than the notice that it asked for."""
    hours, minutes, _ = map(int, cluster.job(job)["RunTime"].split(":"))
    cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + 2}")
