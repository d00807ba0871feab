"""The executor's folder is the user's alone: others can neither read it nor put a pickle there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.node.start import check_pickle
from snakemake_executor_plugin_submitit.records.files import append_line, private_folder, try_lock, write_json
from stand_in import Job, Study


@pytest.fixture(params=[0o022, 0o002, 0o000], autouse=True)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return path.stat().st_mode & 0o777


def test_a_new_folder_and_its_files_are_private(tmp_path):
    folder = tmp_path / "above" / "submitit"

    private_folder(folder)
    write_json(folder / "jobs" / "a.json", {})
    append_line(folder / "finished.jsonl", {})
    try_lock(folder / "lock").close()

    assert mode(folder) == 0o700
    assert [mode(path) for path in folder.rglob("*") if path.is_file()] == [0o600] * 3


def test_a_folder_that_others_could_only_read_becomes_private(tmp_path):
    tmp_path.chmod(0o755)

    private_folder(tmp_path)

    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize("others", [0o755, 0o777])
def test_a_folder_with_other_files_does_not_lose_its_users_nor_is_that_the_advice(tmp_path, others):
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(others)

    with pytest.raises(ValueError, match="others can use it .*, and it holds other files, such as thesis.tex; give"):
        private_folder(tmp_path)

    assert mode(tmp_path) == others


@pytest.mark.parametrize("wrong", [0o775, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "submitit").mkdir()
    (tmp_path / "submitit").chmod(wrong)

    with pytest.raises(
        WorkflowError, match=rf"submitit: others can write to it \(mode {wrong:04o}\).*--submitit-folder"
    ):
        Study(tmp_path, [Job("train")]).driver()

    assert list((tmp_path / "submitit").iterdir()) == []


def test_a_folder_that_others_own_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)

    with pytest.raises(ValueError, match="belongs to user .* --submitit-folder"):
        private_folder(tmp_path)


def test_a_pickle_of_another_user_is_not_loaded(tmp_path, monkeypatch):
    pickle, owner = tmp_path / "7_submitted.pkl", tmp_path.stat().st_uid
    pickle.touch()
    private_folder(tmp_path)
    check_pickle(tmp_path, pickle)

    real = Path.stat
    other = os.stat_result((0o100644, 1, 1, 1, owner + 1, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda path, **more: other if path == pickle else real(path, **more))

    with pytest.raises(ValueError, match=rf"7_submitted.pkl: belongs to user {owner + 1} and not to you"):
        check_pickle(tmp_path, pickle)


def test_a_pickle_that_others_can_replace_is_not_loaded(tmp_path):
    pickle = tmp_path / "7_submitted.pkl"
    pickle.touch()
    tmp_path.chmod(0o770)

    with pytest.raises(ValueError, match="others can write to it"):
        check_pickle(tmp_path, pickle)


def test_a_pickle_that_does_not_come_is_named(tmp_path):
    with pytest.raises(ValueError, match="7_submitted.pkl: did not appear within 0 s"):
        check_pickle(tmp_path, tmp_path / "7_submitted.pkl", seconds=0)


SNAKEFILE = """
rule all:
    input: "made"
    localrule: True

rule make:
    output: "made"
    log: "make.log"
    shell: "echo {config[password]} > {output}; echo hello > {log}"
"""


@pytest.mark.workflow
@pytest.mark.parametrize("umask", [0o002], indirect=True)
def test_nobody_else_can_read_or_change_what_a_run_leaves_and_its_outputs_keep_their_mask(tmp_path, umask):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    options = "-j 1 --executor submitit --submitit-cluster local --submitit-poll-max-seconds 1 --config password=secret"
    words = [str(Path(sys.executable).parent / "snakemake"), *options.split()]

    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    assert result.returncode == 0, result.stderr
    folder = tmp_path / ".snakemake" / "submitit"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(b"secret" in path.read_bytes() for path in files if path.suffix == ".pkl")
    assert {str(path): oct(mode(path)) for path in files if mode(path) & 0o077} == {}
    assert mode(folder) == 0o700
    assert (mode(tmp_path / "made"), mode(tmp_path / "make.log")) == (0o664, 0o664)
