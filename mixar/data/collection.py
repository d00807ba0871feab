"""Images that any program drew: a folder, an .npz array or Parquet files, read in parts, one image at a time.

A collection has `index` int64 [n], `labels` int32 [n] (UNLABELLED where it names no class), and
`contents(start, stop)`, which yields (where, content): encoded bytes, or pixels uint8 [H, W, 3]. Opening one looks at
names, headers and keys alone; `checked` decodes every image and says whether they are what a protocol takes.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixar.data.decoding import load_picture
from mixar.data.images import RowReader
from mixar.data.sources import SUFFIXES, open_parquet

UNLABELLED = -1
DIGITS = 18  # of a name that is an index: more may not fit into 64 bits
ARRAY, LABELS = "arr_0", ("arr_1", "labels", "label")  # as numpy.savez names them, ADM's files included


def open_collection(path: str | Path) -> FolderImages | ArrayImages | ParquetImages:
    """The images at a path: a folder of images or of Parquet files, a Parquet file, or an .npz file.

    Raises ValueError for a path without images, with two kinds of them, or with an index that occurs twice.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        pictures = [p for p in found if p.suffix.lower() in SUFFIXES]
        tables = [p for p in found if p.suffix == ".parquet"]
        if bool(pictures) == bool(tables):
            raise ValueError(
                f"{path}: {len(pictures)} images ({', '.join(SUFFIXES)}) and {len(tables)} Parquet files; give a "
                "folder that holds one of the two kinds, or an .npz file"
            )
        opened = FolderImages(path, pictures) if pictures else ParquetImages(tables)
    elif path.suffix in OPENERS and path.is_file():
        opened = OPENERS[path.suffix](path)
    else:
        raise ValueError(f"{path}: no folder, .npz or .parquet file of images there")
    _check_index(opened.index, path)
    return opened


def _check_index(index: np.ndarray, path: Path) -> None:
    if not len(index):
        raise ValueError(f"{path}: no images in it")
    values, counts = np.unique(index, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{path}: index {values[counts > 1][0]} occurs {counts.max()} times; give each image an index of its own"
        )


