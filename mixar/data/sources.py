"""Where images come from: the embedded drawings, folders of class folders, Hugging Face style Parquet.

ILSVRC and WebDataset have their own files, `mixar.data.ilsvrc` and `mixar.data.webdataset`.

A source is a function (listing of files, settings key for messages) -> Originals. It knows names, classes and where the
encoded bytes are; `mixar.data.manifest` decodes them. For one of your own, name it in the study: `data: {source:
"my_module:my_source", path: …}`. Its listing then holds every file at the path, and each Original says where the image
is: in a file of its own, in a row of a Parquet file with a column `image`, or in a tar.
Problems with files and columns are met here, before any work: ValueError naming the file, what was found and what would
do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mixar.process.failures import is_shortage
from mixar.storage.files import iter_batches
from mixar.storage.listing import IMAGES, File, Listing, are_parts, counted, named_after_splits
from mixar.study import choices


class Original(NamedTuple):
    """One image of a source before it is decoded.

    row: of a Parquet file; -1: the file is the image, or a tar that holds it in `size` bytes from byte `offset` on.
    identity: the text that decides the image's split; None: its content decides. designer: who drew it; empty: unknown.
    """

    label: int
    class_name: str
    fine_label: int
    fine_name: str
    name: str
    file: str
    row: int
    identity: str | None
    offset: int = -1
    size: int = -1
    designer: str = ""

    @property
    def where(self) -> str:
        """The image in messages."""
        return where_of(self.file, self.row, self.offset, self.name)


def where_of(file: str, row: int, offset: int, name: str) -> str:
    """An image in messages, by these columns of the manifest."""
    if row >= 0:
        return f"{file} row {row}"
    return file if offset < 0 else f"{file} member {name}"


class Originals(NamedTuple):
    """The images of a source, in order: their number, and each with its encoded bytes. None, row -1: read where it is.

    classes: label, class_name, fine_label, fine_name of all of them, known before any image is read. left_out: a
    message about files that are not images of the source.
    """

    total: int
    classes: set[tuple[int, str, int, str]]
    items: Iterator[tuple[Original, bytes | None]]
    left_out: str = ""


def emoji(files: Listing, key: str) -> Originals:
    """Entries of the embedded emoji: one drawing per concept, so no skin-tone variants and no pixel duplicates."""
    file, rows = _drawn(files, key, ["skin_tone", "duplicate_of"])
    kept = [(row, e) for row, e in rows if not e["skin_tone"] and e["duplicate_of"] is None]
    if not kept:
        raise ValueError(f"{key}: {file} holds no emoji without skin tone; rebuild it with resources/build_emoji.py")
    return _by_subgroup(file, kept)


def drawings(files: Listing, key: str) -> Originals:
    """Entries of the embedded drawings of several designers. All drawings of a concept share a split."""
    file, rows = _drawn(files, key, ["designer"])
    if not rows:
        raise ValueError(f"{key}: {file} holds no rows; rebuild it with resources/build_drawings.py")
    return _by_subgroup(file, rows)


def _drawn(files: Listing, key: str, further: list[str]) -> tuple[Path, list[tuple[int, dict]]]:
    """The one Parquet file of drawings, and its rows with their numbers. further: columns beside the usual ones."""
    _check_found(files, key)
    if len(files.files) > 1:
        raise ValueError(f"{key}: {len(files.files)} Parquet files, such as {files.files[0].path}; give one of them")
    file, columns = Path(files.files[0].path), ["image", "label", "group", "subgroup", "name", *further]
    return file, list(enumerate(_read(open_parquet(file, columns), file, columns).to_pylist()))


def _by_subgroup(file: Path, rows: list[tuple[int, dict]]) -> Originals:
    """Drawings whose fine classes are Unicode's subgroups; the name decides the split."""
    subgroups: dict[str, int] = {}
    found = []
    for row, e in rows:
        fine = subgroups.setdefault(e["subgroup"], len(subgroups))
        names = (e["label"], e["group"], fine, e["subgroup"], e["name"])
        original = Original(*names, str(file), row, identity=e["name"], designer=e.get("designer", ""))
        found.append((original, e["image"]))
    return Originals(len(found), {original[:4] for original, _ in found}, iter(found))


def folder(files: Listing, key: str) -> Originals:
    """Entries of a folder of class folders; classes and images in the order of their names, folders below included."""
    if not os.path.isdir(files.root):
        raise ValueError(f"{key}: {files.root} is no folder; give a folder with one folder of images per class")
    classes: dict[str, list[File]] = {name: [] for name in files.folders}
    for file in files.files:
        if len(file.parts) > 1:
            classes[file.parts[0]].append(file)
    if not classes:
        found = f"{counted(len(files.files), 'image')} and no folder" if files.files else "no folder"
        raise ValueError(f"{key}: {files.root} has no class folders (found {found}); give a folder with one folder of "
                         "images per class")  # fmt: skip
    for name, images in classes.items():
        if not images:
            skipped = files.skipped_in_words() or "nothing else"
            raise ValueError(f"{key}: class folder {files.root}/{name} has no image ({', '.join(IMAGES)}); in all of "
                             f"{files.root} there are also: {skipped}")  # fmt: skip
    if named_after_splits(classes):
        raise ValueError(f"{key}: the folders of {files.root} are splits, not classes: {', '.join(classes)}; give one "
                         "as data.path and another as data.held_out_path")  # fmt: skip
    if are_parts(file for file in files.files if len(file.parts) > 1):
        first, second = list(classes)[:2]
        raise ValueError(f"{key}: the folders of {files.root} ({first}, {second}, …) are parts of one numbered set, "
                         "not classes; sort its images into one folder per class")  # fmt: skip
    placed = [(label, file) for label, images in enumerate(classes.values()) for file in images]
    outside = len(files.files) - len(placed)
    left_out = f"{counted(outside, 'image')} outside of the class folders" if outside else ""
    known = {(label, name, label, name) for label, name in enumerate(classes)}
    return Originals(len(placed), known, (_in_class(label, file) for label, file in placed), left_out)


