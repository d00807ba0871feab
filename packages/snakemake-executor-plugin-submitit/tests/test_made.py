"""A job's success: its outputs are new, whatever their times say, and its inputs were there."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.node.outputs import fault_of_success, look, missing_inputs

LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def folder(tmp_path):
    """With outputs of an earlier run."""
    (tmp_path / "tree" / "branch").mkdir(parents=True)
    for name in ("out", "linked", "tree/branch/leaf"):
        (tmp_path / name).write_text("old")
    (tmp_path / "link").symlink_to("linked")
    return tmp_path


def fault(folder, action, *outputs, passing=(), inputs=(), **changes):
    """The fault of a command that does this and exits with 0. changes: fields of the state before."""
    outputs, passing, inputs = ([str(folder / name) for name in names] for names in (outputs, passing, inputs))
    time.sleep(0.02)  # file systems count change times in ticks
    before = replace(look([*outputs, *passing], inputs, folder / "registry"), **changes)
    action()
    return fault_of_success(before, outputs, passing, seconds=0)


def nothing():
    pass


@pytest.mark.parametrize("name", ["out", "link", "tree", "never/there"])
def test_an_output_that_was_not_made_is_named(folder, name):
    assert fault(folder, nothing, name) == f"The command ended with exit code 0, but did not make {folder / name}."


def test_of_several_outputs_each_must_be_new(folder):
    assert str(folder / "linked") in fault(folder, (folder / "out").touch, "out", "linked")


def unpack(folder):
    """As from an archive, with a time of long ago."""
    (folder / "out").unlink()
    (folder / "out").write_text("new")
    os.utime(folder / "out", LONG_AGO)


def move(folder):
    (folder / "draft").write_text("new")
    os.utime(folder / "draft", LONG_AGO)
    (folder / "draft").rename(folder / "out")


def link_hard(folder):
    os.utime(folder / "linked", LONG_AGO)
    (folder / "out").unlink()
    os.link(folder / "linked", folder / "out")


@pytest.mark.parametrize("make", [unpack, move, link_hard, lambda folder: (folder / "out").touch()])
def test_an_output_is_new_by_its_change_time(folder, make):
    assert fault(folder, lambda: make(folder), "out") == ""


def test_a_link_is_new_with_itself_or_with_its_file(folder):
    assert fault(folder, lambda: (folder / "linked").write_text("new"), "link") == ""

    def relink():
        (folder / "link").unlink()
        (folder / "link").symlink_to("linked")

    assert fault(folder, relink, "link") == ""


@pytest.mark.parametrize("name", ["tree/branch/leaf", "tree/branch/second", "tree/second"])
def test_a_folder_is_new_with_anything_in_it(folder, name):
    assert fault(folder, lambda: (folder / name).write_text("new"), "tree") == ""


def test_an_output_that_nobody_needs_may_be_removed_but_not_old(folder):
    assert "did not make" in fault(folder, (folder / "linked").touch, "linked", passing=["out"])
    assert (
        fault(folder, lambda: [(folder / "linked").touch(), (folder / "out").unlink()], "linked", passing=["out"]) == ""
    )


def test_missing_inputs_are_named_before_old_outputs(folder):
    assert fault(folder, nothing, "out", inputs=["in", "linked"]).startswith(
        f"Inputs are missing on the node: {folder / 'in'}. "
    )
    assert "Inputs are missing" in fault(folder, nothing, inputs=["in"])


def test_a_job_may_use_up_its_inputs_and_inputs_may_be_late(folder):
    assert fault(folder, (folder / "out").unlink, inputs=["out"]) == ""
    before = look([], [str(folder / "late")], folder / "registry")
    (folder / "late").touch()

    assert missing_inputs(before) == ""


def test_many_paths_are_counted(folder):
    assert fault(folder, nothing, *(f"out{i}" for i in range(9))).endswith("out4 and 4 more.")


def test_where_no_mark_can_be_set_a_changed_change_time_counts(folder):
    assert "did not make" in fault(folder, nothing, "out", marks={})
    assert fault(folder, (folder / "out").touch, "out", marks={}) == ""


# The inputs go after Snakemake has seen them, as they do while a job is queued.
SNAKEFILE = """
onstart: shell("rm -f gone; touch -d '2001-01-01' gone.txt")

rule all:
    input: "gone.txt", "kinds.txt"
    localrule: True

rule gone:
    input: "gone"
    output: "gone.txt"
    shell: "cp {input} {output}"

rule first:
    output: "plain", touch("touched"), temp("needed"), temp("unneeded"), directory("tree"), ensure("f", non_empty=True)
    group: "both"
    shell: "for i in plain needed unneeded f; do echo {wildcards} > $i; done; mkdir -p tree/a; echo > tree/a/b"

rule second:
    input: "plain", "touched", "needed", "tree", "f", pipe="piped"
    output: "kinds.txt"
    group: "both"
    shell: "cat {input.pipe} > {output}"

rule piping:
    output: pipe("piped")
    group: "both"
    shell: "echo hello > {output}"
"""


@pytest.mark.workflow
def test_a_run_tells_missing_inputs_and_takes_every_kind_of_output(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "gone.txt").write_text("old")
    (tmp_path / "gone").write_text("new")
    words = (
        "-k -j 3 --cores 3 --latency-wait 2 --executor submitit --submitit-cluster local --submitit-poll-max-seconds 1"
    )

    result = subprocess.run(
        [str(Path(sys.executable).parent / "snakemake"), *words.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )

    assert result.returncode == 1
    assert "gone, Slurm job" in result.stderr
    assert f"Inputs are missing on the node: {tmp_path / 'gone'}. Make them again" in result.stderr
    assert (tmp_path / "kinds.txt").read_text() == "hello\n", result.stderr
