"""The table of external files: complete rows, and where their files are looked for."""

import json
import re
import shlex

import pytest

from mixar.assets import table
from mixar.assets.table import ASSETS, PREFIX, Address, Hub
from mixar.scoring.protocols import PROTOCOLS
from mixar.study.presets import PRESETS


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path))
    return tmp_path


def test_every_row_says_what_it_is_under_what_licence_and_where_it_comes_from():
    for name, asset in ASSETS.items():
        assert asset.name == name
        assert all([asset.file_name, asset.what, asset.licence, asset.source])


def test_every_hash_has_its_length_and_every_way_leads_to_the_files_own_name():
    for asset in ASSETS.values():
        assert re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", asset.sha256 or "0" * 64), asset.name
        assert re.fullmatch("[0-9a-f]{40}", asset.git_blob or "0" * 40), asset.name
        if isinstance(asset.way, Hub):
            assert asset.way.file == asset.path.name
            assert asset.way.revision == "main" or re.fullmatch("[0-9a-f]{40}", asset.way.revision), asset.name
        if isinstance(asset.way, Address):
            assert asset.way.url.startswith("https://")


def test_no_two_assets_share_a_file():
    assert len({asset.file_name for asset in ASSETS.values()}) == len(ASSETS)


def test_every_asset_that_a_preset_names_is_in_the_table():
    text = json.dumps(PRESETS)

    names = re.findall(r'"asset:([^"]+)"', text)

    assert len(names) >= 10
    assert set(names) <= set(ASSETS)


def test_the_command_without_mixar_writes_to_the_place_where_the_asset_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path / "with space"))

    for name, target in (("kl16", "with space"), ("mar-l", "with space/mar_large/checkpoint-last.pth")):
        assert str(tmp_path / target) in shlex.split(ASSETS[name].command)


def test_assets_are_looked_for_in_the_users_cache_unless_a_folder_is_set(monkeypatch, tmp_path):
    assert table.folder() == tmp_path

    monkeypatch.delenv("MIXAR_ASSETS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    assert table.folder() == tmp_path / "cache" / "mixar" / "assets"

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIXAR_ASSETS", "~/x")

    assert table.folder() == tmp_path / "x"

    monkeypatch.setenv("MIXAR_ASSETS", "$HOME/y")

    assert table.folder() == tmp_path / "y"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("~nobody-of-this-name/y", "no home folder of ~nobody-of-this-name is known"),
        ("$NOT_SET_ANYWHERE/y", r"\$NOT_SET_ANYWHERE is not set here"),
        (" ", "is empty"),
    ],
)
def test_a_folder_of_assets_that_nobody_can_find_is_refused(monkeypatch, value, said):
    monkeypatch.setenv("MIXAR_ASSETS", value)

    with pytest.raises(ValueError, match=f"MIXAR_ASSETS: {said}.*; found"):
        table.folder()


def test_protocols_and_assets_agree_on_who_needs_what():
    needed = {(name, p.statistics.removeprefix(PREFIX)) for name, p in PROTOCOLS.items() if p.statistics}

    assert {(protocol, name) for name, asset in ASSETS.items() for protocol in asset.protocols} == needed
