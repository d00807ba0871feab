"""`mixar assets`: the list, the facts of an asset, checks and downloads."""

import re
from pathlib import Path

import pytest
from asset_server import serve
from verbs import mixar, mixar_process

from mixar.assets.check import describe, facts
from mixar.assets.table import ASSETS


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path))
    return tmp_path


def test_show_prints_the_facts_that_a_stage_prints_that_misses_the_asset():
    shown = mixar("assets", "show", "adm-statistics").stdout

    for label, text in facts(ASSETS["adm-statistics"]).items():
        assert f"  {label:<14}{text}\n" in shown
        assert f"  {label:<14}{text}" in describe(ASSETS["adm-statistics"])
    assert "mixar assets get adm-statistics" in shown


def test_check_names_the_damaged_file_and_ends_in_code_2():
    ASSETS["vavae-f16d32-statistics"].path.write_bytes(b"x" * 1788)

    result = mixar("assets", "check")

    assert result.returncode == 2
    assert "expected sha256 fb96ba21" in result.stderr
    assert "mixar assets get vavae-f16d32-statistics" in result.stderr


def test_the_list_says_that_a_file_has_the_wrong_size():
    ASSETS["vavae-f16d32-statistics"].path.write_bytes(b"x" * 1787)

    listed = mixar("assets").stdout

    assert re.search(r"^vavae-f16d32-statistics +damaged ", listed, re.MULTILINE)
    assert "vavae-f16d32-statistics: expected 1,788 bytes, found 1,787" in listed


def test_check_says_which_files_it_cannot_judge():
    ASSETS["dinov2-vitl14"].path.write_bytes(b"x")

    assert mixar("assets", "check").stdout == "dinov2-vitl14: there; its hash is not known\n"


def test_get_downloads_what_it_can_and_names_the_rest(empty_folder):
    content = b"generator" * 1000
    with serve(content) as site:
        site.headers = {"X-Repo-Commit": "0" * 40}
        environment = {"HF_ENDPOINT": site.address, "NO_PROXY": "127.0.0.1", "HF_HOME": str(empty_folder / "hub")}
        result = mixar_process("assets", "get", "kl16", "imagenet-train", "maskbit-generator-14bit", **environment)

    assert result.returncode == 2
    assert "asset 'kl16' could not be downloaded from 127.0.0.1" in result.stderr
    assert "asset 'imagenet-train' cannot be downloaded automatically" in result.stderr
    assert "Traceback" not in result.stderr
    path = ASSETS["maskbit-generator-14bit"].path
    assert f"maskbit-generator-14bit: downloaded to {path}" in result.stdout
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get", "klsixteen"], "'klsixteen': no such asset; choose from vavae-f16d32"),
        (["get"], "give the names of assets, or --study FILE"),
        (["check", "kl16"], "missing; mixar assets get kl16"),
    ],
)
def test_wrong_names_end_in_one_message(arguments, said):
    result = mixar("assets", *arguments)

    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
