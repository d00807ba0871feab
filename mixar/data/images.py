"""Images: where they come from, their manifest and split, the ADM centre crop, and the Parquet files of drawn images.

A manifest is one table with a row per image; every later stage refers to an image by its `index` there. Tokenizers and
scores live elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from mixar import assets
from mixar.data.decoding import load_picture, read_picture
from mixar.data.sources import SOURCES, Entry, open_parquet
from mixar.files import write_table
from mixar.spec import Data

SPLITS = ("train", "held_out")

MANIFEST = pa.schema(
    [
        ("index", pa.int64()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("fine_label", pa.int32()),  # emoji: subgroup; elsewhere the class again
        ("fine_name", pa.string()),
        ("name", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),  # of the Parquet file; -1: `file` is the image itself
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def ingest_manifest(data: Data) -> pa.Table:
    """The manifest of a study's images (schema MANIFEST), ordered by split source, class and name.

    The held-out split is `held_out_path` where given; else an image is held out when the hash of its name (folders:
    its relative path; Parquet: its bytes) falls below `held_out_rate`, whatever else is in the source.
    Raises ValueError for missing, empty, truncated or unreadable sources, and for other classes than the study's.
    """
    assets.require(*(path for path in (data.path, data.held_out_path) if path and path.startswith(assets.PREFIX)))
    entries = SOURCES[data.source](_place(data.path), "data.path")
    labels = {e.label for e in entries}
    if labels != set(range(data.num_classes)):
        raise ValueError(
            f"data.num_classes: {data.num_classes}, but {data.path} holds {len(labels)} classes with labels "
            f"{min(labels)} to {max(labels)}; set the number of classes of that source"
        )
    held_out = [_share(e.identity) < data.held_out_rate for e in entries]
    if data.held_out_path:
        extra = SOURCES[data.source](_place(data.held_out_path), "data.held_out_path")
        _same_classes(entries, extra, data.held_out_path)
        held_out = [False] * len(entries) + [True] * len(extra)
        entries = entries + extra
    table = _limited(_table(entries, held_out), data)
    for split in SPLITS:
        if split not in table["split"].to_pylist():
            raise ValueError(f"data: the {split} split has no image among {len(table)}; change held_out_rate or limit")
    if data.source == "emoji":
        _uniform(table, data.image_size)
    return table


def _place(value: str) -> str:
    """The path behind `asset:NAME`; a plain path as it is, for it may be a pattern."""
    return str(assets.resolve(value)) if value.startswith(assets.PREFIX) else value


def count_smaller(manifest: pa.Table, size: int) -> int:
    """Number of images whose short side is below `size` pixels: the ADM crop enlarges them."""
    return int(pc.sum(pc.less(pc.min_element_wise(manifest["width"], manifest["height"]), size)).as_py() or 0)


def _share(identity: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big") / 2**64


def _table(entries: list[Entry], held_out: list[bool]) -> pa.Table:
    columns = {name: [getattr(e, name) for e in entries] for name in Entry._fields if name != "identity"}
    columns["split"] = [SPLITS[h] for h in held_out]
    columns["index"] = list(range(len(entries)))
    return pa.table({name: columns[name] for name in MANIFEST.names}, schema=MANIFEST)


def _limited(table: pa.Table, data: Data) -> pa.Table:
    """At most `limit` rows: in each split the first image of every class, then the second of every class, and so on."""
    if data.limit is None or data.limit >= len(table):
        return table
    wanted_held_out = max(1, round(data.limit * data.held_out_rate))
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


def _same_classes(entries: list[Entry], extra: list[Entry], path: str) -> None:
    known = {(e.label, e.class_name, e.fine_label, e.fine_name) for e in entries}
    for e in extra:
        if (e.label, e.class_name, e.fine_label, e.fine_name) not in known:
            raise ValueError(
                f"data.held_out_path: {path} has class {e.class_name!r} (label {e.label}), which the training images "
                "do not number so; both sources need the same classes"
            )


def _uniform(table: pa.Table, size: int) -> None:
    sizes = sorted(set(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)))
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        raise ValueError(f"data.path: emoji images must share one square size, found {sizes}")
    if sizes[0][0] < size:
        raise ValueError(f"data.image_size: {size} pixels, but {table['name'][0]!r} and the others have {sizes[0][0]}")


# Pixels


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """uint8 RGB [size, size, 3]: box halvings, one bicubic resize, centre crop. ADM, released code."""
    image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    top, left = (image.height - size) // 2, (image.width - size) // 2
    return np.array(image)[top : top + size, left : left + size]


def bilinear_crop(image: Image.Image, size: int) -> np.ndarray:
    """uint8 RGB [size, size, 3]: shorter side to `size`, bilinear with antialiasing on the tensor, then the centre.

    VA-VAE, released code of its tokenizer's evaluation; the pixels are whole levels here, as its PNG files have them.
    """
    pixels = images_to_unit(np.array(image.convert("RGB"))[None])
    short = min(image.size)
    sides = (int(image.height * size / short), int(image.width * size / short))
    pixels = torch.nn.functional.interpolate(pixels, sides, mode="bilinear", antialias=True)
    top, left = (round((side - size) / 2) for side in sides)
    return unit_to_uint8(pixels[..., top : top + size, left : left + size], "half-up")[0].numpy()


LARGEST = 2**28  # pixels of an image whose short side was scaled to the size of the crop

# How an original becomes a square; a score's protocol says which one it takes.
CROPS = {"adm": centre_crop, "bilinear": bilinear_crop}


class RowReader:
    """Encoded images by manifest row; keeps the last Parquet row group, so ascending rows are read once."""

    def __init__(self):
        self.file, self.parquet, self.starts, self.group, self.column = None, None, None, -1, None

    def source(self, file: str, row: int) -> str | io.BytesIO:
        """What Pillow can open: the file itself, or the bytes in one row of a Parquet file."""
        if row < 0:
            return file
        if file != self.file:
            self.file, self.parquet, self.group = file, open_parquet(Path(file), ["image"]), -1
            counts = [self.parquet.metadata.row_group(i).num_rows for i in range(self.parquet.num_row_groups)]
            self.starts = np.concatenate([[0], np.cumsum(counts)])
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        if group != self.group:
            self.group, self.column = group, self.parquet.read_row_group(group, columns=["image"])["image"]
        value = self.column[row - int(self.starts[group])].as_py()
        return io.BytesIO(value["bytes"] if isinstance(value, dict) else value)


def iter_images(rows: pa.Table, size: int, crop: str = "adm") -> Iterator[np.ndarray]:
    """Yield uint8 RGB [size, size, 3] for each manifest row, in order. crop: a key of CROPS.

    Raises ValueError naming a broken image.
    """
    threads = len(os.sched_getaffinity(0))
    reader = RowReader()
    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes and resizes outside the interpreter lock
        for start in range(0, len(rows), 32 * threads):
            chunk = rows.slice(start, 32 * threads).select(["file", "row"]).to_pylist()
            sources = [(reader.source(r["file"], r["row"]), _where(r), size, CROPS[crop]) for r in chunk]
            yield from pool.map(_decode, sources)


def _decode(item: tuple) -> np.ndarray:
    source, where, size, crop = item
    image = read_picture(source, where)
    _check_proportions(image, size, where)
    return crop(image, size)


def _check_proportions(image: Image.Image, size: int, where: str) -> None:
    """Refuse what would fill the memory once its short side has `size` pixels: 1 x 60,000 pixels, for instance."""
    short, long = sorted(image.size)
    if size * size * long / short > LARGEST:
        raise ValueError(f"{where}: {image.width} x {image.height} pixels, too long and narrow for a square crop; "
                         "remove the image")  # fmt: skip


def _where(row: dict) -> str:
    return row["file"] if row["row"] < 0 else f"{row['file']} row {row['row']}"


def load_images(rows: pa.Table, size: int) -> torch.Tensor:
    """Manifest rows as one uint8 tensor [n, size, size, 3]."""
    images = torch.empty(len(rows), size, size, 3, dtype=torch.uint8)
    for i, image in enumerate(iter_images(rows, size)):
        images[i] = torch.from_numpy(image)
    return images


def images_to_unit(images: torch.Tensor | np.ndarray) -> torch.Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W] in [0, 1]."""
    return torch.as_tensor(images).movedim(-1, -3).to(torch.float32) / 255


