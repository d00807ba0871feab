"""What failed jobs printed: the end of it on the terminal, and what it says about memory."""

import logging
import os

import pytest
from snakemake.logging import show_logs

from snakemake_executor_plugin_submitit.driver.tails import OnlyTails
from snakemake_executor_plugin_submitit.node.printed import meaning, tail
from stand_in import Job, Study

SNAKEMAKES_WORD = "CalledProcessError in file Snakefile, line 4:\nCommand 'set -euo pipefail; kill -9 $$' "


@pytest.mark.parametrize(
    "text, word",
    [
        (f"{SNAKEMAKES_WORD}died with <Signals.SIGKILL: 9>.", "was killed, often for using more memory"),
        (f"{SNAKEMAKES_WORD}returned non-zero exit status 137.", "was killed"),
        ("/bin/bash: line 1:   123 Killed                  python train.py", "was killed"),
        ("  exitcode  : -9 (pid: 1234)", "was killed"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch", "was killed"),
        ("MemoryError: Unable to allocate 2.0 GiB", "Out of memory"),
        ("OSError: [Errno 12] Cannot allocate memory", "Out of memory"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "Its GPU ran out of memory"),
        (f"{SNAKEMAKES_WORD}returned non-zero exit status 1.", ""),
    ],
)
def test_signs_of_too_little_memory_are_explained(text, word):
    assert word in meaning(text)
    assert bool(meaning(text)) == bool(word)


def record(**more):
    return logging.makeLogRecord({"msg": "Error in rule a", "levelno": logging.ERROR, **more})


def test_of_a_long_log_the_end_is_shown(tmp_path):
    long, short = tmp_path / "long.log", tmp_path / "short.log"
    long.write_text("x" * 200_000 + "\nthe end")
    short.write_text("short")
    error = record(log=[str(long), str(short), str(tmp_path / "none.log")])

    assert OnlyTails(tmp_path / "ends").filter(error)

    shown = "\n".join(show_logs(error.log))
    assert f"[the last 16 KiB of {long}, 0.2 MB]" in shown
    assert "the end\n" in shown
    assert "short" in shown
    assert len(shown) < 20_000
    assert error.log[1:] == [str(short), str(tmp_path / "none.log")]


def test_the_logs_of_a_group_and_of_namesakes_are_cut_each(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log").write_bytes(b"\xff" * 50_000 + name.encode())
    error = record(aux_logs=[str(tmp_path / "a/log")], job_error_info=[{"log": [str(tmp_path / "b/log")]}])

    OnlyTails(tmp_path / "ends").filter(error)

    ends = [*error.aux_logs, *error.job_error_info[0]["log"]]
    assert [tail(path, 1) for path in ends] == ["a", "b"]
    assert all(os.stat(path).st_size < 60_000 for path in ends)


def test_where_logs_are_not_shown_their_own_paths_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("test")
    for shows_logs in (False, True):
        study = Study(tmp_path, [Job("train")], shows_logs=shows_logs)
        before = list(logger.filters)
        driver = study.driver()
        added = [each for each in logger.filters if each not in before]
        driver.cancel()
        logger.filters = before
        assert [type(each) for each in added] == [OnlyTails] * shows_logs
