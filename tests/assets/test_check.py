"""External files: where they are expected, what a message about a missing one says, and how damage shows."""

import hashlib
import re
from dataclasses import replace

import pytest
from verbs import mixar

from mixar.assets.check import damage, locate, resolve, state_of
from mixar.assets.table import ASSETS


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path))
    return tmp_path


def test_a_missing_asset_is_refused_with_its_path_source_licence_size_and_hash(tmp_path):
    with pytest.raises(ValueError) as caught:
        resolve("asset:inception")

    message = str(caught.value)
    asset = ASSETS["inception"]
    for part in (str(tmp_path / asset.file_name), asset.source, asset.licence, "95,628,359 bytes", asset.sha256):
        assert part in message


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no such asset; choose from vavae-f16d32"):
        locate("asset:vavae")


def test_a_plain_path_is_itself_or_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    with pytest.raises(ValueError, match="no such file or folder"):
        resolve(str(file))

    file.touch()

    assert resolve(str(file)) == file


def test_the_beginning_of_a_hash_is_compared_where_no_more_is_known():
    asset = replace(ASSETS["vgg16"], sha256=hashlib.sha256(b"weights").hexdigest()[:8])
    asset.path.write_bytes(b"weights")
    assert damage(asset) is None

    asset.path.write_bytes(b"weighty")
    assert re.match("expected sha256 [0-9a-f]{8}…, found [0-9a-f]{64}$", damage(asset))
    assert ASSETS["vgg16"].sha256 and ASSETS["vgg16"].sha256 in ASSETS["vgg16"].file_name


@pytest.mark.parametrize(("num_bytes", "fits"), [(990, True), (1010, True), (989, False), (1011, False)])
def test_a_size_that_its_source_rounds_is_right_to_one_percent(num_bytes, fits):
    asset = replace(ASSETS["mar-h"], about_bytes=1000)
    asset.path.parent.mkdir()
    asset.path.write_bytes(bytes(num_bytes))

    assert damage(asset) == (None if fits else f"expected about 1,000 bytes, found {num_bytes:,}")
    assert state_of(asset)[0] == ("there" if fits else "damaged")


def test_a_git_blob_hash_is_what_git_computes():
    asset = replace(ASSETS["adm-statistics"], git_blob="ce013625030ba8dba906f756967f9e9ca394464a")
    asset.path.write_bytes(b"hello\n")  # the blob of `echo hello | git hash-object --stdin`

    assert damage(asset) is None
    asset.path.write_bytes(b"hallo\n")
    assert "expected git blob" in damage(asset)


# States


SMALL = ASSETS["vavae-f16d32-statistics"]  # 1,788 bytes


def test_a_stage_checks_the_size_and_the_command_also_the_hash(empty_folder):
    SMALL.path.write_bytes(b"x" * SMALL.num_bytes)

    assert state_of(SMALL) == ("there", "")
    assert resolve(f"asset:{SMALL.name}") == SMALL.path
    assert "expected sha256" in damage(SMALL)
    assert list(empty_folder.iterdir()) == [SMALL.path]


def test_a_wrong_size_shows_at_once():
    SMALL.path.write_bytes(b"cont")

    assert state_of(SMALL) == ("damaged", "expected 1,788 bytes, found 4")
    said = f"{SMALL.path.name}: expected 1,788 bytes, found 4; get it again: mixar assets get {SMALL.name}"
    with pytest.raises(ValueError, match=said):
        resolve(f"asset:{SMALL.name}")


def test_a_folder_of_classes_is_damaged_until_all_are_there():
    asset = replace(ASSETS["imagenet-val"], num_folders=2)
    asset.path.mkdir(parents=True)
    (asset.path / "n01440764").mkdir()
    for service in (".hidden", "lost+found", "@eaDir", "__MACOSX"):
        (asset.path / service).mkdir()

    assert state_of(asset) == ("damaged", "expected 2 class folders, found 1")
    (asset.path / "n01443537").mkdir()
    assert state_of(asset) == ("there", "")
    assert damage(asset) is None


def test_mixar_check_names_the_statistics_of_the_protocol(root):
    study = root / "config" / "imagenet256.yaml"
    result = mixar("check", "--study", study, "--elsewhere", "--files-later")

    assert "missing: scoring.protocol adm256-gfid = asset:adm-statistics, looked for at" in result.stdout
    assert "mixar assets get adm-statistics" in result.stdout and "licence" in result.stdout
