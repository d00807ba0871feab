"""What counts as a change of a job that an earlier driver submitted, by Snakemake's rerun triggers."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.driver.jobs import describe
from snakemake_executor_plugin_submitit.records.fingerprint import Fingerprint, is_newer, state_of, text_of
from stand_in import Job, Study

ALL = ("MTIME", "PARAMS", "INPUT", "SOFTWARE_ENV", "CODE")
BEFORE = Fingerprint("/project", "train", "p", "i", "c", "s", files={"data": [1000, ""]})


@pytest.mark.parametrize(
    "trigger, change, name",
    [
        ("PARAMS", {"params": "q"}, "params"),
        ("INPUT", {"inputs": "j"}, "inputs"),
        ("CODE", {"code": "d"}, "code"),
        ("SOFTWARE_ENV", {"software": "t"}, "software"),
        ("MTIME", {"files": {"data": [2000, ""]}}, "data"),
    ],
)
def test_a_change_counts_under_its_own_trigger(trigger, change, name):
    now = replace(BEFORE, **change)

    assert not BEFORE.changes(BEFORE, ALL, since=1500)
    assert BEFORE.changes(now, [trigger], since=1500) == [name]
    assert not BEFORE.changes(now, set(ALL) - {trigger}, since=1500)


@pytest.mark.parametrize("change", [{"directory": "/other"}, {"rule": "train2"}])
def test_a_job_of_another_folder_or_rule_is_another_job_whatever_the_triggers(change):
    assert BEFORE.changes(replace(BEFORE, **change), (), since=1500)


@pytest.mark.parametrize(
    "before, now, expected",
    [
        ([1000, "a"], [1000, "a"], False),
        ([1000, "a"], [2000, "a"], False),  # only touched
        ([1000, "a"], [2000, "b"], True),
        ([1000, ""], [2000, ""], True),  # too large for checksums
        ([1000, "a"], [None, ""], False),  # it is made again before the job starts
        ([None, ""], [2000, "a"], True),
        (None, [1000, ""], False),  # no input at that time, but older than the job
        (None, [2000, ""], True),
    ],
)
def test_an_input_counts_where_its_content_may_have_changed(before, now, expected):
    assert is_newer(before, now, since=1500) == expected


def test_the_state_of_a_file_is_its_time_and_where_it_is_small_its_checksum(tmp_path):
    small, large, folder, pipe = (tmp_path / name for name in ("small", "large", "folder", "pipe"))
    small.write_text("1")
    large.write_text("22")
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (small, large, pipe):
        os.utime(path, (1000, 1000))

    assert state_of(str(small), 1)[0] == 1000 and len(state_of(str(small), 1)[1]) == 64
    assert state_of(str(large), 1) == [1000, ""]
    assert state_of(str(pipe), 10) == [1000, ""]
    assert state_of(str(folder), 1) == [None, ""]
    assert state_of(str(tmp_path / "missing"), 1) == [None, ""]


def test_a_folder_made_by_a_rule_has_the_time_that_snakemake_gave_it(tmp_path):
    stamp = tmp_path / ".snakemake_timestamp"
    stamp.touch()
    os.utime(stamp, (1000, 1000))

    assert state_of(str(tmp_path), 1) == [1000, ""]


def test_a_set_has_the_same_text_in_every_process():
    code = (
        "from snakemake_executor_plugin_submitit.records.fingerprint import text_of\n"
        "value = [{'x': set('abcdef')}, frozenset('uvwxyz'), {k: 1 for k in set('klmno')}]\n"
        "print(text_of(value, repr), value, sep='|')"
    )
    texts = [
        subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, text=True)
        for seed in ("1", "2")
    ]

    ours, pythons = zip(*(text.split("|") for text in texts), strict=True)
    assert ours[0] == ours[1]
    assert pythons[0] != pythons[1]


def test_texts_tell_values_apart():
    values = [
        {"a", "b"},
        {"a"},
        ["a", "b"],
        ["b", "a"],
        {"a": "b"},
        "a",
        1,
        "1",
        None,
        True,
        Path("a/b"),
        set(),
        [],
        {},
    ]

    assert len({text_of(value, repr) for value in values}) == len(values)


def test_an_object_that_snakemake_does_not_compare_is_not_compared():
    def serialize(value):
        return object if isinstance(value, Thing) else repr(value)

    class Thing:
        pass

    assert text_of(Thing(), serialize) == text_of(Thing(), serialize)
    assert text_of([Thing(), 1], serialize) != text_of([Thing(), 2], serialize)


@pytest.fixture
def described(tmp_path, monkeypatch):
    """A function that describes a job again, as the next driver would."""
    monkeypatch.chdir(tmp_path)
    workflow = Study(tmp_path, []).driver().workflow

    def fingerprint(**changes):
        job = Job("train", "mar", params=changes.pop("params", {}))
        for name, value in changes.items():
            setattr(job.rule if hasattr(job.rule, name) else job, name, value)
        (found,) = describe(job, workflow).parts.values()
        return found

    return fingerprint


class Ancient(str):
    is_ancient = True


def test_an_ancient_input_counts_by_its_name_alone(described):
    Path("data").write_text("1")
    before = described(input=[Ancient("data")])
    Path("data").write_text("2")
    os.utime("data", (2_000_000_000, 2_000_000_000))

    assert not before.changes(described(input=[Ancient("data")]), ALL, since=0)
    assert before.changes(described(input=[Ancient("other")]), ALL, since=0)


def test_inputs_params_and_code_are_compared_without_their_order(described):
    for name in "ab":
        Path(name).write_text(name)
    before = described(input=["a", "b"], params={"n": 1, "names": {"x", "y"}}, shellcmd="train {params}")

    same = described(input=["b", "a"], params={"names": {"y", "x"}, "n": 1}, shellcmd="train {params}")
    assert not before.changes(same, ALL, since=0)
    for change in ({"input": ["a"]}, {"params": {"n": 2, "names": {"x", "y"}}}, {"shellcmd": "train"}):
        now = {"input": ["a", "b"], "params": {"n": 1, "names": {"x", "y"}}, "shellcmd": "train {params}"} | change
        assert before.changes(described(**now), ALL, since=0)


def test_the_text_of_a_script_is_code(described):
    class Source(str):
        def get_path_or_uri(self, secret_free):
            return str(self)

    Path("script.py").write_text("1")
    before = described(script="script.py", _path_to_source_file=Source)
    os.utime("script.py", (2_000_000_000, 2_000_000_000))
    assert not before.changes(described(script="script.py", _path_to_source_file=Source), ALL, since=0)

    Path("script.py").write_text("2")
    assert before.changes(described(script="script.py", _path_to_source_file=Source), ALL, since=0)
