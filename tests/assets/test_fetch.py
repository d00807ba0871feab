"""Downloads against a server on this machine: what arrives is checked, what breaks off goes on, what fails is said."""

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from asset_server import serve

from mixar.assets import check as assets
from mixar.assets import fetch as download
from mixar.assets import table
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
    monkeypatch.setattr(download, "PAUSES_S", (0.0, 0.0, 0.0))
    return tmp_path / "assets"


@pytest.fixture
def asset(site):
    known = {"num_bytes": len(CONTENT), "sha256": SHA256}
    return Asset("thing", "some/thing.pt", "a test", "none", "this test", Address(f"{site.address}/thing.pt"), **known)


def without_hash(asset):
    return Asset(asset.name, asset.file_name, asset.what, asset.licence, asset.source, asset.way)


def leftovers(asset):
    return {p.name for p in asset.path.parent.iterdir()} - {asset.path.name, assets.memory_of(asset.path).name}


def failure(asset):
    with pytest.raises(ValueError) as caught:
        download.get(asset)
    assert not asset.path.exists()
    return str(caught.value)


def test_a_file_arrives_whole_is_checked_and_is_not_fetched_again(asset, site):
    progress = []

    assert download.get(asset, lambda *numbers: progress.append(numbers))
    assert asset.path.read_bytes() == CONTENT
    assert assets.state(asset) == ("intact", "")
    assert leftovers(asset) == set()
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)

    assert not download.get(asset)
    assert len(site.seen) == 1


def test_a_damaged_file_is_replaced(asset):
    asset.path.parent.mkdir(parents=True)
    asset.path.write_bytes(CONTENT[:-1] + b"?")

    assert download.get(asset)

    assert asset.path.read_bytes() == CONTENT


def test_redirects_are_followed_with_the_range(asset, site):
    site.redirects = {"/thing.pt": "/elsewhere"}
    site.cuts = [1_000_000]

    download.get(asset)

    assert asset.path.read_bytes() == CONTENT
    assert site.seen == [(p, r) for r in (None, "bytes=1000000-") for p in ("/thing.pt", "/elsewhere")]


def test_a_cut_connection_is_taken_up_where_it_broke(asset, site):
    site.cuts = [1_000_000, 2_000_000]

    download.get(asset)

    assert asset.path.read_bytes() == CONTENT
    assert [asked for _, asked in site.seen] == [None, "bytes=1000000-", "bytes=3000000-"]


def test_a_connection_that_stays_cut_leaves_the_beginning_for_the_next_call(asset, site):
    site.cuts = [1_000_000, *[0] * 3]

    message = failure(asset)
    assert "the connection ended after 1,000,000 of 5,120,000 bytes" in message
    assert f"what has come is kept: {asset.path}.part" in message

    site.seen.clear()
    download.get(asset)
    assert asset.path.read_bytes() == CONTENT
    assert site.seen == [("/thing.pt", "bytes=1000000-")]


@pytest.mark.parametrize("etag", ['"another"', None])
def test_a_file_that_changed_in_between_is_not_glued_to_the_old_one(asset, site, etag):
    site.etag, site.headers = etag, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    site.content, site.cuts = b"x" * len(CONTENT), [1_000_000, *[0] * 3]
    failure(asset)

    site.content, site.headers = CONTENT, {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}
    site.etag = etag and '"newer"'
    download.get(asset)

    assert asset.path.read_bytes() == CONTENT


def test_without_anything_that_names_the_version_a_cut_starts_over(asset, site):
    site.etag, site.cuts = 'W/"weak"', [1_000_000]

    download.get(asset)

    assert asset.path.read_bytes() == CONTENT
    assert [asked for _, asked in site.seen] == [None, None]


def test_a_server_without_ranges_starts_over(asset, site):
    site.knows_ranges, site.cuts = False, [1_000_000]

    download.get(asset)

    assert asset.path.read_bytes() == CONTENT
    assert [asked for _, asked in site.seen] == [None, "bytes=1000000-"]


@pytest.mark.parametrize(("surplus", "asked"), [(b"", ["bytes=5120000-"]), (b"more", ["bytes=5120004-", None])])
def test_a_part_that_is_complete_is_taken_and_one_too_long_is_not(asset, site, surplus, asked):
    download.get(asset)
    part = asset.path.with_name("thing.pt.part")
    os.replace(asset.path, part)
    part.write_bytes(CONTENT + surplus)
    part.with_name(".thing.pt.part.etag").write_text(site.etag)
    site.seen.clear()

    download.get(asset)

    assert asset.path.read_bytes() == CONTENT
    assert [found for _, found in site.seen] == asked


def test_wrong_content_is_set_aside_and_named(asset, site):
    site.content = b"x" * len(CONTENT)

    message = failure(asset)

    assert f"it sent another file: expected sha256 {SHA256}" in message
    assert leftovers(asset) == {"thing.pt.part.bad", ".thing.pt.part.etag"}
    site.content, site.etag = CONTENT, '"mended"'
    assert download.get(asset)


def test_another_size_is_refused_before_a_byte_is_stored(asset, site):
    site.content = CONTENT[:-1]

    assert "expected 5,120,000 bytes, found 5,119,999" in failure(asset)
    assert leftovers(asset) == set()


