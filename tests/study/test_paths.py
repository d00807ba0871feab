"""Paths in a study: `~` and variables are filled in or refused, whatever the key, and digests know one spelling."""

import os
from pathlib import Path

import pytest

from mixar.assets.check import locate, resolve
from mixar.study import external
from mixar.study.digests import Digests
from mixar.study.errors import SpecError
from mixar.study.load import load_study, parse_study

KEYS = [
    ("data", "path"),
    ("data", "held_out_path"),
    ("continuous", "weights"),
    ("continuous", "statistics"),
    ("discrete", "weights"),
    ("generator", "weights"),
    ("runs", "mar", "start"),
    ("runs", "mar", "weights"),
    ("scoring", "extractor", "weights"),
    ("scoring", "further", "vgg16"),
    ("scoring", "further_statistics", "vgg16"),
    ("hardware", "results"),
]


def with_path(content, keys, text):
    content["scoring"]["further"] = {"vgg16": "vgg16.pth"}
    section = content
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    section[keys[-1]] = text
    return content


def value_of(study, keys):
    for key in keys:
        study = study[key] if isinstance(study, dict) else getattr(study, key)
    return study


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NOWHERE", raising=False)


@pytest.mark.parametrize("keys", KEYS, ids=".".join)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/a b", "/home/me/a b"),
        ("~", "/home/me"),
        ("$SCRATCH/x", "/scratch/me/x"),
        ("${SCRATCH}x/y", "/scratch/mex/y"),
        ("a/$SCRATCH", "a/scratch/me"),
        ("./a//b/", "a/b"),
        ("cost$$5", "cost$5"),
        ("./~a", "./~a"),
        ("a~b", "a~b"),
        ("asset:vgg16", "asset:vgg16"),
    ],
)
def test_every_path_of_a_study_has_its_home_and_variables_filled_in(smoke, keys, text, expected):
    study = parse_study(with_path(smoke, keys, text))

    assert value_of(study, keys) == expected
    assert parse_study(study.model_dump(mode="json")) == study


@pytest.mark.parametrize("keys", KEYS, ids=".".join)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$NOWHERE/x", "$NOWHERE is not set here; set it, write the path out, or write $$"),
        ("${NOWHERE}", "$NOWHERE is not set here"),
        ("~nobody_of_this_name/x", "no home folder of ~nobody_of_this_name is known"),
        ("cost$5", "a $ that begins no variable; write $$ for a dollar sign"),
        ("", "is empty"),
    ],
)
def test_what_cannot_be_filled_in_is_refused_with_the_key(smoke, keys, text, said):
    with pytest.raises(SpecError) as caught:
        parse_study(with_path(smoke, keys, text))

    assert f"{'.'.join(keys)}: {said}" in str(caught.value)
    assert str(caught.value).count("\n") == 1


def test_a_variable_in_braces_and_the_seed_go_together(smoke):
    smoke["runs"]["dc_mix"]["start"] = "${SCRATCH}/mar-{seed}.safetensors"

    named = external.references(parse_study(smoke))

    assert named["runs.dc_mix.start (seed 1)"] == "/scratch/me/mar-1.safetensors"


def test_digests_know_one_spelling_of_a_place(smoke, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = set()
    absolute = str(tmp_path / "a" / "b.parquet")
    for text in ("a/b.parquet", "./a/b.parquet", "~/a/b.parquet", "a/../a/b.parquet", absolute):
        smoke["data"]["path"] = smoke["runs"]["mar"]["start"] = text
        digests = Digests(parse_study(smoke))
        found.add((digests.ingest(), digests.train("mar", 0), digests.measure("mar")))

    assert len(found) == 1
    smoke["data"]["path"] = "a/c.parquet"
    assert Digests(parse_study(smoke)).ingest() not in {each[0] for each in found}


def test_a_file_that_comes_with_mixar_is_found_from_any_folder(root, tmp_path, monkeypatch):
    study = load_study(root / "config" / "demo.yaml")
    monkeypatch.chdir(tmp_path)
    assert not external.missing(study)
    assert resolve(study.data.path) == root / study.data.path

    (tmp_path / "resources").mkdir()
    (tmp_path / study.data.path).touch()  # a file in the working directory comes first
    assert locate(study.data.path) == Path(study.data.path)


def test_a_missing_file_is_named_with_the_folder_in_which_it_was_looked_for(smoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smoke["runs"]["mar"]["start"] = "nowhere.safetensors"

    lines = external.missing_in_words(external.missing(parse_study(smoke)))

    place = os.path.join(os.getcwd(), "nowhere.safetensors")
    assert lines == [f"missing: runs.mar.start (seed 0) = nowhere.safetensors, looked for at {place}"]
