"""The manifest: one table with a row per image of a study, its split and its class.

Every later stage refers to an image by its `index` there.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixar.assets.check import require
from mixar.assets.table import PREFIX
from mixar.data.decoding import read_picture
from mixar.data.images import check_proportions, content_of
from mixar.data.shards import TokenStore
from mixar.data.sources import Original, Originals, read_source
from mixar.data.tars import read_encoded
from mixar.process.failures import is_shortage
from mixar.storage.files import write_text
from mixar.storage.listing import THREADS, Listing, counted
from mixar.study.inventory import listed
from mixar.study.sections import Data

SPLITS = ("train", "held_out")

TEXT = pa.large_string()  # Arrow takes rows of a `string` column only while it has less than 2 GiB
MANIFEST = pa.schema(
    [
        ("index", pa.int64()),
        ("split", TEXT),
        ("label", pa.int32()),
        ("class_name", TEXT),
        ("fine_label", pa.int32()),  # drawings: subgroup; elsewhere the class again
        ("fine_name", TEXT),
        ("name", TEXT),
        ("file", TEXT),
        ("row", pa.int64()),  # of a Parquet file; -1: `file` is the image itself, or a tar that holds it
        ("offset", pa.int64()),  # first byte in a tar, and bytes from there on; -1: elsewhere
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("content", TEXT),  # BLAKE2b, 128 bits, of the encoded image
        ("designer", TEXT),  # of a drawing; elsewhere empty
    ]
)
LATER = {"offset": -1, "size": -1, "designer": ""}  # columns that manifests of earlier versions lack
DRAWN = ("emoji", "drawings")  # sources whose images share one square size
IDENTITY = ["split", "label", "fine_label", "content"]  # what identifies the images, whatever their paths

WINDOW = 4 * THREADS  # encoded images in memory: they may have 20 MB each
SHOWN = 100  # unreadable images that a message names
FEW = 5
TOLERABLE = 0.1  # share of held-out images among the training images that a message still offers to allow


class Entry(NamedTuple):
    """A decoded image of a source."""

    original: Original
    width: int
    height: int
    content: str


def ingest_manifest(
    data: Data,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
    unreadable: Path | None = None,
) -> pa.Table:
    """The manifest of a study's images (schema MANIFEST), ordered by split source, class and name.

    Every image is decoded once. The held-out split is `held_out_path` where given, or what `held_out_designer` drew;
    else an image is held out when the hash of its name (drawings: of its concept; folders: its relative path; Parquet:
    its bytes) falls below `held_out_rate`, whatever else is in the source; copies of one image share a split. say:
    tells what is left out. progress(done, total): images.
    Raises ValueError for missing, empty or truncated sources, for unreadable images (all of them, unless
    `skip_unreadable`), for other classes than the study's, and for images in both splits.
    """
    require(*(value for value in (data.path, data.held_out_path) if value and value.startswith(PREFIX)))
    sources = _opened(data, say)
    entries = _readable(data, sources, say, progress, unreadable)
    if data.held_out_path:
        held_out = [False] * len(entries[0]) + [True] * len(entries[1])
        _check_contents(data, entries[0], entries[1], say)
    else:
        held_out = _split(entries[0], data)
    _report_labels(entries, say)
    table = _table([entry for part in entries for entry in part], held_out)
    _check_training_classes(data, table)
    table = _limited(table, data)
    for split in SPLITS:
        if split not in table["split"].to_pylist():
            key = "data.limit" if data.limit else "data.held_out_rate"
            raise ValueError(f"{key}: the {split} split has no image among {len(table)}; change it")
    if data.source in DRAWN:
        _uniform(table, data.image_size)
    return table


def read_manifest(path: Path, split: str | None = None, columns: list[str] | None = None) -> pa.Table:
    """The rows of a manifest file, of one split or of both; columns: only these are read and returned.

    Raises ValueError for a file that is missing or damaged, or that an earlier version wrote.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no manifest yet; run `ingest` first")
    try:
        parquet = pq.ParquetFile(path)
        wanted = MANIFEST.names if columns is None else list(dict.fromkeys([*columns, "split"] if split else columns))
        table = parquet.read([name for name in wanted if name not in LATER or name in parquet.schema_arrow.names])
    except (pa.ArrowException, OSError) as error:
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: not a complete Parquet file ({error}); run `ingest` again") from None
    if missing := [name for name in MANIFEST.names if name not in {*parquet.schema_arrow.names, *LATER}]:
        raise ValueError(f"{path}: the manifest of an earlier version, without {', '.join(missing)}; run `ingest` "
                         "again, and all that follows (snakemake does both)")  # fmt: skip
    for name in [name for name in wanted if name not in table.column_names]:
        table = table.append_column(name, pa.array([LATER[name]] * len(table), MANIFEST.field(name).type))
    table = table.select(wanted)
    if split is None:
        return table
    rows = table.filter(pc.equal(table["split"], split))
    return rows if columns is None else rows.select(columns)


