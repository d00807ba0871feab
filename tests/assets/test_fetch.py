"""Downloads against a server on this machine: what arrives is checked, breaks are retried, failures say what to do."""

import errno
import fcntl
import hashlib
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from asset_server import serve

from mixar.assets import fetch, table
from mixar.assets.check import damage
from mixar.assets.table import Address, Asset, ByHand, Hub

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site():
    with serve(CONTENT) as found:
        yield found


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # pooch waits for seconds before it tries again
    return tmp_path / "assets"


def host(site):
    return site.address.removeprefix("http://")


@pytest.fixture
def asset(site):
    known = {"num_bytes": len(CONTENT), "sha256": SHA256}
    return Asset("thing", "some/thing.pt", "a test", "none", "this test", Address(f"{site.address}/thing.pt"), **known)


def leftovers(asset):
    return {p.name for p in asset.path.parent.iterdir()} - {asset.path.name}


def failure(asset):
    with pytest.raises(ValueError) as caught:
        fetch.get(asset)
    assert not asset.path.exists()
    return str(caught.value)


def test_a_file_arrives_whole_is_checked_and_is_not_downloaded_again(asset, site):
    progress = []

    assert fetch.get(asset, lambda *numbers: progress.append(numbers))
    assert asset.path.read_bytes() == CONTENT
    assert damage(asset) is None
    assert leftovers(asset) == set()
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert len(progress) > 3

    assert not fetch.get(asset)
    assert len(site.seen) == 1


def test_a_damaged_file_is_replaced(asset):
    asset.path.parent.mkdir(parents=True)
    asset.path.write_bytes(CONTENT[:-1] + b"?")

    assert fetch.get(asset)

    assert asset.path.read_bytes() == CONTENT


def test_redirects_are_followed(asset, site):
    site.redirects = {"/thing.pt": "/elsewhere"}

    fetch.get(asset)

    assert asset.path.read_bytes() == CONTENT
    assert [path for path, _ in site.seen] == ["/thing.pt", "/elsewhere"]


def test_a_cut_connection_is_tried_again(asset, site):
    site.cuts = [1_000_000]

    fetch.get(asset)

    assert asset.path.read_bytes() == CONTENT
    assert len(site.seen) == 2
    assert leftovers(asset) == set()


def test_a_connection_that_stays_cut_names_the_command_that_continues(asset, site):
    site.cuts = [1_000_000, 2_000_000, 3_000_000]

    message = failure(asset)

    assert message.startswith(f"asset 'thing' could not be downloaded from {host(site)}: no connection (")
    assert f"which can resume: curl -L -C - --create-dirs -o {asset.path} {asset.way.url}" in message
    assert not list(asset.path.parent.rglob("tmp*"))


def test_what_a_killed_process_left_is_removed(asset):
    staging = asset.path.with_name(".thing.pt.download")
    staging.mkdir(parents=True)
    (staging / "tmpabcdef").write_bytes(b"a beginning")

    fetch.get(asset)

    assert leftovers(asset) == set()


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_command_without_mixar_continues_what_broke_off(asset, site):
    asset.path.parent.mkdir(parents=True)
    asset.path.write_bytes(CONTENT[:1_000_000])

    subprocess.run(shlex.split(asset.command), check=True, capture_output=True)

    assert asset.path.read_bytes() == CONTENT
    assert site.seen == [("/thing.pt", "bytes=1000000-")]


def test_a_large_download_that_cannot_continue_is_announced_with_a_command_that_can(asset, capsys):
    fetch.get(asset)
    assert capsys.readouterr().out == ""
    asset.path.unlink()

    failure(replace(asset, num_bytes=fetch.LARGE))  # the file offered is smaller, but the announcement comes first

    assert (
        capsys.readouterr().out
        == f"thing: an interrupted download restarts from zero; this command resumes it: {asset.command}\n"
    )


def test_wrong_content_is_refused_and_not_asked_for_again(asset, site):
    site.content = b"x" * len(CONTENT)

    assert f"it sent a different file: expected sha256 {SHA256}" in failure(asset)
    assert len(site.seen) == 1
    site.content = CONTENT
    assert fetch.get(asset)


@pytest.mark.parametrize("known", [{}, {"num_bytes": None, "about_bytes": 2 * len(CONTENT)}])
def test_another_size_is_refused_before_a_byte_is_stored(asset, site, known):
    site.content = CONTENT[:-1]

    assert re.search(
        "it offers a different file: expected (about )?[0-9,]+ bytes, found 5,119,999", failure(replace(asset, **known))
    )
    assert len(site.seen) == 1
    assert [p.name for p in asset.path.parent.rglob("*") if p.is_file()] == ["lock"]


