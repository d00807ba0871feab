"""Images as pixels: the originals behind a manifest and their crops, and the Parquet files of drawn images.

Tokenizers and scores live elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from mixar.assets.check import locate
from mixar.data.decoding import load_picture, lossy_format, read_picture
from mixar.data.sources import open_parquet, where_of
from mixar.data.tars import read_encoded
from mixar.process.failures import finite, is_shortage
from mixar.storage.files import iter_batches, replaced

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

PLACE = ["file", "row", "offset", "size", "name", "content"]  # columns of the manifest that find and check an image


class RowReader:
    """Encoded images by row of a Parquet file; keeps one batch of rows, so ascending rows are read once."""

    def __init__(self):
        self.file, self.parquet, self.starts = "", None, np.zeros(0, np.int64)
        self.batches, self.first, self.images = iter(()), 0, ()  # rows first to first + len(images) are at hand

    def encoded(self, file: str, row: int) -> bytes:
        """The bytes in one row. Raises ValueError naming a row without bytes, or a damaged file."""
        if file != self.file:
            self._open(file)
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        if row < self.first or self.starts[group] >= self.first + len(self.images):
            self.batches = iter_batches(self.parquet, file, ["image"], [group])
            self.first, self.images = int(self.starts[group]), ()
        while row >= self.first + len(self.images):
            self.first += len(self.images)
            self.images = next(self.batches)["image"]
        return embedded(self.images[row - self.first], f"{file} row {row}")

    def _open(self, file: str) -> None:
        parquet = open_parquet(locate(file), ["image"])  # a manifest names shipped files relative to the repository
        counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        self.file, self.parquet, self.starts = file, parquet, np.concatenate([[0], np.cumsum(counts)])
        self.first, self.images = 0, ()


def iter_images(rows: pa.Table, size: int, crop: str = "adm") -> Iterator[np.ndarray]:
    """Yield uint8 RGB [size, size, 3] for each manifest row, in order. crop: a key of CROPS.

    Raises ValueError naming a broken image, and one that is not the image that `ingest` saw.
    """
    threads = len(os.sched_getaffinity(0))
    reader = RowReader()
    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes and resizes outside the interpreter lock
        for start in range(0, len(rows), 8 * threads):
            chunk = rows.slice(start, 8 * threads).select(PLACE).to_pylist()
            rest = [reader.encoded(r["file"], r["row"]) if r["row"] >= 0 else None for r in chunk]
            yield from pool.map(lambda row, encoded: _decode(row, encoded, size, CROPS[crop]), chunk, rest)


def content_of(encoded: bytes) -> str:
    """What the manifest knows an encoded image by: BLAKE2b of 128 bits, hex."""
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def _decode(row: dict, encoded: bytes | None, size: int, crop: Callable) -> np.ndarray:
    where = where_of(row["file"], row["row"], row["offset"], row["name"])
    try:
        encoded = read_encoded(row["file"], row["offset"], row["size"]) if encoded is None else encoded
    except OSError as error:
        raise ValueError(f"{where}: not readable ({error.strerror or error}); run `ingest` again") from None
    image = read_picture(io.BytesIO(encoded), where)
    if content_of(encoded) != row["content"]:
        raise ValueError(f"{where}: the image has changed since `ingest`; run `ingest` again and every later stage")
    check_proportions(image, size, where)
    return crop(image, size)


def check_proportions(image: Image.Image, size: int, where: str) -> None:
    """Refuse what would fill the memory once its short side has `size` pixels: 1 x 60,000 pixels, for instance."""
    short, long = sorted(image.size)
    if size * size * long / short > LARGEST:
        raise ValueError(f"{where}: {image.width} x {image.height} pixels, too long and narrow for a square crop; "
                         "remove the image")  # fmt: skip


def load_images(rows: pa.Table, size: int) -> torch.Tensor:
    """Manifest rows as one uint8 tensor [n, size, size, 3]."""
    images = torch.empty(len(rows), size, size, 3, dtype=torch.uint8)
    for i, image in enumerate(iter_images(rows, size)):
        images[i] = torch.from_numpy(image)
    return images


def images_to_unit(images: torch.Tensor | np.ndarray) -> torch.Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W] in [0, 1]."""
    return torch.as_tensor(images).movedim(-1, -3).to(torch.float32) / 255


