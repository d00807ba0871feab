"""Fetching one asset: from Hugging Face through `huggingface_hub`, from elsewhere by HTTPS that goes on after a cut.

Whatever arrives is compared with the table before it takes its place; an interrupted download leaves `NAME.part`, and
the next one continues it. Nothing that was fetched is opened here.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from mixar.assets.check import check, facts, memory_of, recognised_by, size_problem
from mixar.assets.table import Address, Asset, ByHand, Hub
from mixar.files import NO_ROOM
from mixar.locks import try_lock

Report = Callable[[int, int], None]  # bytes that are here, bytes in all

TIMEOUT_S = 60.0  # without a single byte
PAUSES_S = (1.0, 5.0, 15.0)  # between tries that bring nothing; any byte starts them anew
BLOCK = 1 << 20
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_PASSING = {408, 429, 500, 502, 503, 504}  # HTTP: the same request may do later


class _Refused(ValueError):
    """What the server offers is not the asset, or does not fit here: no further try would help."""


def get(asset: Asset, report: Report = lambda done, total: None) -> bool:
    """Fetch an asset to its place; False where it was there and whole already.

    `report` is called while bytes arrive over plain HTTPS; huggingface_hub shows its own progress.
    Raises ValueError: no connection, refused, not what the table says, no room; each with what to copy where.
    """
    if asset.is_there and check(asset) is None:
        return False
    if isinstance(asset.way, ByHand):
        raise ValueError(f"asset {asset.name!r} needs a person: {asset.command}\n  expected at {asset.path}/")
    host = _host(asset.way)
    try:
        asset.path.parent.mkdir(parents=True, exist_ok=True)
        asset, received = _from_hub(asset) if isinstance(asset.way, Hub) else _from_address(asset, report)
    except Exception as error:  # the libraries behind huggingface_hub raise classes of their own
        raise ValueError(_instead(asset, host, _reason(error))) from error
    _settle(asset, host, received)
    return True


def _settle(asset: Asset, host: str, received: Path) -> None:
    """Give the received file its place, or set it aside where it is not what the table says."""
    problem = check(asset, received)
    if problem:
        aside = _part(asset).with_suffix(".part.bad")
        os.replace(received, aside)
        memory_of(received).unlink(missing_ok=True)
        raise ValueError(_instead(asset, host, f"it sent another file: {problem}; it is kept as {aside}"))
    os.replace(received, asset.path)
    if memory_of(received).is_file():  # so that the file need not be hashed again
        os.replace(memory_of(received), memory_of(asset.path))
    for leftover in (_validator(asset), _staging(asset)):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _part(asset: Asset) -> Path:
    return asset.path.with_name(f"{asset.path.name}.part")


def _staging(asset: Asset) -> Path:
    return asset.path.with_name(f".{asset.path.name}.hub")


def _validator(asset: Asset) -> Path:
    """What the server called the file that `_part` is the beginning of: its ETag, or its date."""
    return asset.path.with_name(f".{asset.path.name}.part.etag")


# Hugging Face


def _from_hub(asset: Asset) -> tuple[Asset, Path]:
    """The received file, and the asset with the size and SHA-256 that the Hub announced where the table has none."""
    import huggingface_hub as hub  # here: importing it takes a second, and the workflow imports assets

    way = asset.way
    announced = hub.get_hf_file_metadata(hub.hf_hub_url(way.repository, way.file, revision=way.revision))
    is_hash = re.fullmatch("[0-9a-f]{64}", announced.etag or "")
    if asset.sha256 and is_hash and not announced.etag.startswith(asset.sha256):
        raise _Refused(f"it offers another file: expected sha256 {asset.sha256}, found {announced.etag}")
    _check_offer(asset, announced.size, announced.size)
    if asset.known_hash is None and is_hash:
        asset = replace(asset, sha256=announced.etag)
    asset = replace(asset, num_bytes=announced.size or asset.num_bytes)
    where = _staging(asset)
    return asset, Path(hub.hf_hub_download(way.repository, way.file, revision=way.revision, local_dir=where))


# Plain HTTPS


def _from_address(asset: Asset, report: Report) -> tuple[Asset, Path]:
    """The received file. Cuts are waited out while they last no longer than PAUSES_S together."""
    part, pauses, received_any = _part(asset), iter(PAUSES_S), False
    with _alone(part):
        while True:
            before = part.stat().st_size
            try:
                _receive(asset, part, report)
                return asset, part
            except (OSError, HTTPException) as error:
                brought = part.stat().st_size > before
                received_any = received_any or brought
                pauses = iter(PAUSES_S) if brought else pauses
                pause = next(pauses, None)
                if pause is None or not _may_pass(error, received_any):
                    raise
                time.sleep(pause)


def _receive(asset: Asset, part: Path, report: Report) -> None:
    """One request: the rest of `part`, or all of it where the server's file has changed or it knows no ranges."""
    offset = part.stat().st_size if _validator(asset).is_file() else 0
    with _open(asset, offset) as response:
        there = response.headers.get("Content-Range", "")
        if response.status == 416 and there == f"bytes */{offset}":
            return  # nothing was missing
        is_rest = response.status == 206 and there.startswith(f"bytes {offset}-")
        if is_rest or response.status == 200:
            _append(asset, part, offset if is_rest else 0, response, report)
            return
    if not offset:
        raise HTTPException("a part of the file was sent, and all of it was asked for")
    _validator(asset).unlink()  # more bytes are here than there, or others were sent: start over
    _receive(asset, part, report)


