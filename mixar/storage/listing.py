"""What a folder that a user names holds: the one rule for all readers of folders.

Hidden entries and those that systems and archives leave behind are skipped and counted, links are followed, and loops
refused. Nothing is opened here; no torch here.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
PARQUET = (".parquet",)
TARS = (".tar",)
THREADS = 16  # network file systems: waiting, not computing

# What file systems, archives, sharing services and Spark leave in folders, in small letters; hidden names come on top.
SERVICE = frozenset({
    "__macosx", "icon\r", "network trash folder", "temporary items",  # macOS
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information",  # Windows
    "lost+found", "@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",  # servers
    "~snapshot", "__pycache__", "_success", "_metadata", "_common_metadata", "_temporary", "_delta_log",
    "_spark_metadata",
})  # fmt: skip

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}


class File(NamedTuple):
    """A file below a folder. parts: of its path below the root. identity: of what is read, whatever links to it."""

    root: str
    parts: tuple[str, ...]
    size: int  # bytes; -1: a link to nothing
    mtime_ns: int
    identity: tuple[int, int]

    @property
    def path(self) -> str:
        return os.path.join(self.root, *self.parts)


@dataclass
class Listing:
    """The wanted files below a folder in the order of their paths, and what was skipped: suffix or name -> number.

    folders: the names right below the root, those without a wanted file included. labels: what the study names as the
    labels of the images; empty where they need none.
    """

    root: str
    files: list[File] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)  # files of splits that are not meant
    other: Counter[str] = field(default_factory=Counter)  # files with other suffixes
    service: Counter[str] = field(default_factory=Counter)  # hidden and service entries; a folder counts once
    labels: str = ""

    def skipped_in_words(self) -> str:
        """What was skipped and why; empty where nothing was."""
        parts = [f"{counted(count, 'file')} of the split {split}" for split, count in sorted(self.splits.items())]
        parts += [f"{_each(self.other)} (not read)"] if self.other else []
        if self.service:
            total = counted(sum(self.service.values()), "hidden or service entry", "hidden or service entries")
            parts.append(f"{total} ({_each(self.service)})")
        return "; ".join(parts)


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun: 1 file, 2 files."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _each(found: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))


def is_service(name: str) -> bool:
    """Whether an entry is hidden, or one that a system, an archive or a tool left: never part of a data set."""
    return name.startswith(".") or name.lower() in SERVICE


def list_files(root: str | os.PathLike, suffixes: Sequence[str] | None) -> Listing:
    """The files below `root` with one of the suffixes (in small letters; None: with any), links followed.

    Raises ValueError for links that lead in a circle or to nothing, for a file or folder that is reached twice, and for
    names that are not UTF-8; OSError for folders that cannot be read.
    """
    root = os.fspath(root)
    check_name(root, root)
    found = Listing(root)
    identity = _identity(os.stat(root))
    pending, seen = [_Folder(root, (), identity, frozenset({identity}))], {identity: root}
    with ThreadPoolExecutor(THREADS) as pool:
        while pending:
            scans = list(pool.map(lambda folder: _scan(folder, suffixes), pending))
            pending = [inner for _, folders in scans for inner in folders]
            found.folders = found.folders or sorted(folder.parts[0] for folder in pending)
            for listing, _ in scans:
                found.files += listing.files
                found.other += listing.other
                found.service += listing.service
            for folder in pending:
                if (other := seen.setdefault(folder.identity, folder.path)) != folder.path:
                    _refuse_twice("folder", folder.path, other)
    found.files.sort(key=lambda file: file.parts)
    _check_reached_once(found.files)
    return found


class _Folder(NamedTuple):
    root: str
    parts: tuple[str, ...]
    identity: tuple[int, int]
    above: frozenset  # identities of the folders above and of this one

    @property
    def path(self) -> str:
        return os.path.join(self.root, *self.parts)


def _scan(folder: _Folder, suffixes: Sequence[str] | None) -> tuple[Listing, list[_Folder]]:
    found, folders = Listing(folder.path), []
    with os.scandir(folder.path) as entries:
        for entry in entries:
            if is_service(entry.name):
                found.service[_service_name(entry.name)] += 1
                continue
            suffix, parts = os.path.splitext(entry.name)[1].lower(), (*folder.parts, entry.name)
            is_wanted = suffixes is None or suffix in suffixes
            try:
                state = entry.stat()
            except OSError as error:
                if not is_wanted and not entry.is_symlink():
                    if isinstance(error, FileNotFoundError):  # removed in this moment
                        continue
                    raise
                if not is_wanted:
                    raise ValueError(f"{entry.path}: a broken link ({error.strerror}); repair or remove "
                                     "it") from None  # fmt: skip
                state = None  # its reader reports it
            if state is None or (stat.S_ISREG(state.st_mode) and is_wanted):
                check_name(entry.name, entry.path)
                found.files.append(_file(folder.root, parts, state))
            elif stat.S_ISDIR(state.st_mode):
                check_name(entry.name, entry.path)
                identity = _identity(state)
                if identity in folder.above:
                    raise ValueError(f"{entry.path}: a link to {os.path.realpath(entry.path)}, a folder that "
                                     "contains it; remove the link")  # fmt: skip
                folders.append(_Folder(folder.root, parts, identity, folder.above | {identity}))
            elif stat.S_ISREG(state.st_mode):
                found.other[suffix or "without suffix"] += 1
            else:
                found.other["pipe, socket or device"] += 1
    return found, folders


def _file(root: str, parts: tuple[str, ...], state: os.stat_result | None) -> File:
    if state is None:
        return File(root, parts, -1, 0, (-1, hash((root, parts))))
    return File(root, parts, state.st_size, state.st_mtime_ns, _identity(state))


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _service_name(name: str) -> str:
    """The name under which a skipped entry is counted: a prefix for `._a.png` and `.nfs0001`."""
    return next((f"{start}*" for start in ("._", ".nfs") if name.startswith(start)), name)


def check_name(name: str, path: str) -> None:
    """Raise ValueError for a name that is not UTF-8, with its path byte by byte."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{os.fsencode(path)!r}: a name that is not UTF-8, written here byte by byte; rename it (the "
                         "program convmv does so for whole folders)") from None  # fmt: skip


