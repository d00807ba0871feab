"""Images that any program drew: a folder, an .npz array or Parquet files, read in parts, one image at a time.

A collection has `index` int64 [n], `labels` int32 [n] (UNLABELLED where it names no class), and
`contents(start, stop)`, which yields (where, content): encoded bytes, or pixels uint8 [H, W, 3]. Opening one looks at
names, headers and keys alone; `checked` decodes every image and says whether they are what a protocol takes.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import os
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from mixar.data.decoding import load_picture, lossy_format
from mixar.data.images import RowReader, fitting, whole_numbers
from mixar.data.sources import open_parquet
from mixar.storage.listing import IMAGES, PARQUET, File, are_parts, check_name, list_files, split_of

UNLABELLED = -1
DIGITS = 18  # of a name that is an index: more may not fit into 64 bits
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError)  # what archives raise
ARRAY, LABELS = "arr_0", ("arr_1", "labels", "label")  # as numpy.savez names them, ADM's files included


def open_collection(path: str | Path, say: Callable[[str], None] = print) -> FolderImages | ArrayImages | ParquetImages:
    """The images at a path: a folder of images or of Parquet files, a Parquet file, or an .npz file.

    say: tells what of a folder is skipped, and which folders are no classes.
    Raises ValueError for a path without images, with two kinds of them, with several splits, or with an index that
    occurs twice; and for what `list_files` refuses.
    """
    path = Path(path)
    check_name(str(path), str(path))
    if path.is_dir():
        opened = _open_folder(path, say)
    elif path.suffix in OPENERS and path.is_file():
        opened = OPENERS[path.suffix](path)
    else:
        raise ValueError(f"{path}: no folder, .npz or .parquet file of images there")
    _check_index(opened.index, path)
    return opened


def _open_folder(path: Path, say: Callable[[str], None]) -> FolderImages | ParquetImages:
    listing = list_files(path, (*IMAGES, *PARQUET))
    tables = [file for file in listing.files if file.path.lower().endswith(PARQUET)]
    pictures = [file for file in listing.files if not file.path.lower().endswith(PARQUET)]
    skipped = listing.skipped_in_words()
    if bool(pictures) == bool(tables):
        also = f"; skipped: {skipped}" if skipped else ""
        raise ValueError(
            f"{path}: {len(pictures)} images ({', '.join(IMAGES)}) and {len(tables)} Parquet files{also}; give a "
            "folder that holds one of the two kinds, or an .npz file"
        )
    if skipped:
        say(f"{path}: skipped: {skipped}")
    # only folder names mark the split of images: a program may put a split's name into every file name
    named = (split_of(file.parts if tables else file.parts[:-1]) for file in listing.files)
    splits = {split for split in named if split is not None}
    if len(splits) > 1:
        raise ValueError(f"{path}: images of several splits ({', '.join(sorted(splits))}); give the folder or file of "
                         "one")  # fmt: skip
    if tables:
        return ParquetImages([Path(file.path) for file in tables])
    if listing.folders and (problem := no_classes(pictures)):
        say(f"{path}: no labels, for {problem}")
    return FolderImages(pictures)


def _check_index(index: np.ndarray, path: Path) -> None:
    if not len(index):
        raise ValueError(f"{path}: no images in it")
    values, counts = np.unique(index, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{path}: index {values[counts > 1][0]} occurs {counts.max()} times; give each image a unique index"
        )


class FolderImages:
    """Image files of a folder, by name. Class folders give labels; names that are numbers (00012.png), the index."""

    def __init__(self, files: list[File]):
        self.files = [Path(file.path) for file in files]
        if no_classes(files):
            self.labels = np.full(len(files), UNLABELLED, np.int32)
            self.index = _numbers(files)
        else:
            classes = {name: label for label, name in enumerate(sorted({file.parts[0] for file in files}))}
            self.labels = np.array([classes[file.parts[0]] for file in files], np.int32)
            self.index = np.arange(len(files))

    def contents(self, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        for file in self.files[start:stop]:
            yield str(file), file.read_bytes()


def no_classes(files: list[File]) -> str:
    """Why the folders of these images cannot be classes; empty if they can."""
    folders = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    if any(len(file.parts) == 1 for file in files):
        return "some images are outside the class folders" if folders else "there are no class folders"
    some = ", ".join(folders[:2]) + (", …" if len(folders) > 2 else "")
    if are_parts(files):
        return f"the folders {some} are parts of one numbered set"
    if all(map(str.isdecimal, folders)) and sorted(map(int, folders)) != list(range(len(folders))):
        return f"the folders {some} have numbers, but not those of classes, 0 to {len(folders) - 1}"
    return ""


def _numbers(files: list[File]) -> np.ndarray:
    """The numbers that are the files' names; their positions where a name is none, or one occurs in two folders."""
    stems = [os.path.splitext(file.parts[-1])[0] for file in files]
    if not all(stem.isdecimal() and len(stem) <= DIGITS for stem in stems):
        return np.arange(len(files))
    numbers = np.array(list(map(int, stems)), np.int64)
    is_flat = all(len(file.parts) == 1 for file in files)
    return numbers if is_flat or len(set(numbers.tolist())) == len(files) else np.arange(len(files))