def test_a_size_near_the_rounded_one_is_accepted(asset):
    assert fetch.get(replace(asset, num_bytes=None, about_bytes=int(len(CONTENT) * 1.005)))


@pytest.mark.parametrize(
    ("status", "said"), [(404, "it has no such file"), (403, "access is refused"), (503, "it cannot serve the file")]
)
def test_a_refusal_says_what_to_copy_where(asset, site, status, said):
    site.status = status

    message = failure(asset)

    assert message.startswith(f"asset 'thing' could not be downloaded from {host(site)}: {said} (HTTP {status})")
    for part in (asset.way.url, str(asset.path), SHA256, "mixar assets check thing"):
        assert part in message


def test_no_connection_is_one_message(asset):
    unused = replace(asset, way=Address("http://127.0.0.1:1/thing.pt"))

    assert "could not be downloaded from 127.0.0.1:1: no connection (" in failure(unused)


def test_a_full_disk_is_named(asset):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        assert "the disk is full (File too large); free some space" in failure(asset)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_made_is_named(asset, site, here):
    here.write_text("a file instead of the folder")

    with pytest.raises(ValueError, match=r"assets/some\S* cannot be written \(Not a directory\)"):
        fetch.get(asset)
    assert site.seen == []


def test_a_folder_that_cannot_exist_is_no_missing_connection(asset, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", "/proc/none")

    with pytest.raises(ValueError, match=r"/proc/none\S* cannot be written \(No such file or directory\)"):
        fetch.get(asset)


def test_a_file_that_does_not_fit_is_refused_beforehand(asset, site, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))

    assert "5,120,000 bytes needed" in failure(asset)


def test_a_second_download_of_the_same_asset_is_refused(asset, site):
    staging = asset.path.with_name(".thing.pt.download")
    staging.mkdir(parents=True)
    with open(staging / "lock", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        assert "another process is downloading it" in failure(asset)

    assert site.seen == []
    assert fetch.get(asset)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_does_not_stop_a_download(asset, site, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, "")

    monkeypatch.setattr(fcntl, "flock", flock)

    assert fetch.get(asset)


def test_a_folder_is_left_to_a_person():
    folder = Asset("images", "images", "", "", "", ByHand("put them into {folder}/images"), num_folders=1)

    start = f"asset 'images' cannot be downloaded automatically: put them into {table.folder()}/images"
    assert failure(folder).startswith(start)


def test_the_workflow_waits_for_no_client():
    heavy = "{'huggingface_hub', 'pooch', 'requests', 'torch'}"
    code = f"import sys; from mixar.assets import check, fetch; print({heavy} & set(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert found == "set()\n"


# Hugging Face: the real client against the two requests it makes, HEAD and GET of .../resolve/...

COMMIT = "0123456789" * 4


@pytest.fixture
def hub(site, monkeypatch, tmp_path):
    """A site that answers as the Hub does, and a client that speaks to it."""
    from huggingface_hub import constants  # here: the other tests need not wait for it

    site.headers = {"X-Repo-Commit": COMMIT}
    template = site.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setenv("HF_ENDPOINT", site.address)
    monkeypatch.setattr(constants, "ENDPOINT", site.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return site


@pytest.fixture
def model():
    return Asset("model", "model.pt", "a test", "none", "this test", Hub("some/model", "model.pt"))


def downloaded(hub):
    """Paths that were downloaded, without the client's own requests to the Hub."""
    return [path for path, _ in hub.seen if not path.startswith("/api/")]


def test_a_file_of_the_hub_arrives_and_is_checked_with_the_hash_that_the_hub_announces(hub, model):
    assert fetch.get(model)

    assert model.path.read_bytes() == CONTENT
    assert downloaded(hub) == ["/some/model/resolve/main/model.pt"]
    assert leftovers(model) == set()
    assert not fetch.get(model)


def test_what_the_hub_sends_must_be_what_it_announced(hub, model):
    hub.content = b"x" * len(CONTENT)

    message = failure(model)

    assert "could not be downloaded from 127.0.0.1" in message
    assert f"it sent a different file: expected sha256 {SHA256}" in message


def test_another_file_on_the_hub_is_refused_before_it_is_downloaded(hub, model):
    other = Asset(model.name, model.file_name, "", "", "", model.way, sha256="0" * 64)

    assert f"it offers a different file: expected sha256 {'0' * 64}, found {SHA256}" in failure(other)
    assert downloaded(hub) == []


def test_a_missing_file_of_the_hub_is_said_with_what_to_copy_where(hub, model):
    hub.status = 404

    message = failure(model)

    assert "it has no such file (HTTP 404)" in message
    assert f"hf download some/model model.pt --revision main --local-dir {model.path.parent}" in message


def test_no_connection_to_the_hub_is_said(model, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert "no connection (" in failure(model)