def _check_reached_once(files: list[File]) -> None:
    """Hard links count as copies; a file reached through two links would count twice and is refused."""
    if len({file.identity for file in files}) == len(files):
        return
    counts = Counter(file.identity for file in files)
    first: dict[str, str] = {}
    for file in files:
        if counts[file.identity] > 1:
            place = os.path.realpath(file.path)
            if (other := first.setdefault(place, file.path)) != file.path:
                _refuse_twice("file", file.path, other)


def _refuse_twice(what: str, *paths: str) -> None:
    original, link = sorted(paths, key=lambda path: os.path.realpath(path) != os.path.abspath(path))
    raise ValueError(f"{link}: the same {what} as {original}; remove the link, or its images count twice")


# The files of a data source

SUFFIXES = {  # by built-in source; your own gets every file
    "drawings": PARQUET,
    "emoji": PARQUET,
    "folder": IMAGES,
    "ilsvrc": (*IMAGES, *TARS),
    "parquet": PARQUET,
    "webdataset": TARS,
}
SPLIT_BY_NAME = (PARQUET, TARS)  # of these, file names such as train-00000-of-00294.parquet tell the splits apart

# ILSVRC's labels of the validation images: the devkit's files, and Kaggle's
META, GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
SOLUTION, SYNSET_MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


def label_files(path: str) -> list[File]:
    """The files that hold the labels at a path: those of a known name in a folder, or the file itself."""
    root, name = (path, "") if os.path.isdir(path) else os.path.split(path)
    wanted = [name] if name else [META, GROUND_TRUTH, SOLUTION, SYNSET_MAPPING]
    places = [(os.path.join(root, name), tuple(name.split("/"))) for name in wanted]
    return [_file(root, parts, os.stat(place)) for place, parts in places if os.path.isfile(place)]


def source_files(source: str, path: str, key: str, role: str, labels: str = "") -> Listing:
    """List the files of a data source. path: a file, a folder, or a pattern with *.

    key: the study's key, for messages. role: train or held_out. labels: for the listing's field. If the names of
    Parquet files or shards mark splits, only one is taken: the training split for train, validation or else test for
    held_out. The listing may be empty. Raises ValueError if the split is ambiguous, and as `list_files`.
    """
    suffixes = SUFFIXES.get(source)
    if os.path.isdir(path):
        found = list_files(path, suffixes)
    else:
        found = Listing(path) if suffixes == IMAGES else _named_files(path)
    found.labels = labels
    if found.files and suffixes in SPLIT_BY_NAME:
        splits = _by_split(found.files)
        meant = _meant(splits, path, key, role)
        found.splits.update({split: len(files) for split, files in splits.items() if split and split != meant})
        found.files = splits[meant]
    return found