class ArrayImages:
    """Images of `arr_0`, uint8 [n, H, W, 3], in an .npz file; labels from `arr_1`. Nothing is unpickled.

    Images are read as a stream, one at a time. An array in Fortran's order has no image in one piece, so it is read
    into memory as a whole. Raises ValueError for a damaged file, another type or shape, and unfit labels.
    """

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        self.stream: IO[bytes] | None = None
        self.pixels: np.ndarray | None = None
        try:
            self.archive = zipfile.ZipFile(path)
        except DAMAGED as error:
            raise ValueError(f"{path}: not a complete .npz file ({error}); copy it again") from None
        names = [name.removesuffix(".npy") for name in self.archive.namelist() if name.endswith(".npy")]
        if ARRAY not in names:
            raise ValueError(f"{path}: array {ARRAY!r} is missing; found {', '.join(names) or 'none'}")
        shape, self.fortran, dtype = self._header(ARRAY)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
            raise ValueError(f"{path}: {ARRAY} is {dtype} {list(shape)}; expected colour images, uint8 [n, H, W, 3]")
        self.shape = shape[1:]
        self.index = np.arange(shape[0])
        self.labels = self._read_labels(next((name for name in LABELS if name in names), None), shape[0])

    @contextmanager
    def _sound(self, where: str) -> Iterator[None]:
        """Say of what the archive raises that the file is damaged."""
        try:
            yield
        except DAMAGED as error:
            raise ValueError(f"{self.path}: damaged near {where} ({error}); copy it again") from None

    def _header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
        """Shape, whether in Fortran's order, and type of an array. Raises ValueError where the file cannot hold it."""
        with self._sound(name), self.archive.open(f"{name}.npy") as stream:
            shape, fortran, dtype = _array_header(stream, f"{self.path}: {name}")
            held = self.archive.getinfo(f"{name}.npy").file_size - stream.tell()
        size = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and (min(shape, default=1) < 0 or size != held):
            raise ValueError(f"{self.path}: {name} is {dtype} {list(shape)} by its header, {size} bytes, but the file "
                             f"holds {held}; write it again with numpy.savez")  # fmt: skip
        return shape, fortran, dtype

    def _read_labels(self, name: str | None, count: int) -> np.ndarray:
        if name is None:
            return np.full(count, UNLABELLED, np.int32)
        shape, _, dtype = self._header(name)
        if shape != (count,) or dtype.kind not in "iu":
            raise ValueError(f"{self.path}: {name} is {dtype} {list(shape)}; expected {count} integers")
        return fitting(self._whole(name), np.int32, f"{self.path}: {name}")

    def _whole(self, name: str) -> np.ndarray:
        with self._sound(name), self.archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def contents(self, start: int, stop: int) -> Iterator[tuple[str, np.ndarray]]:
        images = self._in_memory(start, stop) if self.fortran else self._streamed(start, stop)
        for row, image in enumerate(images, start):
            yield f"{self.path} image {row}", image

    def _in_memory(self, start: int, stop: int) -> Iterator[np.ndarray]:
        if self.pixels is None:
            self.pixels = self._whole(ARRAY)
        yield from np.ascontiguousarray(self.pixels[start:stop])

    def _streamed(self, start: int, stop: int) -> Iterator[np.ndarray]:
        size = math.prod(self.shape)
        with self._sound(f"image {start}"):
            if self.stream is None or start < self.position:
                self.stream, self.position = self.archive.open(f"{ARRAY}.npy"), 0
                _array_header(self.stream, f"{self.path}: {ARRAY}")
            stream = self.stream
            stream.seek((start - self.position) * size, io.SEEK_CUR)
        for row in range(start, stop):
            with self._sound(f"image {row}"):
                content, self.position = stream.read(size), row + 1
            if len(content) < size:
                raise ValueError(f"{self.path}: image {row} is cut off; copy the file again")
            yield np.frombuffer(content, np.uint8).reshape(self.shape)