def test_a_web_page_is_not_taken_for_the_file(asset, site):
    site.headers = {"Content-Type": "text/html; charset=utf-8"}

    assert "it sent a web page instead of the file" in failure(without_hash(asset))


@pytest.mark.parametrize(("status", "said"), [(404, "it has no such file"), (403, "access is refused")])
def test_a_refusal_is_said_at_once_with_what_to_copy_where(asset, site, status, said):
    site.status = status

    message = failure(asset)

    host = site.address.removeprefix("http://")
    assert message.startswith(f"asset 'thing' could not be fetched from {host}: {said} (HTTP {status})")
    for part in (asset.way.url, str(asset.path), SHA256, "mixar assets check thing"):
        assert part in message
    assert len(site.seen) == 1


def test_a_busy_server_is_asked_again(asset, site):
    site.status = 503

    assert "it cannot serve the file (HTTP 503)" in failure(asset)
    assert len(site.seen) == 1 + len(download.PAUSES_S)


def test_no_connection_is_one_message_at_once(asset, site, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda pause: pytest.fail("waits for a connection"))
    unused = Asset("thing", "thing.pt", "a test", "none", "this test", Address("http://127.0.0.1:1/thing.pt"))

    message = failure(unused)

    assert "could not be fetched from 127.0.0.1:1: no connection (" in message
    assert leftovers(unused) == set()


def test_a_full_disk_is_said(asset):
    asset.path.parent.mkdir(parents=True)
    os.symlink("/dev/full", asset.path.with_name("thing.pt.part"))

    assert "the disk is full" in failure(asset)


def test_a_folder_that_cannot_be_made_is_said(asset, site, here):
    here.write_text("a file stands where the folder should")

    with pytest.raises(ValueError, match=r"assets/some cannot be written \(Not a directory\)"):
        download.get(asset)
    assert site.seen == []


def test_a_folder_that_cannot_exist_is_no_missing_connection(asset, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", "/proc/none")

    with pytest.raises(ValueError, match=r"/proc/none(/some)? cannot be written \(No such file or directory\)"):
        download.get(asset)


def test_a_size_far_from_the_rounded_one_is_refused_before_a_byte_is_stored(asset, site):
    unknown = replace(asset, sha256=None, num_bytes=None, about_bytes=len(CONTENT) * 2)

    assert "it offers another file: expected about 10,240,000 bytes, found 5,120,000" in failure(unknown)
    assert download.get(replace(unknown, about_bytes=int(len(CONTENT) * 1.005)))


def test_a_file_that_does_not_fit_is_refused_beforehand(asset, site, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))

    assert "5,120,000 bytes are to come" in failure(asset)
    assert leftovers(asset) == set()


def test_a_second_download_of_the_same_file_is_refused(asset, site):
    asset.path.parent.mkdir(parents=True)
    with open(asset.path.with_name("thing.pt.part"), "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        assert "another process is fetching it" in failure(asset)

    assert site.seen == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_does_not_stop_a_download(asset, site, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, "")

    monkeypatch.setattr(fcntl, "flock", flock)

    assert download.get(asset)


def test_a_folder_is_left_to_a_person():
    folder = Asset("images", "images", "", "", "", ByHand("put them into {folder}/images"), num_folders=1)

    message = failure(folder)

    assert message.startswith(f"asset 'images' needs a person: put them into {table.folder()}/images")


def test_the_workflow_does_not_wait_for_huggingface_hub():
    code = "import sys; from mixar.assets import check, fetch; print({'huggingface_hub', 'torch'} & set(sys.modules))"

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


def requests(hub):
    """Paths that were fetched, without what the client asks the Hub for itself."""
    return [path for path, _ in hub.seen if not path.startswith("/api/")]


def test_a_file_of_the_hub_arrives_and_is_checked_with_the_hash_that_the_hub_announces(hub, model):
    assert download.get(model)

    assert model.path.read_bytes() == CONTENT
    assert requests(hub) == ["/some/model/resolve/main/model.pt"]
    assert leftovers(model) == set()
    assert assets.state(model) == ("intact", "")
    assert not download.get(model)


def test_what_the_hub_sends_must_be_what_it_announced(hub, model):
    hub.content = b"x" * len(CONTENT)

    message = failure(model)

    assert "could not be fetched from 127.0.0.1" in message
    assert f"it sent another file: expected sha256 {SHA256}" in message


def test_another_file_on_the_hub_is_refused_before_it_is_fetched(hub, model):
    other = Asset(model.name, model.file_name, "", "", "", model.way, sha256="0" * 64)

    assert f"it offers another file: expected sha256 {'0' * 64}, found {SHA256}" in failure(other)
    assert requests(hub) == []


def test_a_missing_file_of_the_hub_is_said_with_what_to_copy_where(hub, model):
    hub.status = 404

    message = failure(model)

    assert "it has no such file (HTTP 404)" in message
    assert f"hf download some/model model.pt --revision main --local-dir {model.path.parent}" in message


def test_no_connection_to_the_hub_is_said(model, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert "no connection (" in failure(model)
