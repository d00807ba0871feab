"""WebDataset tars: 000000.jpg beside 000000.cls or 000000.json, read where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mixar.data.sources import Original, Originals
from mixar.data.tars import Member, iter_members
from mixar.storage.listing import IMAGES, THREADS, Listing, counted

LABELS = (".cls", ".json")  # a number as text, or an object with the number as `label`


class Shard(NamedTuple):
    """The samples of one tar, in order, and how many of them have no image."""

    samples: list[tuple[int, Member]]
    without_image: int


def webdataset(files: Listing, key: str) -> Originals:
    """Entries of all tars, in order. What comes before the first dot of a file's name is the sample's key."""
    if not files.files:
        if not (skipped := files.skipped_in_words()):
            raise ValueError(f"{key}: no .tar at {files.root}; give a tar, a folder of tars, or a pattern")
        raise ValueError(f"{key}: no .tar at {files.root} (found: {skipped}); unpack compressed ones with gunzip")
    with ThreadPoolExecutor(THREADS) as pool:  # network file systems: waiting, not computing
        shards = list(pool.map(lambda file: _read(file.path), files.files))
    labels = {label for shard in shards for label, _ in shard.samples}
    if not labels:
        raise ValueError(f"{key}: {files.root} holds no sample with an image ({', '.join(IMAGES)}) and a label")
    missing = sum(shard.without_image for shard in shards)
    left_out = f"{counted(missing, 'sample')} without an image" if missing else ""
    classes = {(label, str(label), label, str(label)) for label in labels}
    return Originals(sum(len(shard.samples) for shard in shards), classes, _originals(shards), left_out)


def _originals(shards: list[Shard]) -> Iterator[tuple[Original, None]]:
    for shard in shards:
        for label, m in shard.samples:
            yield Original(label, str(label), label, str(label), m.name, m.file, -1, None, m.offset, m.size), None


def _read(path: str) -> Shard:
    """List a tar and read its labels. Raises ValueError naming a sample without a label, or with two images."""
    images: dict[str, Member] = {}
    found: dict[str, dict[str, int]] = {}
    for member, stream in iter_members(path):
        folder, _, base = member.name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        sample, suffix = f"{folder}/{stem}".lstrip("/"), (dot + suffix).lower()
        if suffix in IMAGES:
            if (other := images.setdefault(sample, member)) is not member:
                raise ValueError(f"{path}: sample {sample} has the images {other.name} and {member.name}; keep one")
        elif suffix in LABELS:
            stream.seek(member.offset)
            label = _label(stream.read(member.size), suffix, f"{path} member {member.name}")
            found.setdefault(sample, {})[suffix] = label
    if missing := [sample for sample in images if sample not in found]:
        raise ValueError(f"{path}: sample {missing[0]} has no label, a .cls or .json beside its image; write one for "
                         f"each image ({counted(len(missing), 'image')} have none)")  # fmt: skip
    samples = [(found[sample].get(".cls", found[sample].get(".json", -1)), image) for sample, image in images.items()]
    return Shard(samples, len(found.keys() - images.keys()))


def _label(content: bytes, suffix: str, where: str) -> int:
    try:
        value = json.loads(content)
        label = value["label"] if suffix == ".json" else value
    except (ValueError, KeyError, TypeError, RecursionError):
        label = None
    if type(label) is not int or label < 0:  # True is an int, too
        expected = 'an object with "label"' if suffix == ".json" else "digits"
        raise ValueError(f"{where}: {content[:40]!r}; expected the number of a class, 0 or more, as {expected}")
    return label