def count_images(data: Data) -> dict[str, int]:
    """Images of each split as `ingest_manifest` will find them, without decoding one; where their contents decide the
    split, at most so many.

    Raises ValueError for missing or damaged sources, for other classes than the study's, and for files in both splits.
    """
    sources = _opened(data, lambda _: None)
    if data.held_out_path:
        return {split: originals.total for split, originals in zip(SPLITS, sources, strict=True)}
    train = sources[0]
    total = train.total
    if data.limit and data.limit < total:
        held_out = _held_out_of(data.limit, data)
        return {"train": data.limit - held_out, "held_out": held_out}
    if data.source == "parquet":
        return {"train": total, "held_out": total}
    originals = [original for original, _ in train.items]
    if data.held_out_designer:
        held_out = sum(_drawn_by(originals, data.held_out_designer))
        return {"train": total - held_out, "held_out": held_out}
    identities = [original.identity for original in originals]
    if None in identities:
        return {"train": total, "held_out": total}
    held_out = sum(_share(str(identity)) < data.held_out_rate for identity in identities)
    return {"train": total - held_out, "held_out": held_out}


def _held_out_of(limit: int, data: Data) -> int:
    return max(1, round(limit * data.held_out_rate))


def _opened(data: Data, say: Callable[[str], None]) -> list[Originals]:
    """The images of `path`, and of `held_out_path` where the study names it; their classes and files fit together."""
    keys = ["path", "held_out_path"] if data.held_out_path else ["path"]
    listings = [listed(data, key) for key in keys]
    sources = []
    for key, listing in zip(keys, listings, strict=True):
        sources.append(read_source(data.source, listing, f"data.{key}"))
        if skipped := "; ".join(filter(None, (sources[-1].left_out, listing.skipped_in_words()))):
            say(f"data.{key}: skipped in {listing.root}: {skipped}")
    _check_classes(data, *(originals.classes for originals in sources))
    _check_files(*listings)
    return sources


def _readable(
    data: Data, sources: list, say: Callable[[str], None], progress: Callable, file: Path | None
) -> list[list[Entry]]:
    """The entries of each source. Raises ValueError with every image that cannot be read, unless they are skipped."""
    total, done = sum(originals.total for originals in sources), 0
    unreadable: list[str] = []
    entries: list[list[Entry]] = []
    progress(done, total)
    with ThreadPoolExecutor(THREADS) as pool:  # Pillow decodes outside the interpreter lock
        for originals in sources:
            entries.append([])
            while chunk := list(islice(originals.items, WINDOW)):
                for found in pool.map(lambda item: _entry(item[0], item[1], data.image_size), chunk):
                    if isinstance(found, str):
                        unreadable.append(found)
                    else:
                        entries[-1].append(found)
                done += len(chunk)
                progress(done, total)
    if file is not None:
        file.unlink(missing_ok=True)
    if unreadable:
        listed = "\n".join(f"  {problem}" for problem in unreadable[:SHOWN])
        listed += f"\n  and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
        if file is not None:
            write_text(file, "".join(f"{problem}\n" for problem in unreadable))
            listed += f"\nAll of them: {file}"
        if not data.skip_unreadable:
            raise ValueError(f"data: {len(unreadable)} of {total} images cannot be used:\n{listed}\nReplace or remove "
                             "them, or leave them out with data.skip_unreadable: true")  # fmt: skip
        say(f"data.skip_unreadable: left out {len(unreadable)} of {total} images:\n{listed}")
    return entries