class FolderImages:
    """Image files of a folder, by name. Class folders give labels; names that are numbers (00012.png), the index."""

    def __init__(self, root: Path, files: list[Path]):
        self.files = files
        folders = [file.relative_to(root).parts[0] if file.parent != root else None for file in files]
        classes = {name: label for label, name in enumerate(sorted(set(folders) - {None}))}
        labelled = None not in folders
        self.labels = np.array([classes[f] if labelled else UNLABELLED for f in folders], np.int32)
        numbered = not classes and all(file.stem.isdecimal() and len(file.stem) <= DIGITS for file in files)
        self.index = np.array([int(f.stem) for f in files] if numbered else range(len(files)), np.int64)

    def contents(self, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        for file in self.files[start:stop]:
            yield str(file), file.read_bytes()


class ArrayImages:
    """Images of `arr_0`, uint8 [n, H, W, 3], in an .npz file; labels from `arr_1`. Read as a stream, nothing unpickled.

    Raises ValueError for a damaged file, another type or shape, and labels of another length.
    """

    def __init__(self, path: Path):
        self.path, self.stream, self.position = path, None, 0
        try:
            self.archive = zipfile.ZipFile(path)
            names = [name.removesuffix(".npy") for name in self.archive.namelist()]
            if ARRAY not in names:
                raise ValueError(f"{path}: array {ARRAY!r} is missing; found {', '.join(names) or 'none'}")
            with self.archive.open(f"{ARRAY}.npy") as stream:
                shape, fortran, dtype = _array_header(stream, path)
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise ValueError(f"{path}: not a complete .npz file ({error}); copy it again") from None
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran:
            raise ValueError(f"{path}: {ARRAY} is {dtype} {list(shape)}; expected colour images, uint8 [n, H, W, 3]")
        self.shape = shape[1:]
        self.index = np.arange(shape[0])
        self.labels = self._read_labels(next((name for name in LABELS if name in names), None), shape[0])

    def _read_labels(self, name: str | None, count: int) -> np.ndarray:
        if name is None:
            return np.full(count, UNLABELLED, np.int32)
        with np.load(self.path, allow_pickle=False) as content:
            labels = content[name]
        if labels.shape != (count,) or labels.dtype.kind not in "iu":
            raise ValueError(f"{self.path}: {name} is {labels.dtype} {list(labels.shape)}; expected {count} integers")
        return labels.astype(np.int32)

    def contents(self, start: int, stop: int) -> Iterator[tuple[str, np.ndarray]]:
        size = int(np.prod(self.shape))
        try:
            if self.stream is None or start < self.position:
                self.stream, self.position = self.archive.open(f"{ARRAY}.npy"), 0
                _array_header(self.stream, self.path)
            self.stream.seek((start - self.position) * size, io.SEEK_CUR)
            for row in range(start, stop):
                content, self.position = self.stream.read(size), row + 1
                if len(content) < size:
                    raise ValueError(f"{self.path}: image {row} is cut off; copy the file again")
                yield f"{self.path} image {row}", np.frombuffer(content, np.uint8).reshape(self.shape)
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise ValueError(f"{self.path}: damaged near image {self.position} ({error}); copy it again") from None


def _array_header(stream, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(stream)
    except ValueError as error:
        raise ValueError(f"{path}: {ARRAY} is no NumPy array ({error}); write the file with numpy.savez") from None


class ParquetImages:
    """Images of Parquet files, column `image` (bytes, or a struct with them); `index` and `label` where they exist."""

    def __init__(self, files: list[Path]):
        opened = [open_parquet(file, ["image"]) for file in files]
        self.rows = [(str(file), row) for file, p in zip(files, opened, strict=True) for row in range(_length(p))]
        self.index = _keys(opened, "index", np.arange(len(self.rows)))
        self.labels = _keys(opened, "label", np.full(len(self.rows), UNLABELLED)).astype(np.int32)
        self.reader = RowReader()

    def contents(self, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        for file, row in self.rows[start:stop]:
            where = f"{file} row {row}"
            try:
                content = self.reader.source(file, row).getvalue()
            except (pa.ArrowException, OSError, TypeError, KeyError) as error:
                raise ValueError(f"{where}: image.bytes cannot be read ({error})") from None
            yield where, content


def _length(parquet: pq.ParquetFile) -> int:
    return parquet.metadata.num_rows


def _keys(files: list[pq.ParquetFile], column: str, default: np.ndarray) -> np.ndarray:
    """A column of whole numbers from all files; the default unless every file has it without gaps."""
    if not all(column in file.schema_arrow.names for file in files):
        return default
    found = pa.concat_tables([file.read(columns=[column]) for file in files])[column]
    if found.null_count or not pa.types.is_integer(found.type):
        raise ValueError(f"column {column!r}: expected whole numbers without gaps, found {found.type} with "
                         f"{found.null_count} gaps")  # fmt: skip
    return found.to_numpy().astype(np.int64)


OPENERS: dict[str, Callable] = {".npz": ArrayImages, ".parquet": lambda path: ParquetImages([path])}


# Pixels


def decoded(item: tuple[str, bytes | np.ndarray]) -> np.ndarray:
    """Pixels uint8 [H, W, 3] of one (where, content). Raises ValueError for what is no 8-bit colour image."""
    where, content = item
    if isinstance(content, np.ndarray):
        return content
    picture = load_picture(io.BytesIO(content), where)
    mode = picture.image.mode
    if mode != "RGB":
        raise ValueError(f"{where}: mode {mode} (L is grey, RGBA has alpha, P a palette); the protocol takes 8-bit "
                         "RGB, so convert the images first")  # fmt: skip
    if picture.bits > 8:
        raise ValueError(f"{where}: {picture.bits} bits a channel; the protocol takes 8-bit RGB, so convert the images "
                         "first")  # fmt: skip
    return np.asarray(picture.image)


def iter_pixels(collection, start: int, stop: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (where, pixels) of images start to stop, in order, decoded by several threads."""
    threads = len(os.sched_getaffinity(0))
    contents = collection.contents(start, stop)
    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes outside the interpreter lock
        while chunk := list(islice(contents, 16 * threads)):
            yield from zip((where for where, _ in chunk), pool.map(decoded, chunk), strict=True)


def checked(collection, size: int, progress: Callable[[int, int], None]) -> str:
    """SHA-256 of index, label and pixels of all images, after each was found to be size x size pixels of RGB.

    Raises ValueError naming the first image that is unreadable, of another mode, or of another size.
    """
    total, content, first = len(collection.index), hashlib.sha256(), None
    for done, (where, pixels) in enumerate(iter_pixels(collection, 0, total)):
        first = first or (where, pixels.shape)
        if pixels.shape != first[1]:
            raise ValueError(f"{where}: {_size(pixels.shape)}, but {first[0]} has {_size(first[1])}; one set of images "
                             "needs one size")  # fmt: skip
        if pixels.shape != (size, size, 3):
            raise ValueError(f"{where}: {_size(pixels.shape)}; the protocol scores images of {size} x {size} pixels")
        content.update(np.int64([collection.index[done], collection.labels[done]]).tobytes())
        content.update(np.ascontiguousarray(pixels))
        progress(done + 1, total)
    return content.hexdigest()


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"
