"""ILSVRC-2012 as it is downloaded, from image-net.org or Kaggle: which class each image has.

Classes are numbered by sorted synset id, as released class-conditional networks number them. The devkit's ground truth
has numbers of its own (ILSVRC2012_ID); its `meta.mat` translates them. Archives need not be unpacked.
"""

from __future__ import annotations

import csv
import io
import os
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from scipy.io import loadmat

from mixar.data.sources import Original, Originals
from mixar.data.tars import Member, iter_members
from mixar.storage.listing import GROUND_TRUTH, IMAGES, META, SOLUTION, SYNSET_MAPPING, TARS, THREADS, Listing, counted

SYNSET = re.compile(r"n\d{8}")
VALIDATION = "ILSVRC2012_val_{:08d}"  # names of the images that the lines of the ground truth are about, from 1 on


class Labels(NamedTuple):
    """The synsets of all classes, sorted, and of each validation image by its name without suffix."""

    synsets: list[str]
    of_image: dict[str, str]


def ilsvrc(files: Listing, key: str) -> Originals:
    """Entries of training images in class folders or class archives, or of flat validation images with `files.labels`.

    Classes and images in the order of their names, whatever holds them.
    """
    if not files.files:
        raise ValueError(f"{key}: no image ({', '.join(IMAGES)}) and no .tar at {files.root}{_also(files)}")
    labels = read_labels(files.labels) if files.labels else None
    with ThreadPoolExecutor(THREADS) as pool:  # file systems and archives: waiting, not computing
        members = [member for found in pool.map(_images_of, files.files) for member in found]
    found, left_out = _in_classes(members, files, key), ""
    if not found:
        found = _labelled(members, labels, files, key)
    elif outside := len(members) - len(found):
        left_out = f"{counted(outside, 'image')} outside of the class folders and archives"
    found.sort()
    synsets = sorted({image.synset for image in found})
    if labels is not None:
        _check_synsets(synsets, labels.synsets, files, key)
    numbers = {synset: label for label, synset in enumerate(synsets)}
    classes = {(label, synset, label, synset) for synset, label in numbers.items()}
    return Originals(len(found), classes, _originals(found, numbers), left_out)


class Image(NamedTuple):
    """An image with its class. name: below its class folder or archive."""

    synset: str
    name: str
    member: Member


def _originals(found: list[Image], numbers: dict[str, int]) -> Iterator[tuple[Original, None]]:
    for synset, name, member in found:
        label = numbers[synset]
        identity = f"{synset}/{name}"
        yield Original(label, synset, label, synset, name, member.file, -1, identity, member.offset, member.size), None


def _also(files: Listing) -> str:
    skipped = files.skipped_in_words()
    return f"; skipped: {skipped}" if skipped else ""


def _images_of(file) -> list[Member]:
    """The images of one listed file: itself, or those of an archive."""
    name = "/".join(file.parts)
    if not name.lower().endswith(TARS):
        return [Member(name, file.path)]
    return [
        member._replace(name=f"{name}/{member.name}")
        for member, _ in iter_members(file.path)
        if member.name.lower().endswith(IMAGES)
    ]


def _in_classes(members: list[Member], files: Listing, key: str) -> list[Image]:
    """The images below a folder or archive that is named after a synset; the nearest one counts."""
    found: list[Image] = []
    first: dict[str, str] = {}
    for member in members:
        parts = member.name.split("/")
        for end in range(len(parts) - 1, 0, -1):
            synset = parts[end - 1].removesuffix(".tar")
            if SYNSET.fullmatch(synset):
                place = "/".join(parts[:end])
                if (other := first.setdefault(synset, place)) != place:
                    raise ValueError(f"{key}: {files.root} has class {synset} twice, in {other} and {place}; remove "
                                     "one, or give what holds each class once")  # fmt: skip
                found.append(Image(synset, "/".join(parts[end:]), member))
                break
    if empty := [name for name in files.folders if SYNSET.fullmatch(name) and name not in first]:
        raise ValueError(f"{key}: class folder {files.root}/{empty[0]} has no image ({', '.join(IMAGES)}); unpack its "
                         "archive again")  # fmt: skip
    return found


def _check_synsets(found: list[str], known: list[str], files: Listing, key: str) -> None:
    if unknown := sorted(set(found) - set(known)):
        raise ValueError(f"{key}: {files.root} has {unknown[0]}, which is none of the {len(known):,} synsets of "
                         f"{files.labels}; remove what is no class, or give the labels of these images")  # fmt: skip
    if missing := sorted(set(known) - set(found)):
        raise ValueError(f"{key}: {files.root} has no image of {counted(len(missing), 'class', 'classes')}, such as "
                         f"{missing[0]}, of the {len(known):,} of {files.labels}; download them again. For a part of "
                         "the classes, sort both splits into class folders and leave data.held_out_labels "
                         "out")  # fmt: skip