def _entry(original: Original, encoded: bytes | None, size: int) -> Entry | str:
    """The entry of an image, or why it cannot be used."""
    where = original.where
    if original.row >= 0 and not isinstance(encoded, bytes):
        return f"{where}: image.bytes is missing; images must be embedded in the Parquet file"
    try:
        encoded = read_encoded(original.file, original.offset, original.size) if encoded is None else encoded
        image = read_picture(io.BytesIO(encoded), where)
        check_proportions(image, size, where)
    except OSError as error:
        return f"{where}: {error.strerror or error}"
    except ValueError as error:
        return str(error)
    return Entry(original, image.width, image.height, content_of(encoded))


def _check_classes(data: Data, classes: set[tuple], held_out: Set[tuple] = frozenset()) -> None:
    labels = {label for label, *_ in classes}
    if gaps := set(range(len(labels))) - labels:
        raise ValueError(
            f"data.path: {data.path} holds {counted(len(labels), 'class', 'classes')} with labels {min(labels)} to "
            f"{max(labels)}, but none with {min(gaps)}; number them from 0 without gaps, or give the images of all "
            "classes"
        )
    if len(labels) != data.num_classes:
        names = sorted({name for _, name, *_ in classes})
        some = ", ".join(names[:FEW]) + (", …" if len(names) > FEW else "")
        raise ValueError(
            f"data.num_classes: {data.num_classes}, but {data.path} holds {len(labels)} classes with labels "
            f"{min(labels)} to {max(labels)} ({some}); set the number of classes of that source, or remove what "
            "is not a class"
        )
    for label, name, *_ in sorted(held_out - classes):
        raise ValueError(
            f"data.held_out_path: {data.held_out_path} has class {name!r} (label {label}), which the training images "
            "lack or number differently; both sources need the same classes"
        )


def _check_files(train: Listing, held_out: Listing | None = None) -> None:
    known = {file.identity: file.path for file in train.files}
    shared = [file.path for file in (held_out.files if held_out else []) if file.identity in known]
    if shared:
        raise ValueError(f"data.held_out_path: shares {counted(len(shared), 'file')} with data.path, such as "
                         f"{shared[0]}; held-out images must not be trained on, so keep the two apart")  # fmt: skip


def _check_contents(data: Data, train: list[Entry], held_out: list[Entry], say: Callable[[str], None]) -> None:
    """Refuse held-out images that are training images, byte for byte, beyond the share that the study allows."""
    known = {entry.content: entry.original for entry in train}
    shared = [(entry.original, known[entry.content]) for entry in held_out if entry.content in known]
    if not shared:
        return
    some = "\n".join(f"  {a.where} and {b.where}" for a, b in shared[:FEW])
    found = f"found {len(shared)} of {len(held_out)} held-out images among the training images:\n{some}"
    found += f"\n  and {len(shared) - FEW} more" if len(shared) > FEW else ""
    if len(shared) > data.max_overlap * len(held_out):
        share = math.ceil(1e4 * len(shared) / len(held_out)) / 1e4
        advice = f", or allow their share with data.max_overlap: {share:g}" if share <= TOLERABLE else ""
        raise ValueError(f"data.held_out_path: {found}\nRemove one of each{advice}")
    say(f"data.max_overlap: {found}")


def _report_labels(entries: list[list[Entry]], say: Callable[[str], None]) -> None:
    """Report images whose byte-identical copies have several labels."""
    first: dict[str, Original] = {}
    pairs: dict[str, tuple[Original, Original]] = {}
    for entry in chain.from_iterable(entries):
        other = first.setdefault(entry.content, entry.original)
        if other.label != entry.original.label:
            pairs.setdefault(entry.content, (other, entry.original))
    if pairs:
        example = " and ".join(f"{o.where} ({o.class_name})" for o in next(iter(pairs.values())))
        found = f"{counted(len(pairs), 'image')} with copies under several labels, such as {example}"
        say(f"data: found {found}; all copies are kept, so remove the wrong ones")


def _split(entries: list[Entry], data: Data) -> list[bool]:
    """Whether each image is held out: by its designer, or by the hash of its identity, copies as the first of them."""
    if data.held_out_designer:
        return _drawn_by([entry.original for entry in entries], data.held_out_designer)
    first: dict[str, float] = {}
    shares = [first.setdefault(e.content, _share(e.original.identity or e.content)) for e in entries]
    return [share < data.held_out_rate for share in shares]


