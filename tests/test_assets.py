"""External files: where they are looked for, what is said of those that miss, and that only intact ones are used."""

import hashlib
import os
from dataclasses import replace

import pytest

from mixar import assets
from mixar.scoring.protocols import PROTOCOLS
from mixar.spec import load_study, parse_study


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def paper(root):
    return load_study(root / "config" / "imagenet256.yaml")


def test_every_row_says_what_it_is_under_what_licence_and_where_it_comes_from():
    for name, asset in assets.ASSETS.items():
        assert asset.name == name
        assert all([asset.file_name, asset.what, asset.licence, asset.source])


def test_assets_are_looked_for_in_the_users_cache_unless_told_otherwise(monkeypatch, tmp_path):
    assert assets.folder() == tmp_path

    monkeypatch.delenv("MIXAR_ASSETS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    assert assets.folder() == tmp_path / "cache" / "mixar" / "assets"


def test_a_missing_asset_is_refused_with_its_path_source_licence_size_and_hash(tmp_path):
    with pytest.raises(ValueError) as caught:
        assets.resolve("asset:inception")

    message = str(caught.value)
    asset = assets.ASSETS["inception"]
    for part in (str(tmp_path / asset.file_name), asset.source, asset.licence, "95,628,359 bytes", asset.sha256):
        assert part in message


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no such asset; choose from vavae-f16d32"):
        assets.locate("asset:vavae")


def test_a_plain_path_is_itself_or_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    with pytest.raises(ValueError, match="no such file or folder"):
        assets.resolve(str(file))

    file.touch()

    assert assets.resolve(str(file)) == file


def test_only_a_file_of_the_known_size_and_hash_is_used(tmp_path, monkeypatch):
    content = b"weights"
    known = replace(
        assets.ASSETS["inception"], num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), git_blob=None
    )
    monkeypatch.setitem(assets.ASSETS, "inception", known)

    known.path.write_bytes(content)
    assert assets.resolve("asset:inception") == known.path

    known.path.write_bytes(b"weighty")
    with pytest.raises(ValueError, match="expected sha256"):
        assets.resolve("asset:inception")

    known.path.write_bytes(b"short")
    with pytest.raises(ValueError, match="expected 7 bytes, found 5"):
        assets.resolve("asset:inception")


def test_a_git_blob_hash_is_what_git_computes():
    asset = replace(assets.ASSETS["adm-statistics"], git_blob="ce013625030ba8dba906f756967f9e9ca394464a")
    asset.path.write_bytes(b"hello\n")  # the blob of `echo hello | git hash-object --stdin`

    assert assets.check(asset) is None
    asset.path.write_bytes(b"hallo\n")
    assert "expected git blob" in assets.check(asset)


def test_the_paper_study_misses_everything_on_an_empty_machine(paper):
    missing = assets.missing(paper)

    assert missing == assets.references(paper)
    assert {"asset:vavae-f16d32", "asset:maskbit-generator-14bit", "asset:inception", "asset:adm-statistics"} <= set(
        missing.values()
    )


def test_what_is_there_is_not_missing(paper):
    os.makedirs(assets.ASSETS["imagenet-train"].path)
    assets.ASSETS["vavae-f16d32"].path.touch()

    missing = assets.missing(paper)

    assert not {"data.path", "continuous.weights"} & set(missing)


def test_start_files_are_named_for_every_seed(smoke):
    smoke["runs"]["dc_mix"]["start"] = "nowhere/dc_mix-{seed}.safetensors"

    missing = assets.missing(parse_study(smoke))

    assert set(missing.values()) == {f"nowhere/dc_mix-{seed}.safetensors" for seed in (0, 1)}


def test_protocols_and_assets_agree_on_who_needs_what():
    needed = {(name, p.statistics.removeprefix(assets.PREFIX)) for name, p in PROTOCOLS.items() if p.statistics}

    assert {(protocol, name) for name, asset in assets.ASSETS.items() for protocol in asset.protocols} == needed
