"""Tar archives read where they are: the place of each member in the file, and its bytes. Nothing is unpacked.

A member of a tar within a tar, such as a class in ILSVRC's training archive, has its place in the outer file.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mixar.storage.listing import TARS, is_service


class Member(NamedTuple):
    """A file, or a member of a tar: `size` bytes of `file` from byte `offset` on. offset -1: the whole file."""

    name: str  # of a member of an inner tar: inner.tar/member
    file: str
    offset: int = -1
    size: int = -1


def read_encoded(file: str, offset: int = -1, size: int = -1) -> bytes:
    """A whole file, or the bytes of a tar's member. Raises OSError where the file is gone or ends within the member."""
    with open(file, "rb", buffering=0) as stream:
        if offset < 0:
            return stream.readall()
        content = os.pread(stream.fileno(), size, offset)
    if len(content) < size:
        raise OSError(f"cut off: {len(content)} of {size} bytes of the image are there")
    return content


def iter_members(path: str) -> Iterator[tuple[Member, BinaryIO]]:
    """Yield each file in a tar, tars within it included, in order, with the open archive to read short members from.

    Hidden and service entries are left out. Raises ValueError naming the archive if it is compressed, damaged or cut
    off, or its names are not UTF-8.
    """
    try:
        with open(path, "rb") as stream:
            for member in _members(path, stream, "", os.path.getsize(path)):
                yield member, stream
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a whole tar archive ({error}); copy or download it again, and unpack a "
                         "compressed one (gunzip)") from None  # fmt: skip


def _members(path: str, stream: BinaryIO, prefix: str, end: int) -> Iterator[Member]:
    """Members of the tar that begins where `stream` is and ends before byte `end`."""
    archive = tarfile.TarFile(fileobj=stream)
    while (found := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined] # or it keeps a kilobyte for each
        if found.offset_data + found.size > end:
            raise tarfile.ReadError(f"it ends within {found.name}")
        if not found.isreg() or found.sparse or any(map(is_service, found.name.removeprefix("./").split("/"))):
            continue
        member = Member(f"{prefix}{_checked_name(found.name, path)}", path, found.offset_data, found.size)
        if member.name.lower().endswith(TARS):
            stream.seek(found.offset_data)
            yield from _members(path, stream, f"{member.name}/", found.offset_data + found.size)
        else:
            yield member


def _checked_name(name: str, path: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: the name of its member {os.fsencode(name)!r} is not UTF-8; make the archive again "
                         "with other names") from None  # fmt: skip
    return name.removeprefix("./")
