"""A whole run without any Slurm: jobs as processes of this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import wait_for
from driver import PACE, PROFILE, Driver
from snakemake_executor_plugin_submitit.driver.backends import LocalBackend
from snakemake_executor_plugin_submitit.node.command import JobCommand
from snakemake_executor_plugin_submitit.parameters import to_parameters

pytestmark = pytest.mark.workflow

SNAKEFILE = """
rule all:
    input: "good.txt", "bad.txt"
    localrule: True

rule good:
    output: "good.txt"
    resources: runtime=5
    shell: "echo made > {output}"

rule bad:
    output: "bad.txt"
    resources: runtime=5
    shell: "echo because >&2; touch began; sleep {config[seconds]}; exit 3"
"""


def words(cluster, seconds):
    snakemake = str(Path(sys.executable).parent / "snakemake")
    options = f"-k -j 2 --executor submitit --submitit-cluster {cluster} --submitit-poll-max-seconds 1 --config"
    return [snakemake, *options.split(), f"seconds={seconds}"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    return tmp_path


def lines(folder):
    text = (folder / ".snakemake" / "submitit" / "finished.jsonl").read_text()
    return {line["name"]: line for line in map(json.loads, text.splitlines())}


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_jobs_run_and_fail_without_slurm(folder, cluster):
    result = subprocess.run(words(cluster, 0), cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    assert result.returncode == 1
    assert (folder / "good.txt").read_text() == "made\n"
    assert {name: line["outcome"] for name, line in lines(folder).items()} == {"good": "done", "bad": "fail"}
    log = Path(lines(folder)["bad"]["log"])
    assert "logs/bad/" in str(log)
    assert str(log) in result.stderr
    assert "because" in (log.read_text() if cluster == "local" else result.stderr)


ASKING = """
rule all:
    input: "cpu.txt", "gpu.txt"
    localrule: True

rule cpu:
    output: "cpu.txt"
    resources: runtime=5, mem_mb=100, constraint="big"
    shell: "echo made > {output}"

rule gpu:
    output: "gpu.txt"
    threads: 8
    resources: runtime=5, gpus_per_node=1, partition="gpu"
    shell: "echo made > {output}"
"""
SITE = """
partition: gpu
cpu_partition: cpu
account: vision
gpu_type: a100
setup: [module load cuda]
extra: --mail-type=FAIL
"""


@pytest.fixture
def no_slurm(tmp_path):
    """An environment in which no client of Slurm is found."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bash").symlink_to(shutil.which("bash"))
    return os.environ | {"PATH": str(tmp_path / "bin")}


@pytest.mark.parametrize("cluster", ["local", "debug"])
@pytest.mark.parametrize("site", [(), ("--submitit-site", "own.yaml")], ids=["the profile's site", "a site of its own"])
def test_the_committed_profile_runs_without_slurm(tmp_path, no_slurm, cluster, site):
    (tmp_path / "Snakefile").write_text(ASKING)
    (tmp_path / "own.yaml").write_text(SITE)

    driver = Driver(tmp_path, no_slurm, *PROFILE, *PACE, "--submitit-cluster", cluster, *site)

    assert driver.wait(120) == 0, driver.output
    assert [(tmp_path / name).read_text() for name in ("cpu.txt", "gpu.txt")] == ["made\n"] * 2
    assert {name: line["outcome"] for name, line in lines(tmp_path).items()} == {"cpu": "done", "gpu": "done"}


def test_ctrl_c_ends_every_process(folder):
    driver = subprocess.Popen(
        words("local", 600),
        cwd=folder,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for((folder / "began").exists, "the job runs", 60)
    assert running_in(folder)

    driver.send_signal(signal.SIGINT)

    assert driver.wait(30) == 1
    wait_for(lambda: not running_in(folder), "every process is gone", 20)


PARAMS = """
rule all:
    input: "made.txt"
    localrule: True

rule make:
    output: "made.txt"
    params: text=config["text"]
    shell: "touch began; until [ -e go ]; do sleep 0.1; done; echo {params.text} | tee -a journal > {output}"
"""


@pytest.fixture
def killed(tmp_path):
    """A folder in which a job ended well after its driver was killed."""
    (tmp_path / "Snakefile").write_text(PARAMS)
    driver = subprocess.Popen(again("first"), cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "began").exists, "the job runs", 60)
    driver.kill()
    driver.wait()
    (tmp_path / "go").touch()
    wait_for(lambda: "finished" in records(tmp_path), "the job ends", 60)
    return tmp_path


def again(text, *options):
    rest = f"--nolock --rerun-incomplete --rerun-triggers mtime params --config text={text}"
    return [*words("local", 0)[:-2], *options, *rest.split()]


def records(folder):
    return "".join(path.read_text() for path in (folder / ".snakemake/submitit/attempts").rglob("*.json"))