def _drawn_by(originals: list[Original], designer: str) -> list[bool]:
    """Whether each image is this designer's. Raises ValueError where none or all are."""
    found = [original.designer for original in originals]
    if designer not in found or len(set(found)) == 1:
        known = ", ".join(sorted(set(found) - {""})) or "none: the source names no designers"
        raise ValueError(f"data.held_out_designer: {designer!r} leaves a split empty; the designers are {known}")
    return [each == designer for each in found]


def _check_training_classes(data: Data, table: pa.Table) -> None:
    rows = table.filter(pc.equal(table["split"], "train"))
    for label in sorted(set(range(data.num_classes)) - set(rows["label"].to_pylist())):
        found = table.filter(pc.equal(table["label"], label))
        if not len(found):
            raise ValueError(f"data.path: class {label} has no readable image")
        raise ValueError(f"data.held_out_rate: {data.held_out_rate:g} leaves class {found['class_name'][0]} without a "
                         f"training image (it has {len(found)}); lower it, or add images")  # fmt: skip


def images_sha256(manifest: pa.Table) -> str:
    """Hash (hex) of a manifest's images, their order, splits and classes. Paths do not count."""
    content = hashlib.sha256()
    for column in IDENTITY:
        content.update("\n".join(map(str, manifest[column].to_pylist())).encode())
    return content.hexdigest()


def manifest_sha256(path: Path) -> str:
    """`images_sha256` of a manifest file."""
    return images_sha256(read_manifest(path, columns=IDENTITY))


def count_rows(path: Path) -> dict[str, int] | None:
    """Images of each split in a manifest file; None if it is gone."""
    if not path.is_file():
        return None
    found = read_manifest(path, columns=["split"])["split"]
    return {split: pc.sum(pc.equal(found, split)).as_py() or 0 for split in SPLITS}


def check_same_images(manifest: Path, store: TokenStore, where: Path) -> None:
    """Raise ValueError where the token shards in the folder `where` hold other images than the manifest does now.

    The manifest may be gone; shards that were made without one are let be.
    """
    made_of = store.metadata.get("images")
    if made_of and manifest.is_file() and made_of != manifest_sha256(manifest):
        raise ValueError(f"{where}: the shards hold other images than {manifest} does now; run `tokenize` again")


def count_smaller(manifest: pa.Table, size: int) -> int:
    """Number of images whose short side is below `size` pixels: the ADM crop enlarges them."""
    return int(pc.sum(pc.less(pc.min_element_wise(manifest["width"], manifest["height"]), size)).as_py() or 0)


def _share(identity: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big") / 2**64


def _table(entries: list[Entry], held_out: list[bool]) -> pa.Table:
    columns = {name: [getattr(e.original, name) for e in entries] for name in Original._fields if name != "identity"}
    columns |= {name: [getattr(e, name) for e in entries] for name in ("width", "height", "content")}
    columns["split"] = [SPLITS[h] for h in held_out]
    columns["index"] = list(range(len(entries)))
    return pa.table({name: columns[name] for name in MANIFEST.names}, schema=MANIFEST)


def _limited(table: pa.Table, data: Data) -> pa.Table:
    """At most `limit` rows: in each split the first image of every class, then the second of every class, and so on."""
    if data.limit is None or data.limit >= len(table):
        return table
    wanted_held_out = _held_out_of(data.limit, data)
    split, label = np.array(table["split"]), np.array(table["label"])
    kept = []
    for name, wanted in zip(SPLITS, (data.limit - wanted_held_out, wanted_held_out), strict=True):
        rows = np.flatnonzero(split == name)
        rank = np.zeros(len(rows), int)  # position of a row within its class
        for c in np.unique(label[rows]):
            members = label[rows] == c
            rank[members] = np.arange(members.sum())
        kept.append(rows[np.lexsort((label[rows], rank))[:wanted]])
    table = table.take(np.sort(np.concatenate(kept)))
    return table.set_column(0, "index", pa.array(range(len(table)), pa.int64()))


def _uniform(table: pa.Table, size: int) -> None:
    sizes = sorted(set(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)))
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        raise ValueError(f"data.path: drawings must share one square size, found {sizes}")
    if sizes[0][0] < size:
        raise ValueError(f"data.image_size: {size} pixels, but {table['name'][0]!r} and the others have {sizes[0][0]}")
