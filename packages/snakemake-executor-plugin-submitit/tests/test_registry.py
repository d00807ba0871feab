"""What is on disk between two drivers."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from snakemake_executor_plugin_submitit.node.lease import try_lease
from snakemake_executor_plugin_submitit.records.attempts import Attempts, interruptions, timeouts
from snakemake_executor_plugin_submitit.records.files import append_line, mark_incomplete, try_lock, write_json
from snakemake_executor_plugin_submitit.records.fingerprint import Fingerprint
from snakemake_executor_plugin_submitit.records.registry import Driver, Entry, Registry, key_of, remove_old

MADE_FROM = Fingerprint("/project", "train", files={"input": [1000, ""]})
ENTRY = Entry("k1", "train mar 0", {"k1": MADE_FROM}, ticket="t", submission="s", driver="d", job="7_0")


def test_an_entry_is_read_back_by_another_registry(tmp_path):
    Registry(tmp_path).put(ENTRY)

    assert Registry(tmp_path).get("k1") == ENTRY
    assert Registry(tmp_path).all() == [ENTRY]


def test_a_replaced_or_dropped_entry_leaves_nothing_behind(tmp_path):
    registry = Registry(tmp_path)
    registry.put(ENTRY)
    registry.put(replace(ENTRY, job="8"))

    assert registry.get("k1").job == "8"
    registry.drop("k1")
    registry.drop("k1")
    assert registry.get("k1") is None
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", '{"key": "k1"}', '{"unknown": 1}', "[]"])
def test_half_an_entry_counts_as_none(tmp_path, text):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "k1.json").write_text(text)

    assert Registry(tmp_path).get("k1") is None


def test_entries_are_found_by_each_job_of_a_group(tmp_path):
    registry = Registry(tmp_path)
    registry.put(ENTRY)
    assert registry.holders()["k1"] == {"k1"}

    Registry(tmp_path).put(replace(ENTRY, key="g", parts={"k1": MADE_FROM, "k2": MADE_FROM}))

    assert {part: registry.holders()[part] for part in ("k1", "k2")} == {"k1": {"k1", "g"}, "k2": {"g"}}


def test_a_key_follows_the_outputs_and_not_their_order():
    assert key_of(["a", "b"], "x", "/p") == key_of(["b", "a"], "y", "/p")
    assert key_of(["a"], "x", "/p") != key_of(["b"], "x", "/p")
    assert key_of([], "x", "/p") != key_of([], "y", "/p")


def test_projects_that_share_a_registry_have_keys_of_their_own():
    assert key_of(["a"], "x", "/p") != key_of(["a"], "x", "/q")
    assert key_of([], "x", "/p") != key_of([], "x", "/q")
    assert key_of(["/scratch/a"], "x", "/p") == key_of(["/scratch/a"], "x", "/q")  # both would write one file
    assert key_of(["a"], "x", "/p") == key_of(["../p/a"], "x", "/p")


def test_a_driver_refuses_jobs_of_one_that_is_alive(tmp_path):
    first, second = Driver(tmp_path), Driver(tmp_path)
    first.claim(["a", "b"])

    with pytest.raises(ValueError, match=rf"1 of the 2 jobs .* process {os.getpid()} on .*kill -9"):
        second.claim(["b", "c"])


def test_a_driver_claims_more_jobs_but_not_those_of_another_one(tmp_path):
    first, second, third = Driver(tmp_path), Driver(tmp_path), Driver(tmp_path)
    first.claim(["a"])
    second.claim(["b"])

    taken = first.claim_free(["b", "c"])

    assert list(taken) == ["b"]
    assert re.match(rf"already being made by another snakemake: process {os.getpid()} on ", taken["b"])
    assert first.alive() == {second.id}
    with pytest.raises(ValueError, match="1 of the 2 jobs are already being made"):
        third.claim(["c", "d"])
    second.leave()
    assert first.claim_free(["b"]) == {}


@pytest.mark.parametrize("words", ["{", "[]", "null", '{"process": 1}'])
def test_a_driver_whose_words_are_lost_is_alive_all_the_same(tmp_path, words):
    first, second = Driver(tmp_path), Driver(tmp_path)
    first.claim(["a"])
    (tmp_path / "drivers" / f"{first.id}.json").write_text(words)

    assert second.claim(["b"]) == {first.id}


def test_drivers_with_different_jobs_do_not_mind_each_other(tmp_path):
    first, second, third = Driver(tmp_path), Driver(tmp_path), Driver(tmp_path)
    first.claim(["a"])
    second.claim(["b"])
    first.leave()
    third.claim(["a"])

    assert sorted(path.name for path in (tmp_path / "drivers").glob("*.json")) == sorted(
        f"{driver.id}.json" for driver in (second, third)
    )


def test_a_driver_that_left_is_forgotten(tmp_path):
    driver = Driver(tmp_path)
    driver.claim(["a"])
    driver.leave()

    assert [path.name for path in (tmp_path / "drivers").iterdir()] == ["lock"]


def test_a_killed_driver_holds_nothing(tmp_path):
    code = (
        "import os, sys, pathlib; from snakemake_executor_plugin_submitit.records.registry import Driver\n"
        f"Driver(pathlib.Path({str(tmp_path)!r})).claim(['a']); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert list((tmp_path / "drivers").glob("*.json"))

    Driver(tmp_path).claim(["a"])


def test_a_lock_is_held_by_one(tmp_path):
    handle = try_lock(tmp_path / "lock")

    assert try_lock(tmp_path / "lock") is None
    handle.close()
    assert try_lock(tmp_path / "lock") is not None


def test_attempts_are_numbered_over_submissions_and_counted_within_one(tmp_path):
    records = Attempts(tmp_path, "k1")
    records.update(records.begin("old", "1", 4), ended_by="failed", exit_code=1)
    for end in ("preempted", "time limit", ""):
        records.update(records.begin("new", "2", 4), ended_by=end)

    mine = records.of("new")

    assert [a.number for a in records.all()] == [1, 2, 3, 4]
    assert [a.ended_by for a in mine] == ["preempted", "time limit", ""]
    assert (interruptions(mine), timeouts(mine)) == (2, 1)


def test_gpu_seconds_run_to_the_last_sign_of_life(tmp_path):
    records = Attempts(tmp_path, "k1")
    begun = records.begin("s", "1", gpus=4)
    records._write(replace(begun, seen=begun.began + 30))

    assert records.all()[0].gpu_seconds == pytest.approx(120)


def test_lines_are_added_whole(tmp_path):
    append_line(tmp_path / "finished.jsonl", {"a": 1})
    append_line(tmp_path / "finished.jsonl", {"a": 2})

    assert (tmp_path / "finished.jsonl").read_text() == '{"a": 1}\n{"a": 2}\n'


def test_only_what_is_old_and_not_alive_is_removed(tmp_path):
    for name in ("runs/old", "runs/long", "runs/new", "attempts/k1", "attempts/k2"):
        (tmp_path / name).mkdir(parents=True)
    Registry(tmp_path).put(ENTRY)
    log = tmp_path / "logs" / "train" / "9.log"
    log.parent.mkdir(parents=True)
    log.symlink_to(tmp_path / "runs" / "long" / "9_0_log.out")
    Registry(tmp_path).put(replace(ENTRY, key="k2", log=str(log)))  # its record is new: it still runs
    long_ago = time.time() - 40 * 86400
    for name in ("runs/old", "runs/long", "attempts/k1", "jobs/k1.json", "jobs/k2.json"):
        os.utime(tmp_path / name, (long_ago, long_ago))

    remove_old(tmp_path, days=0)
    assert (tmp_path / "runs" / "old").exists()
    remove_old(tmp_path, days=30)

    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["long", "new"]
    assert [p.name for p in (tmp_path / "attempts").iterdir()] == ["k2"]
    assert [entry.key for entry in Registry(tmp_path).all()] == ["k2"]


@pytest.fixture
def full_disk():
    """Files of this process may not grow: the same kind of error as a full disk, which names no file either."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: try_lease(path, "7"),
        lambda path: write_json(path, {}),
        lambda path: append_line(path, {}),
        lambda path: mark_incomplete(path, 0),
    ],
    ids=["a lease", "a record", "a line", "a mark"],
)
def test_what_finds_no_room_on_the_disk_is_named(tmp_path, full_disk, write):
    with pytest.raises(OSError, match="File too large: .*k1"):
        write(tmp_path / "k1")
