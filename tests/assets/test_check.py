"""External files: where they are expected, what a message about a missing one says, and how damage shows."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from asset_server import serve
from verbs import mixar, mixar_process

from mixar.assets.check import damage, describe, facts, locate, resolve, state_of
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


# The command


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


def test_mixar_check_names_the_statistics_of_the_protocol(root):
    study = root / "config" / "imagenet256.yaml"
    result = mixar("check", "--study", study, "--elsewhere", "--files-later")

    assert "missing: scoring.protocol adm256-gfid = asset:adm-statistics, looked for at" in result.stdout
    assert "mixar assets get adm-statistics" in result.stdout and "licence" in result.stdout