def _in_class(label: int, file: File) -> tuple[Original, None]:
    class_name, name = file.parts[0], "/".join(file.parts[1:])
    names = (label, class_name, label, class_name, name)
    return Original(*names, file.path, -1, f"{class_name}/{name}"), None


def parquet(files: Listing, key: str) -> Originals:
    """Entries of Hugging Face style Parquet: columns `image` (struct with `bytes`, `path`) and `label`."""
    _check_found(files, key)
    total, classes = 0, set()
    for file in files.files:
        with open_parquet(Path(file.path), ["image", "label"]) as parquet:
            _check_image_column(parquet.schema_arrow, file.path)
            names, labels = _label_names(parquet.schema_arrow), _labels(parquet, file.path)
        total += len(labels)
        classes |= {_class_of(label, names) for label in set(labels)}
    if not total:
        raise ValueError(f"{key}: {files.root} holds no rows")
    return Originals(total, classes, (row for file in files.files for row in _rows(Path(file.path))))


def _class_of(label: int, names: list[str] | None) -> tuple[int, str, int, str]:
    name = names[label] if names else str(label)
    return label, name, label, name


def _labels(parquet: pq.ParquetFile, file: str) -> list[int]:
    """The column of labels. Raises ValueError naming the first row whose label is no class."""
    names, column = _label_names(parquet.schema_arrow), _read(parquet, file, ["label"])["label"]
    try:
        labels = column.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, or a time that Python has no number for
        raise ValueError(f"{file}: column 'label' is {column.type} ({error}); expected the numbers of classes, 0 or "
                         "more") from None  # fmt: skip
    for row, label in enumerate(labels):
        if label is not None and type(label) is not int:  # True is an int, too
            raise ValueError(f"{file} row {row}: label {label!r}; expected the number of a class, 0 or more")
        if label is None or label < 0 or (names and label >= len(names)):
            raise ValueError(f"{file} row {row}: label {label} names no class; give a split that has labels")
    return labels


def _check_found(files: Listing, key: str) -> None:
    if not files.files:
        raise ValueError(f"{key}: no Parquet file at {files.root}")


def _check_image_column(schema: pa.Schema, file: str) -> None:
    image = schema.field("image").type
    encoded = image.field("bytes").type if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 else None
    if encoded not in (pa.binary(), pa.large_binary(), pa.binary_view()):
        raise ValueError(f"{file}: column 'image' is {image}; expected a struct with binary `bytes`: images must be "
                         "embedded in the Parquet file")  # fmt: skip
    path = image.field("path").type if image.get_field_index("path") >= 0 else pa.null()
    text = path.value_type if pa.types.is_dictionary(path) else path
    if text not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        raise ValueError(f"{file}: image.path is {path}; expected text, or leave it out: only the bytes are needed")


def _rows(file: Path) -> Iterator[tuple[Original, bytes | None]]:
    with open_parquet(file, ["image", "label"]) as parquet:
        names, batches = _label_names(parquet.schema_arrow), iter_batches(parquet, file, ["image", "label"])
        pairs = (pair for batch in batches for pair in zip(batch["image"], batch["label"].to_pylist(), strict=True))
        for row, (image, label) in enumerate(pairs):
            name = _path(image, f"{file} row {row}") or f"{file.name}:{row}"
            content = image["bytes"].as_py() if image.is_valid else None
            yield Original(*_class_of(label, names), name, str(file), row, None), content


def _path(image: pa.StructScalar, where: str) -> str | None:
    index = image.type.get_field_index("path")
    if not image.is_valid or index < 0:
        return None
    try:
        return image[index].as_py()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: image.path is not UTF-8 ({error.object!r}); write it as UTF-8, or leave the paths "
                         "out") from None  # fmt: skip


def _label_names(schema: pa.Schema) -> list[str] | None:
    """Class names from the metadata that the `datasets` library writes, or None."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):  # other metadata, or labels without names
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def open_parquet(file: Path, columns: list[str]) -> pq.ParquetFile:
    """A Parquet file that has each of these columns once. Raises ValueError naming the file and what is wrong."""
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        if is_shortage(error):
            raise
        raise ValueError(f"{file}: not a complete Parquet file ({error}); copy or download it again") from None
    missing = [c for c in columns if c not in parquet.schema_arrow.names]
    if missing:
        raise ValueError(f"{file}: columns {missing} are missing; found {parquet.schema_arrow.names}")
    for column in columns:
        if (count := parquet.schema_arrow.names.count(column)) > 1:
            raise ValueError(f"{file}: {count} columns are named {column!r}; keep one of them")
    return parquet


def _read(parquet: pq.ParquetFile, file: str | Path, columns: list[str]) -> pa.Table:
    try:
        return parquet.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        if is_shortage(error):
            raise
        raise ValueError(f"{file}: damaged ({error}); copy or download it again") from None


def read_source(source: str, files: Listing, key: str) -> Originals:
    """The images of a source, by its name or "module:function". Raises ValueError if it cannot be loaded or returns
    something else."""
    found = choices.SOURCES.load_function(source)(files, key)
    if not isinstance(found, Originals):
        raise ValueError(f"data.source {source!r}: returned a {type(found).__name__}; expected an Originals")
    return found