def _named_files(path: str) -> Listing:
    """The file at a path, or those that a pattern matches."""
    if os.path.isfile(path):
        root, name = os.path.split(path)
        return Listing(path, [_file(root, (name,), os.stat(path))])
    matched = sorted(name for name in glob.glob(path) if os.path.isfile(name))
    root, found = os.path.commonpath([os.path.dirname(name) for name in matched]) if matched else "", Listing(path)
    for name in matched:
        check_name(name, name)
        parts = tuple(os.path.relpath(name, root or ".").split(os.sep))
        if any(map(is_service, parts)):
            found.service[_service_name(parts[-1])] += 1
        else:
            found.files.append(_file(root, parts, os.stat(name)))
    _check_reached_once(found.files)
    return found


def split_of(parts: Sequence[str]) -> str | None:
    """The split that a path tells of: by the file's name, else by the nearest folder's; None where none or several."""
    for part in reversed(parts):
        words = {_SPLIT_OF[word] for word in re.split(r"[\W\d_]+", part.lower()) if word in _SPLIT_OF}
        if words:
            return words.pop() if len(words) == 1 else None
    return None


def _by_split(files: list[File]) -> dict[str | None, list[File]]:
    splits: dict[str | None, list[File]] = {}
    for file in files:
        splits.setdefault(split_of(file.parts), []).append(file)
    return splits


def _meant(splits: dict[str | None, list[File]], path: str, key: str, role: str) -> str | None:
    """The split that is taken of several. Raises ValueError where that is not clear."""
    wanted: list[str | None] = ["train"] if role == "train" else ["validation", "test"]
    meant = list(splits) if len(splits) == 1 else [split for split in wanted if split in splits][:1]
    if len(meant) != 1 or (None in splits and len(splits) > 1):
        raise ValueError(f"{key}: {path} holds files of several splits ({_examples(splits)}); name those of one split, "
                         f"with a pattern such as {_pattern(splits, meant)}")  # fmt: skip
    return meant[0]


def _examples(splits: dict[str | None, list[File]]) -> str:
    return ", ".join(
        f"{split or 'no split named'}: {len(files)}, such as {files[0].parts[-1]}" for split, files in splits.items()
    )


def _pattern(splits: dict[str | None, list[File]], meant: list[str | None]) -> str:
    """A pattern for the files of one split: of one that may be meant, where there is any."""
    folder, name = os.path.split(splits[next(filter(None, [*meant, *splits]))][0].path)
    return os.path.join(folder, re.sub(r"\d.*(?=\.(parquet|tar)$)", "*", name))


# Folders that look like classes


def named_after_splits(folders: Iterable[str]) -> bool:
    """Whether all of several folders are named after splits, such as train and val: no classes."""
    folders = list(folders)
    return len(folders) > 1 and all(folder.lower() in _SPLIT_OF for folder in folders)


def are_parts(files: Iterable[File]) -> bool:
    """Whether the folders of these files are parts of one numbered set, not classes.

    So EDM2's programs write images: 000000/000127.png beside 000128/000128.png (a folder is named after its first
    number), or 00000/img00000127.png beside 00001/img00001000.png (after the first digits of all its numbers).
    """
    numbers: dict[str, list[str]] = {}
    for file in files:
        found = re.fullmatch(r"\D*(\d+)", os.path.splitext(file.parts[-1])[0])
        if len(file.parts) != 2 or not found or not file.parts[0].isdecimal():
            return False
        numbers.setdefault(file.parts[0], []).append(found[1])
    if len(numbers) < 2 or all(len(found) == 1 for found in numbers.values()):
        return False
    starts = sorted(int(folder) for folder in numbers)
    ends = dict(zip(starts, [*starts[1:], float("inf")], strict=True))
    by_start = all(int(f) <= int(n) < ends[int(f)] for f, found in numbers.items() for n in found)
    by_digits = all(len(f) >= 4 and len(n) > len(f) and n.startswith(f) for f, found in numbers.items() for n in found)
    return by_start or by_digits