def _open(asset: Asset, offset: int) -> HTTPResponse | HTTPError:
    """The server's answer, asked for the bytes from `offset` on; 416 is an answer too. Raises HTTPError, URLError."""
    request = Request(asset.way.url, headers={"User-Agent": "mixar", "Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", _validator(asset).read_text(encoding="utf-8"))
    try:
        return urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code != 416 or not offset:
            raise
        return error


def _append(asset: Asset, part: Path, offset: int, response: HTTPResponse, report: Report) -> None:
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length else None
    if response.headers.get_content_type() == "text/html":
        raise _Refused("it sent a web page instead of the file")
    _check_offer(asset, total, total and total - offset)
    _keep_validator(asset, response)
    report(offset, total or asset.num_bytes or asset.about_bytes or 0)
    with open(part, "ab" if offset else "wb") as file:
        while block := response.read(BLOCK):
            file.write(block)
            offset += len(block)
            report(offset, total or asset.num_bytes or asset.about_bytes or 0)
    if total is not None and offset < total:
        raise ConnectionError(f"the connection ended after {offset:,} of {total:,} bytes")


def _keep_validator(asset: Asset, response: HTTPResponse) -> None:
    """Remember what the server calls its file; a weak ETag cannot vouch for bytes (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "W/")
    found = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
    if found:
        _validator(asset).write_text(found, encoding="utf-8")
    else:
        _validator(asset).unlink(missing_ok=True)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold `part` against a second download of the same file. Raises ValueError where one is under way."""
    with open(part, "ab") as file:
        if try_lock(file) is False:
            raise _Refused(f"another process is fetching it into {part}")
        try:
            yield
        finally:
            if part.stat().st_size == 0:
                part.unlink()


# What can go wrong


def _check_offer(asset: Asset, total: int | None, left: int | None) -> None:
    """Refuse a file of another size than the table's, and one that does not fit on the disk."""
    if total is not None and (problem := size_problem(asset, total)):
        raise _Refused(f"it offers another file: {problem}")
    needed, free = left or asset.num_bytes or asset.about_bytes or 0, shutil.disk_usage(asset.path.parent).free
    if needed > free:
        raise _Refused(f"{needed:,} bytes are to come, and {asset.path.parent} has room for {free:,}; free some")


def _may_pass(error: Exception, received_any: bool) -> bool:
    """Whether another try may help. Without a connection from the start there is nothing to wait for."""
    if isinstance(error, HTTPError):
        return error.code in _PASSING
    return received_any and getattr(error, "errno", None) not in NO_ROOM | _UNWRITABLE


def _reason(error: Exception) -> str:
    """An error in a user's words."""
    if isinstance(error, _Refused):
        return str(error)
    if getattr(error, "errno", None) in NO_ROOM:
        return f"the disk is full ({error.strerror}); free some room, and the download goes on where it stopped"
    if getattr(error, "errno", None) in _UNWRITABLE:
        return f"{error.filename or 'the folder'} cannot be written ({error.strerror})"
    code = (
        error.code if isinstance(error, HTTPError) else getattr(getattr(error, "response", None), "status_code", None)
    )
    if code is not None:
        meaning = {401: "access is refused", 403: "access is refused", 404: "it has no such file"}
        return f"{meaning.get(code, 'it cannot serve the file')} (HTTP {code})"
    first_line = (str(error).splitlines() or [""])[0]
    is_network = isinstance(error, OSError | HTTPException) or type(error).__module__.startswith("httpx")
    return f"{'no connection' if is_network else 'the download failed'} ({type(error).__name__}: {first_line})"


def _instead(asset: Asset, host: str, reason: str) -> str:
    """The message of every failure: what was tried, why it failed, and what to copy where."""
    known, part = recognised_by(asset), _part(asset)
    lines = [
        f"asset {asset.name!r} could not be fetched from {host}: {reason}",
        f"  what has come is kept: {part}; the next try goes on there" if part.is_file() else "",
        f"  to bring it from elsewhere: {facts(asset)['or with']}",
        f"  to this path: {asset.path}",
        f"  recognised by: {known}" if known else "",
        f"  then: mixar assets check {asset.name}",
    ]
    return "\n".join(line for line in lines if line)


def _host(way: Hub | Address) -> str:
    if isinstance(way, Address):
        return urlsplit(way.url).netloc
    return urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").netloc
