"""Download one asset: from Hugging Face with `huggingface_hub`, from other HTTPS addresses with `pooch`.

A download arrives in a folder beside its target, is checked against the table, and is then renamed. A second process
that wants the same asset is refused. huggingface_hub continues an interrupted download; pooch starts again, so messages
name a command that continues. Nothing that was downloaded is opened here.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from mixar.assets.check import bytes_problem, damage, recognised_by
from mixar.assets.table import Address, Asset, ByHand, Hub
from mixar.storage.files import NO_ROOM
from mixar.storage.locks import try_lock

Report = Callable[[int, int], None]  # bytes received, bytes in all

RETRIES = 2  # of pooch, after a broken connection or a refusal
TIMEOUT_S = 60.0  # without a single byte
BLOCK = 2**20  # bytes
LARGE = 2**30  # bytes: a download that one may have to continue
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_MEANING = {401: "access is refused", 403: "access is refused", 404: "it has no such file"}  # of HTTP codes


class Refused(Exception):
    """The offered file is not the asset or does not fit here. Another try would not help, and pooch makes none."""


def get(asset: Asset, report: Report = lambda done, total: None) -> bool:
    """Download an asset to its path; False if it is there and intact, hash included.

    report: called for each block that pooch receives; huggingface_hub shows its own progress.
    Raises ValueError, with what to copy where, if the asset cannot be downloaded or what arrives is not the asset.
    """
    if asset.is_there and damage(asset) is None:
        return False
    if isinstance(asset.way, ByHand):
        raise ValueError(
            f"asset {asset.name!r} cannot be downloaded automatically: {asset.command}\n  expected at {asset.path}/"
        )
    if note := _caution(asset):
        print(note, flush=True)
    staging = asset.path.with_name(f".{asset.path.name}.download")
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with _alone(staging):
            way = asset.way
            received = (
                _from_hub(asset, way, staging) if isinstance(way, Hub) else _from_address(way, asset, staging, report)
            )
            os.replace(received, asset.path)
            shutil.rmtree(staging)
    except Exception as error:  # the libraries below huggingface_hub raise many classes
        raise ValueError(_instead(asset, asset.way, _reason(error))) from error
    return True


def _caution(asset: Asset) -> str | None:
    """What to know before a large download that cannot continue after an interruption; None for others."""
    size = asset.num_bytes or asset.about_bytes or LARGE
    if not isinstance(asset.way, Address) or size < LARGE:
        return None
    return f"{asset.name}: an interrupted download restarts from zero; this command resumes it: {asset.command}"


def _from_hub(asset: Asset, way: Hub, staging: Path) -> Path:
    """The received file. Where the table has no size or hash, it is compared with those that the Hub announces."""
    import huggingface_hub as hub  # here: importing it takes a second, and the workflow imports assets

    announced = hub.get_hf_file_metadata(hub.hf_hub_url(way.repository, way.file, revision=way.revision))
    sha256 = announced.etag if re.fullmatch("[0-9a-f]{64}", announced.etag or "") else None
    if asset.sha256 and sha256 and not sha256.startswith(asset.sha256):
        raise Refused(f"it offers a different file: expected sha256 {asset.sha256}, found {sha256}")
    _check_offer(asset, announced.size)
    received = Path(hub.hf_hub_download(way.repository, way.file, revision=way.revision, local_dir=staging))
    known = replace(asset, num_bytes=announced.size or asset.num_bytes)
    _check_received(known if asset.known_hash else replace(known, sha256=sha256), received)
    return received


def _from_address(way: Address, asset: Asset, staging: Path, report: Report) -> Path:
    """The received file."""
    import pooch  # here, as above

    for stale in staging.glob("tmp*"):  # of a process that was killed
        stale.unlink()
    pooch.get_logger().setLevel("WARNING")
    download = pooch.HTTPDownloader(
        progressbar=_Watch(asset, report),
        chunk_size=BLOCK,
        timeout=TIMEOUT_S,
        headers={"Accept-Encoding": "identity"},  # so that the announced size is the file's
    )
    name = asset.path.name
    store = pooch.create(staging, base_url="", registry={name: None}, urls={name: way.url}, retry_if_failed=RETRIES)
    received = Path(store.fetch(name, downloader=download))
    _check_received(asset, received)
    return received


class _Watch:
    """What pooch takes for a progress bar: refuses a wrong size before the first byte, then reports each block."""

    def __init__(self, asset: Asset, report: Report):
        self.asset, self.report = asset, report
        self.done = self._total = 0

    @property
    def total(self) -> int:
        """Bytes that the server announces; 0 if it announces none."""
        return self._total

    @total.setter
    def total(self, total: int) -> None:
        _check_offer(self.asset, total or None)
        self.done, self._total = 0, total
        self.update(0)

    def update(self, num_bytes: int) -> None:
        self.done = min(self.done + num_bytes, self.total)
        self.report(self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass


@contextmanager
def _alone(staging: Path) -> Iterator[None]:
    """Hold `staging` against a second download of the same asset. Raises Refused if one is running."""
    with open(staging / "lock", "ab") as file:
        if try_lock(file) is False:
            raise Refused(f"another process is downloading it into {staging}")
        yield


# What can go wrong


def _check_offer(asset: Asset, num_bytes: int | None) -> None:
    """Refuse a file whose announced size is not the table's, and one that does not fit on the disk."""
    if num_bytes is not None and (problem := bytes_problem(asset, num_bytes)):
        raise Refused(f"it offers a different file: {problem}")
    needed = num_bytes or asset.num_bytes or asset.about_bytes or 0
    if needed > (free := shutil.disk_usage(asset.path.parent).free):
        raise Refused(f"{needed:,} bytes needed in {asset.path.parent}, {free:,} free; free some space")


def _check_received(asset: Asset, received: Path) -> None:
    if problem := damage(asset, received):
        received.unlink()
        raise Refused(f"it sent a different file: {problem}")


def _reason(error: Exception) -> str:
    """An error as a message for users."""
    if isinstance(error, Refused):
        return str(error)
    number, code = getattr(error, "errno", None), getattr(getattr(error, "response", None), "status_code", None)
    if number in NO_ROOM:
        return f"the disk is full ({os.strerror(number)}); free some space"
    if number in _UNWRITABLE:
        return f"{getattr(error, 'filename', None) or 'the folder'} cannot be written ({os.strerror(number)})"
    if code is not None:
        return f"{_MEANING.get(code, 'it cannot serve the file')} (HTTP {code})"
    is_network = isinstance(error, OSError) or type(error).__module__.startswith("httpx")
    first_line = (str(error).splitlines() or [""])[0]
    return f"{'no connection' if is_network else 'the download failed'} ({type(error).__name__}: {first_line})"


def _instead(asset: Asset, way: Hub | Address, reason: str) -> str:
    """The message of every failure: what was tried, why it failed, and what to copy where."""
    known = recognised_by(asset)
    lines = [
        f"asset {asset.name!r} could not be downloaded from {_host(way)}: {reason}",
        f"  another way, which can resume: {asset.command}",
        f"  or copy the file to: {asset.path}",
        f"  recognised by: {known}" if known else "",
        f"  then: mixar assets check {asset.name}",
    ]
    return "\n".join(line for line in lines if line)


def _host(way: Hub | Address) -> str:
    if isinstance(way, Address):
        return urlsplit(way.url).netloc
    return urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").netloc