@pytest.mark.parametrize(
    "text, options, journal", [("second", (), ["first", "second"]), ("first", ("-F",), ["first", "first"])]
)
def test_what_finished_after_its_driver_was_killed_is_made_again_where_that_is_wanted(killed, text, options, journal):
    for _ in range(2):  # the second time there is nothing to do
        result = subprocess.run(again(text, *options), cwd=killed, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        options = ()

    assert "Nothing to be done" in result.stderr
    assert (killed / "journal").read_text().split() == journal
    assert (killed / "made.txt").read_text().strip() == text
    finished = (killed / ".snakemake/submitit/finished.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in finished] == ["done"] * len(journal)


def test_tasks_do_not_start_a_job_several_times(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backend, parameters = LocalBackend(), to_parameters({"tasks": 3}, 1)
    command = JobCommand("echo began >> journal; exit 1", "sample 0", "key", "sub", str(tmp_path), [])

    (job,) = backend.submit([command], parameters, tmp_path / "runs")

    wait_for(lambda: job in backend.query([job]).unknown, "the job ends", 60)
    assert (tmp_path / "journal").read_text() == "began\n"


def running_in(folder):
    """Processes other than this one whose folder it is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(folder):
                found.append(entry.name)
        except OSError:
            continue
    return found


FOLDER = """
rule make:
    output: "folder/made.txt"
    shell: "touch began; until [ -e go ]; do sleep 0.1; done; touch {output}"
"""


def test_a_detached_job_keeps_its_empty_folder(tmp_path):
    (tmp_path / "Snakefile").write_text(FOLDER)
    words = ["--executor", "submitit", "--submitit-cluster", "local", "-j", "1", "--rerun-incomplete"]
    try:
        first = Driver(tmp_path, os.environ, *words, *PACE, "--submitit-detach")
        wait_for((tmp_path / "began").exists, "the job runs", 60)
        first.process.send_signal(signal.SIGINT)
        assert first.wait(60) == 1
        second = Driver(tmp_path, os.environ, *words, *PACE)
        wait_for(lambda: "taken over" in second.output or second.process.poll() is not None, "it is taken over", 60)
    finally:
        (tmp_path / "go").touch()

    assert second.wait(120) == 0, second.output
    assert "taken over" in second.output


SETS = """
rule all:
    input: "made.txt"
    localrule: True

rule make:
    input: ancient("old"), "touched"
    output: "made.txt"
    params: names={"a", "b", "c", "d"}, deep=[{"names": {"e", "f", "g", "h"}}]
    shell: "echo start >> journal; until [ -e go ]; do sleep 0.1; done; cat old > {output}"
"""


def test_a_job_is_taken_over_though_times_and_the_order_of_a_set_differ(tmp_path):
    (tmp_path / "Snakefile").write_text(SETS)
    for name in ("old", "touched"):
        (tmp_path / name).write_text("the same\n")
        os.utime(tmp_path / name, (1000, 1000))
    words = ["--executor", "submitit", "--submitit-cluster", "local", "-j", "1", "--rerun-incomplete", "--nolock"]
    first = Driver(tmp_path, os.environ | {"PYTHONHASHSEED": "1"}, *words, *PACE)
    try:
        wait_for((tmp_path / "journal").exists, "the job runs", 60)
        first.process.kill()  # and nothing of its jobs
        first.process.wait()
        for name in ("old", "touched"):
            os.utime(tmp_path / name)
        second = Driver(tmp_path, os.environ | {"PYTHONHASHSEED": "2"}, *words, *PACE)
        wait_for(lambda: "taken over" in second.output or second.process.poll() is not None, "it is taken over", 60)
    finally:
        (tmp_path / "go").touch()

    assert second.wait(120) == 0, second.output
    assert (tmp_path / "journal").read_text() == "start\n"


GROUP = """
rule all:
    input: "first.txt", "second.txt"
    localrule: True

rule first:
    output: "first.txt"
    group: "both"
    shell: "echo first >> journal; touch {output}"

rule second:
    input: INPUT
    output: "second.txt"
    group: "both"
    shell: "echo second >> journal; until [ -e go ]; do sleep 0.1; done; touch {output}"
"""


@pytest.mark.parametrize("needed", ["", "first.txt"], ids=["independent", "chained"])
def test_a_group_that_is_partly_done_is_taken_over(tmp_path, needed):
    (tmp_path / "Snakefile").write_text(GROUP.replace("INPUT", f'"{needed}"' if needed else "[]"))
    words = ["--executor", "submitit", "--submitit-cluster", "local", "-j", "2", "--cores", "2"]
    words += ["--group-components", "both=2", "--rerun-incomplete", "--nolock"]
    first = Driver(tmp_path, os.environ, *words, *PACE)
    try:
        wait_for(lambda: is_partly_done(tmp_path), "the first job is done and the second one runs", 120)
        first.process.kill()  # and nothing of its jobs
        first.process.wait()
        second = Driver(tmp_path, os.environ, *words, *PACE)
        wait_for(lambda: "taken over" in second.output or second.process.poll() is not None, "it is taken over", 60)
    finally:
        (tmp_path / "go").touch()

    assert second.wait(120) == 0, second.output
    assert sorted((tmp_path / "journal").read_text().split()) == ["first", "second"]
    third = Driver(tmp_path, os.environ, *words, *PACE)
    assert third.wait(60) == 0
    assert "Nothing to be done" in third.output


def is_partly_done(folder):
    journal = folder / "journal"
    is_begun = journal.exists() and "second" in journal.read_text()
    return is_begun and len(list((folder / ".snakemake" / "incomplete").iterdir())) == 1