def _array_header(stream, what: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(stream)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"{what} is no NumPy array ({error}); write the file with numpy.savez") from None


class ParquetImages:
    """Images of Parquet files, column `image` (bytes, or a struct with them); `index` and `label` where they exist.

    Either counts only where all files have it. Raises ValueError for a damaged file, and for keys that are no integers.
    """

    def __init__(self, files: list[Path]):
        counts = [open_parquet(file, ["image"]).metadata.num_rows for file in files]
        self.rows = [(str(file), row) for file, count in zip(files, counts, strict=True) for row in range(count)]
        index, labels = _keys(files, "index", np.int64), _keys(files, "label", np.int32)
        self.index = np.arange(len(self.rows)) if index is None else index
        self.labels = np.full(len(self.rows), UNLABELLED, np.int32) if labels is None else labels
        self.reader = RowReader()

    def contents(self, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        for file, row in self.rows[start:stop]:
            yield f"{file} row {row}", self.reader.encoded(file, row)


def _keys(files: list[Path], column: str, dtype: type) -> np.ndarray | None:
    """A column of whole numbers from all files; None unless every file has it."""
    parts = []
    for file in files:  # one open file at a time: there may be more than a process may open
        if column not in open_parquet(file, ["image"]).schema_arrow.names:
            return None
        parquet = open_parquet(file, ["image", column])
        parts.append(whole_numbers(parquet, file, column, dtype))
    return np.concatenate(parts)


OPENERS: dict[str, Callable] = {".npz": ArrayImages, ".parquet": lambda path: ParquetImages([path])}


# Pixels


class Drawn(NamedTuple):
    """One decoded image of a collection."""

    where: str
    pixels: np.ndarray  # uint8 [H, W, 3]
    lossy: str  # the format of its file where that changes pixels, such as JPEG; else empty


def decoded(item: tuple[str, bytes | np.ndarray]) -> Drawn:
    """The image of one (where, content). Raises ValueError for what is no 8-bit colour image."""
    where, content = item
    if isinstance(content, np.ndarray):
        return Drawn(where, content, "")
    picture = load_picture(io.BytesIO(content), where)
    found = f"mode {picture.image.mode} (L is grey, RGBA has alpha, P a palette)"
    if picture.image.mode == "RGB":
        found = f"{picture.bits} bits a channel" if picture.bits > 8 else ""
        found = found or ("a transparent colour" if picture.image.has_transparency_data else "")
    if found:
        raise ValueError(f"{where}: {found}; the protocol takes 8-bit RGB, so convert the images first")
    return Drawn(where, np.asarray(picture.image), lossy_format(picture, content))


def iter_pixels(collection, start: int, stop: int) -> Iterator[Drawn]:
    """Yield images start to stop, in order, decoded by several threads."""
    threads = len(os.sched_getaffinity(0))
    contents = collection.contents(start, stop)
    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes outside the interpreter lock
        while chunk := list(islice(contents, 8 * threads)):
            yield from pool.map(decoded, chunk)


class Checked(NamedTuple):
    """What `checked` found out about a collection."""

    sha256: str  # of index, label and pixels of all images
    parts: list[str]  # the same of each part
    lossy: Counter[str]  # images in formats that change pixels, by format


def checked(collection, size: int, part: int, progress: Callable[[int, int], None]) -> Checked:
    """Decode all images. Raises ValueError naming the first that is unreadable, of another mode, or of another size.

    size: of the images, in pixels. part: images of a part.
    """
    total, content, first = len(collection.index), hashlib.sha256(), None
    parts = [hashlib.sha256() for _ in range(0, total, part)]
    lossy: Counter[str] = Counter()
    progress(0, total)
    for done, (where, pixels, format) in enumerate(iter_pixels(collection, 0, total)):
        first = first or (where, pixels.shape)
        if pixels.shape != first[1]:
            raise ValueError(f"{where}: {_size(pixels.shape)}, but {first[0]} has {_size(first[1])}; one set of images "
                             "needs one size")  # fmt: skip
        if pixels.shape != (size, size, 3):
            raise ValueError(f"{where}: {_size(pixels.shape)}; the protocol scores images of {size} x {size} pixels")
        keys = np.array([collection.index[done], collection.labels[done]], np.int64).tobytes()
        for hashed in (content, parts[done // part]):
            hashed.update(keys)
            hashed.update(np.ascontiguousarray(pixels).data)
        lossy.update([format] if format else [])
        progress(done + 1, total)
    return Checked(content.hexdigest(), [each.hexdigest() for each in parts], lossy)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"