def unit_batches(
    rows: pa.Table, size: int, batch_size: int, progress: Callable[[int, int], None], crop: str = "adm"
) -> Iterator[torch.Tensor]:
    """Manifest rows as batches of float32 images [b, 3, size, size] in [0, 1]. progress(done, total): images."""
    images = iter_images(rows, size, crop)
    for start in range(0, len(rows), batch_size):
        progress(start, len(rows))
        count = min(batch_size, len(rows) - start)
        yield images_to_unit(np.stack([next(images) for _ in range(count)]))
    progress(len(rows), len(rows))


def unit_to_uint8(images: torch.Tensor, rounding: str = "half-even") -> torch.Tensor:
    """float [n, 3, H, W], clamped to [0, 1], to uint8 [n, H, W, 3]. rounding: a key of ROUNDINGS.

    Raises FloatingPointError for values that are not finite.
    """
    return ROUNDINGS[rounding](finite(images, "pixels").clamp(0, 1)).clamp(max=255).to(torch.uint8).movedim(-3, -1)


# Whole levels of values in [0, 1], as each released project rounds them; a score's protocol says which one it takes.
ROUNDINGS = {
    "half-even": lambda unit: (unit.float() * 255).round(),  # MAR: 255 (x + 1) / 2, ties to even
    "half-up": lambda unit: ((2 * unit - 1).float() * 127.5 + 128).floor(),  # VA-VAE: 127.5 x + 128, truncated
    "down": lambda unit: (unit.float() * 255).floor(),  # MaskBit: truncated
}


def augment(
    images: torch.Tensor, rng: torch.Generator, device: torch.device, max_shift: int | None = None
) -> torch.Tensor:
    """uint8 [n, H, W, 3] to float [n, 3, H, W] in [0, 1]: mirrored half the time, moved by up to `max_shift` pixels.

    None: by up to an eighth of the side. The border is filled with the nearest pixel.
    """
    x = images_to_unit(images.to(device))
    n, side = len(x), x.shape[-1]
    draw = torch.rand(3, n, generator=rng, device=device)
    x = torch.where(draw[0].view(-1, 1, 1, 1) < 0.5, x, x.flip(-1))
    reach = side // 8 if max_shift is None else max_shift
    steps = torch.arange(side, device=device)
    rows, columns = (
        (steps + ((2 * reach + 1) * d).long().sub(reach).unsqueeze(1)).clamp(0, side - 1) for d in draw[1:]
    )
    return x[torch.arange(n, device=device).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(-1, 1)


# Parquet files of drawn images

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]  # index int64 [n], labels int32 [n], images uint8 [n, H, W, 3]
GROUP_BYTES = 2**26  # of the pixels in one row group


def write_images(
    path: Path, index, labels, images, columns: dict | None = None, group_bytes: int = GROUP_BYTES
) -> None:
    """Write images uint8 [n, H, W, 3] as PNG beside their index and label; `columns` adds further float columns.

    A row group holds at most `group_bytes` of pixels, so that every reader can hold one.
    """
    images = np.asarray(torch.as_tensor(images).cpu())
    keys = {"index": pa.array(np.asarray(index), pa.int64()), "label": pa.array(np.asarray(labels), pa.int32())}
    extra = {name: pa.array(np.asarray(values), pa.float64()) for name, values in (columns or {}).items()}
    table, png = pa.table({**keys, **extra}), pa.struct([("bytes", pa.binary())])
    assert len(table) == len(images), (len(table), images.shape)
    schema, step = table.schema.insert(2, pa.field("image", png)), max(1, group_bytes // max(1, images[:1].nbytes))
    with replaced(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(images), step):
            pngs = pa.array([{"bytes": _png(image)} for image in images[start : start + step]], png)
            writer.write_table(table.slice(start, step).add_column(2, schema.field("image"), pngs))


def write_pixels(path: Path, index, labels, images) -> None:
    """Write the same as plain pixels, which no later stage reads: for a job that is cut."""
    arrays = np.asarray(index, np.int64), np.asarray(labels, np.int32), np.ascontiguousarray(images)
    with replaced(path) as temporary:
        save_file(dict(zip(("index", "label", "images"), arrays, strict=True)), temporary)


def read_pixels(parts: Sequence[Path]) -> Drawn:
    """index, labels and images of files that `write_pixels` wrote, in order, as `read_images` gives them."""
    found = [load_file(part) for part in parts]
    index, labels, images = (np.concatenate([each[key] for each in found]) for key in ("index", "label", "images"))
    return index, labels, images


MADE_OF = b"made_of"  # key of the schema's metadata


def join_images(path: Path, parts: Sequence[Path], made_of: str) -> None:
    """Write the rows of several files that `write_images` wrote, in order, as one; no image is encoded again.

    made_of: digest of what the images depend on, for `made_of`.
    """
    schema = pq.read_schema(parts[0]).with_metadata({MADE_OF: made_of})
    with replaced(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for file in map(pq.ParquetFile, parts):
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group).replace_schema_metadata(schema.metadata))