def _labelled(members: list[Member], labels: Labels | None, files: Listing, key: str) -> list[Image]:
    """Flat images, by their labels."""
    if labels is None:
        raise ValueError(
            f"{key}: {files.root} has {counted(len(members), 'image')}, but no class folder or archive named after a "
            "synset, such as n01440764; for the flat validation images set data.held_out_labels, for other class "
            "folders data.source: folder"
        )
    by_stem: dict[str, Member] = {}
    for member in members:
        stem = os.path.splitext(os.path.basename(member.name))[0]
        if stem not in labels.of_image:
            raise ValueError(f"{key}: {member.name} in {files.root} has no label in {files.labels}; give the labels of "
                             "these images, or remove what is no validation image")  # fmt: skip
        if (other := by_stem.setdefault(stem, member)) is not member:
            raise ValueError(f"{key}: {files.root} holds {other.name} and {member.name}; remove one of them")
    if missing := sorted(labels.of_image.keys() - by_stem.keys()):
        raise ValueError(f"{key}: {files.root} has {counted(len(by_stem), 'image')}, but {files.labels} labels "
                         f"{len(labels.of_image):,}; missing: {missing[0]}{' and others' * (len(missing) > 1)}; "
                         "unpack the archive again, or give the archive itself")  # fmt: skip
    return [Image(labels.of_image[stem], os.path.basename(m.name), m) for stem, m in by_stem.items()]


# Labels of the validation images


def read_labels(path: str) -> Labels:
    """The labels at a path: the devkit's folder or .tar.gz, or Kaggle's CSV or the folder that holds it.

    Raises ValueError naming what is missing or wrong.
    """
    if path.endswith((".tar.gz", ".tgz", ".tar")):
        return _devkit_labels(path, _unpacked(path, META), _unpacked(path, GROUND_TRUTH))
    solution = Path(path) / SOLUTION if os.path.isdir(path) else Path(path)
    if solution.is_file() and solution.suffix == ".csv":
        return _kaggle_labels(solution)
    if not os.path.isdir(path):
        raise ValueError(f"data.held_out_labels: {path} is no devkit (a folder, or ILSVRC2012_devkit_t12.tar.gz) and "
                         f"no {SOLUTION}")  # fmt: skip
    for name in (META, GROUND_TRUTH):
        if not (Path(path) / name).is_file():
            raise ValueError(f"data.held_out_labels: {path} has no {name} and no {SOLUTION}; give the folder "
                             "ILSVRC2012_devkit_t12, or Kaggle's file")  # fmt: skip
    return _devkit_labels(path, (Path(path) / META).read_bytes(), (Path(path) / GROUND_TRUTH).read_bytes())


def _unpacked(path: str, name: str) -> bytes:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(f"/{name}") and (stream := archive.extractfile(member)):
                    return stream.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"data.held_out_labels: {path} cannot be read ({error}); download it again") from None
    raise ValueError(f"data.held_out_labels: {path} holds no {name}; give ILSVRC2012_devkit_t12.tar.gz")


def _devkit_labels(path: str, meta: bytes, ground_truth: bytes) -> Labels:
    synsets = _synsets_by_id(path, meta)
    of_image = {}
    for number, line in enumerate(ground_truth.decode("ascii", "replace").split(), 1):
        synset = synsets.get(int(line)) if line.isdecimal() else None
        if synset is None:
            raise ValueError(f"data.held_out_labels: line {number} of {GROUND_TRUTH} in {path} is {line!r}; expected "
                             f"the number of a class, 1 to {len(synsets)}; take both files from one "
                             "devkit")  # fmt: skip
        of_image[VALIDATION.format(number)] = synset
    return Labels(sorted(synsets.values()), of_image)


def _synsets_by_id(path: str, meta: bytes) -> dict[int, str]:
    """The devkit's number of each class -> synset id. Synsets with children are groups of classes."""
    try:
        rows = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"].ravel()
        leaves = [row for row in rows if int(row["num_children"]) == 0]
        found = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    except Exception as error:  # a foreign format: the reader raises what it meets
        raise ValueError(f"data.held_out_labels: {META} in {path} cannot be read ({error}); download the devkit "
                         "again") from None  # fmt: skip
    if sorted(found) != list(range(1, len(leaves) + 1)) or not all(map(SYNSET.fullmatch, found.values())):
        raise ValueError(f"data.held_out_labels: {META} in {path} does not number its {len(leaves)} classes from 1; "
                         "download the devkit again")  # fmt: skip
    return found


def _kaggle_labels(solution: Path) -> Labels:
    of_image = {}
    with open(solution, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or []):
            raise ValueError(f"data.held_out_labels: {solution} has the columns {', '.join(rows.fieldnames or [])}; "
                             "expected ImageId and PredictionString")  # fmt: skip
        for row in rows:
            synset = (row["PredictionString"] or "").partition(" ")[0]
            if not SYNSET.fullmatch(synset):
                raise ValueError(f"data.held_out_labels: {solution} line {rows.line_num}: {synset!r} is no synset id, "
                                 "such as n01440764")  # fmt: skip
            of_image[row["ImageId"]] = synset
    synsets = sorted(set(of_image.values()))
    if (mapping := solution.with_name(SYNSET_MAPPING)).is_file():
        synsets = sorted(line.split()[0] for line in mapping.read_text(encoding="utf-8").splitlines() if line.strip())
        if unknown := sorted(set(of_image.values()) - set(synsets)):
            raise ValueError(f"data.held_out_labels: {solution} has {unknown[0]}, which is not in {mapping}; take both "
                             "files from one download")  # fmt: skip
    return Labels(synsets, of_image)
