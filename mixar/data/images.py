"""Images as pixels: the originals behind a manifest and their crops, and the Parquet files of drawn images.

Tokenizers and scores live elsewhere.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from mixar.data.decoding import load_picture, read_picture
from mixar.data.sources import open_parquet
from mixar.files import write_table

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