def made_of(path: Path) -> str | None:
    """What `join_images` was told of a file of images; None for no file, or another one."""
    try:
        return (pq.read_schema(path).metadata or {}).get(MADE_OF, b"").decode() or None
    except (pa.ArrowException, OSError):
        return None


def read_images(path: Path) -> Drawn:
    """index int64 [n], labels int32 [n] and images uint8 [n, H, W, 3] of a file that `write_images` wrote.

    Raises ValueError for no images, several sizes, and images that are not RGB, naming the first such row.
    """
    parquet, images = open_parquet(Path(path), ["index", "label", "image"]), None
    for row, value in enumerate(v for batch in iter_batches(parquet, path, ["image"]) for v in batch["image"]):
        image = _rgb(embedded(value, f"{path} row {row}"), f"{path} row {row}")
        images = np.empty((parquet.metadata.num_rows, *image.shape), np.uint8) if images is None else images
        if image.shape != images.shape[1:]:
            sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in (images.shape[1:], image.shape))
            raise ValueError(f"{path} row {row}: images of several sizes, {sizes}; a score needs one")
        images[row] = image
    if images is None:
        raise ValueError(f"{path}: holds no images")
    return whole_numbers(parquet, path, "index", np.int64), whole_numbers(parquet, path, "label", np.int32), images


def whole_numbers(parquet: pq.ParquetFile, path: str | Path, column: str, dtype: type) -> np.ndarray:
    """A column of integers as dtype [n]. Raises ValueError for other types, gaps, and numbers that do not fit."""
    try:
        found = parquet.read(columns=[column])[column]
    except (pa.ArrowException, OSError) as error:
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: column {column!r} cannot be read ({error}); copy or make the file again") from None
    if not pa.types.is_integer(found.type) or found.null_count:
        gaps = f" with {found.null_count} gaps" if found.null_count else ""
        raise ValueError(f"{path}: column {column!r} is {found.type}{gaps}; give whole numbers without gaps")
    return fitting(found.to_numpy(), dtype, f"{path}: column {column!r}")


def fitting(numbers: np.ndarray, dtype: type, what: str) -> np.ndarray:
    """Integers [n] as dtype. Raises ValueError where one does not fit, instead of wrapping round."""
    limits = np.iinfo(dtype)
    if len(numbers) and not (limits.min <= int(numbers.min()) and int(numbers.max()) <= limits.max):
        raise ValueError(f"{what} goes from {numbers.min()} to {numbers.max()}; the largest is {limits.max}")
    return numbers.astype(dtype)


def embedded(value: pa.Scalar, where: str) -> bytes:
    """The encoded image in one value of a column `image`: bytes, or a struct with them. Raises ValueError.

    The path in a struct is not looked at: it need not be text.
    """
    if pa.types.is_struct(value.type) and value.is_valid and value.type.get_field_index("bytes") >= 0:
        value = value["bytes"]
    try:
        content = value.as_py()
    except UnicodeDecodeError:  # text
        content = None
    if not isinstance(content, bytes) or not content:
        raise ValueError(f"{where}: image.bytes is missing; images must be embedded in the Parquet file")
    return content


def _rgb(encoded: bytes, where: str) -> np.ndarray:
    picture = load_picture(io.BytesIO(encoded), where)
    if picture.image.mode != "RGB":
        raise ValueError(f"{where}: an image of mode {picture.image.mode}; expected RGB, in three colour channels")
    if lossy := lossy_format(picture, encoded):
        raise ValueError(f"{where}: a {lossy} image, whose pixels are not those that were drawn; expected PNG")
    return np.asarray(picture.image)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