def unit_to_uint8(images: torch.Tensor, rounding: str = "half-even") -> torch.Tensor:
    """float [n, 3, H, W], clamped to [0, 1], to uint8 [n, H, W, 3]. rounding: a key of ROUNDINGS."""
    return ROUNDINGS[rounding](images.clamp(0, 1)).clamp(max=255).to(torch.uint8).movedim(-3, -1)


# Whole levels of values in [0, 1], as each released project rounds them; a score's protocol says which one it takes.
ROUNDINGS = {
    "half-even": lambda unit: (unit.float() * 255).round(),  # MAR: 255 (x + 1) / 2, ties to even
    "half-up": lambda unit: ((2 * unit - 1).float() * 127.5 + 128).floor(),  # VA-VAE: 127.5 x + 128, truncated
    "down": lambda unit: (unit.float() * 255).floor(),  # MaskBit: truncated
}


# Parquet files of drawn images


def write_images(path: Path, index, labels, images, columns: dict | None = None) -> None:
    """Write images uint8 [n, H, W, 3] as PNG beside their index and label; `columns` adds further float columns."""
    images = np.asarray(torch.as_tensor(images).cpu())
    pngs = [{"bytes": _png(image)} for image in images]
    table = {
        "index": pa.array(np.asarray(index), pa.int64()),
        "label": pa.array(np.asarray(labels), pa.int32()),
        "image": pa.array(pngs, pa.struct([("bytes", pa.binary())])),
    }
    extra = {name: pa.array(np.asarray(values), pa.float64()) for name, values in (columns or {}).items()}
    write_table(path, pa.table({**table, **extra}))


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """index int64 [n], labels int32 [n] and images uint8 [n, H, W, 3] of a file that `write_images` wrote.

    Raises ValueError for no images, several sizes, and images that are not RGB, naming the first such row.
    """
    table = open_parquet(Path(path), ["index", "label", "image"]).read()
    if not len(table):
        raise ValueError(f"{path}: holds no images")
    images = [_rgb(e["bytes"], f"{path} row {row}") for row, e in enumerate(table["image"].to_pylist())]
    for row, image in enumerate(images):
        if image.shape != images[0].shape:
            sizes = " and ".join(f"{i.shape[1]} x {i.shape[0]}" for i in (images[0], image))
            raise ValueError(f"{path} row {row}: images of several sizes, {sizes}; a score needs one")
    return table["index"].to_numpy(), table["label"].to_numpy(), np.stack(images)


def _rgb(encoded: bytes, where: str) -> np.ndarray:
    image = load_picture(io.BytesIO(encoded), where).image
    if image.mode != "RGB":
        raise ValueError(f"{where}: an image of mode {image.mode}; expected RGB, in three colour channels")
    return np.asarray(image)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
