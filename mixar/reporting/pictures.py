"""Sheets of images: pairs on the same tokens (Figure 2), sample grids (Figure 6) and reconstructions.

Images come in as uint8 arrays or from Parquet files with the columns index, label, image.bytes.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # jobs inherit a notebook's, which may not be installed here

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixar.data.decoding import read_picture
from mixar.data.sources import open_parquet
from mixar.reporting.figures import STYLE, caption
from mixar.storage.files import iter_batches

PAIR_COLUMNS = 8
RECONSTRUCTIONS = 12
USUAL, CLOSEST = 10, 4  # columns of the sheet of copies
GAP = 0.06  # white between two images, as a share of an image
INCHES = 0.62  # of one image


def read_labels(paths: Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
    """index and label of every image of these files, without decoding one."""
    parts = [batch for path in paths for batch in _batches(path, ["index", "label"])]
    index, label = (np.concatenate([part[name] for part in parts]) for name in ("index", "label"))
    return index, label


def read_selected(paths: Iterable[Path], wanted: Sequence[int]) -> np.ndarray:
    """The images with these indices, in their order, uint8 [n, H, W, 3]. Raises ValueError where one is missing."""
    found: dict[int, np.ndarray] = {}
    for path in paths:
        for batch in _batches(path, ["index", "image"]):
            for row in batch.filter(pc.is_in(batch["index"], pa.array(list(wanted), pa.int64()))).to_pylist():
                where = f"{path} image {row['index']}"
                found[row["index"]] = np.asarray(read_picture(io.BytesIO(row["image"]["bytes"]), where))
    missing = [i for i in wanted if i not in found]
    if missing:
        raise ValueError(f"{', '.join(str(p) for p in paths)}: no images with index {missing[:5]}; draw them again")
    return np.stack([found[i] for i in wanted])


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return iter_batches(open_parquet(path, columns), path, columns)


def pick_rows(index: np.ndarray, label: np.ndarray, rows: int, columns: int) -> list[tuple[int, list[int]]]:
    """(class, indices) for a grid: classes spread evenly over those with enough images, the first images of each.

    Classes with too few images fill a row only where no others are left; that row is shorter.
    """
    classes, counts = np.unique(label, return_counts=True)
    full = classes[counts >= columns]
    usable = full if len(full) >= min(rows, len(classes)) else classes
    chosen = usable[np.linspace(0, len(usable) - 1, min(rows, len(usable))).round().astype(int)]
    return [(int(c), sorted(int(i) for i in index[label == c])[:columns]) for c in chosen]


def pick_varied(index: np.ndarray, label: np.ndarray, count: int) -> list[int]:
    """`count` indices over as many classes as there are: the first of every class, then the second, and so on."""
    rank = np.zeros(len(index), int)
    for c in np.unique(label):
        members = np.flatnonzero(label == c)
        rank[members[np.argsort(index[members])]] = np.arange(len(members))
    return [int(i) for i in index[np.lexsort((label, rank))][:count]]


def montage(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images uint8 [H, W, 3] side by side with white gaps. Pixels are repeated, not blended: small ones stay crisp."""
    side = images[0].shape[0]
    factor = max(1, round(160 / side))
    cell, gap = side * factor, max(1, round(GAP * side * factor))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (cell + gap) - gap, columns * (cell + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (cell + gap), (i % columns) * (cell + gap)
        sheet[top : top + cell, left : left + cell] = image.repeat(factor, 0).repeat(factor, 1)
    return sheet


def figure2(name: str, theirs: np.ndarray, ours: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """The same discrete tokens: their own decoder above, runs of ours by label below, [n, H, W, 3] each.

    name: of the family of the discrete tokenizer.
    """
    columns = min(PAIR_COLUMNS, len(theirs))
    bands = -(-len(theirs) // columns)
    with plt.style.context(STYLE):
        size = (INCHES * columns + 1.4, bands * ((1 + len(ours)) * 1.05 * INCHES + 0.4) + 0.3)
        figure, axes = plt.subplots(bands, 1, figsize=size, layout="constrained")
        for band, a in enumerate(np.atleast_1d(axes)):
            part = slice(band * columns, (band + 1) * columns)
            sets = [theirs, *ours.values()]
            _show(a, montage([image for images in sets for image in _filled(images[part], columns)], columns))
            _row_labels(a, [name, *ours])
            _column_labels(a, classes[part], columns)
        figure.suptitle("The same discrete tokens decoded", fontsize=11, fontweight="bold", x=0.02, ha="left")
        text = f"First row: the tokens' own decoder ({name}). Below: {'; '.join(ours)}, guided by the same tokens."
        caption(figure, f"{text} {len(theirs)} sets of tokens, the first of each class; not selected.")
    return figure


def figure6(grids: Mapping[str, list[tuple[str, np.ndarray]]]) -> Figure:
    """Sample grids: by run label, rows of (class name, images [n, H, W, 3]). The same classes and tokens for all."""
    across = 2 if len(grids) > 1 else 1
    down = -(-len(grids) // across)
    rows = max(len(g) for g in grids.values())
    columns = max(len(images) for g in grids.values() for _, images in g)
    size = (across * (INCHES * columns + 1.3), down * (INCHES * rows * (1 + GAP) + 0.45))
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
        for a, (label, grid) in zip(axes.flat, grids.items(), strict=False):
            _show(a, montage([i for _, images in grid for i in _filled(images, columns)], columns))
            _row_labels(a, [name for name, _ in grid])
            a.set_title(label, fontsize=10)
        for a in axes.flat[len(grids) :]:
            a.axis("off")
        caption(figure, f"{rows * columns} samples of each run, the first of each class shown; not selected. All runs "
                        "share labels, discrete tokens and noise.")  # fmt: skip
    return figure


def reconstruction_sheet(
    originals: np.ndarray, decoded: Mapping[str, np.ndarray], names: Sequence[str], whole: Mapping[str, str]
) -> Figure:
    """Held-out images above what each tokenizer makes of them, with PSNR in dB below each image.

    decoded: by tokenizer, [n, H, W, 3]. whole: by tokenizer, its score over all held-out images, in words.
    """
    count = len(originals)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1 + len(decoded), 1, figsize=(INCHES * 1.1 * count + 1.2, 1.15 * (1 + len(decoded)))
        )
        for a, (label, images) in zip(axes, {"original": originals, **decoded}.items(), strict=True):
            _show(a, montage(list(images), count))
            _row_labels(a, [label])
            if label != "original":
                values = [f"{psnr(x, y):.1f} dB" for x, y in zip(originals, images, strict=True)]
                _column_labels(a, values, count, below=True)
        _column_labels(axes[0], names, count)
        said = "; ".join(f"{label}: {text}" for label, text in whole.items())
        caption(figure, f"Held-out images, unseen by the tokenizers' training; PSNR below each. {said}")
    return figure


def copies_sheet(parts: Sequence[tuple[str, np.ndarray, np.ndarray, float | None]]) -> Figure:
    """Samples above their nearest training images, a band for each run.

    parts: label, samples and training images [USUAL + CLOSEST, H, W, 3] each, and the share of copies.
    """
    columns = len(parts[0][1])
    usual = columns - CLOSEST
    with plt.style.context(STYLE):
        size = (INCHES * columns + 1.6, len(parts) * (2 * 1.05 * INCHES + 0.34) + 0.5)
        figure, axes = plt.subplots(len(parts), 1, figsize=size, squeeze=False, layout="constrained")
        for a, (label, drawn, nearest, share) in zip(axes.flat, parts, strict=True):
            _show(a, montage([*drawn, *nearest], columns))
            _row_labels(a, [label, "nearest in training"])
            width = _sheet(a).shape[1]
            a.axvline(width * usual / columns, color="#333333", lw=1.2)
            a.set_title("" if share is None else f"copies: {100 * share:.1f} %", fontsize=8.5, loc="right")
        text = (
            f"Left of the line the first samples of each class, not selected; right of it the {CLOSEST} closest to a "
        )
        text += "training image. Nearest in the features behind the scores. Copies: samples closer than 95 % of the "
        caption(figure, text + "held-out images are; a model that copies nothing has about 5 %.")
    return figure


def preview_sheet(rows: Sequence[tuple[str, np.ndarray]], names: Sequence[str], title: str, text: str) -> Figure:
    """What a training draws now: labelled rows of images [n, H, W, 3], a class name above each column."""
    columns = len(names)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(INCHES * columns + 1.4, INCHES * len(rows) * (1 + GAP) + 0.6))
        _show(axes, montage([image for _, images in rows for image in images], columns))
        _row_labels(axes, [label for label, _ in rows])
        _column_labels(axes, names, columns)
        axes.set_title(title, fontsize=10)
        caption(figure, text)
    return figure


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images, in dB; infinite for equal ones."""
    error = np.mean((x.astype(np.float64) - y.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def _filled(images: np.ndarray, columns: int) -> list[np.ndarray]:
    """A row of exactly `columns` images, white ones at its end."""
    return [*images, *[np.full(images.shape[1:], 255, np.uint8)] * (columns - len(images))]


def _show(axes: Axes, sheet: np.ndarray) -> None:
    axes.imshow(sheet, interpolation="none")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _sheet(axes: Axes) -> np.ndarray:
    sheet = axes.images[0].get_array()
    assert sheet is not None
    return sheet


def _row_labels(axes: Axes, labels: Sequence[str]) -> None:
    height = _sheet(axes).shape[0]
    places = [height * (i + 0.5) / len(labels) for i in range(len(labels))]
    axes.set_yticks(places, [_lines(text, 18, 3) for text in labels])
    axes.tick_params(axis="y", length=0, labelsize=8.5)


def _column_labels(axes: Axes, labels: Sequence[str], columns: int, below: bool = False) -> None:
    width = _sheet(axes).shape[1]
    axes.set_xticks([width * (i + 0.5) / columns for i in range(len(labels))], [_lines(t, 11, 2) for t in labels])
    axes.tick_params(axis="x", length=0, labelsize=6.5, pad=2, labeltop=not below, labelbottom=below)


def _lines(text: str, width: int, most: int) -> str:
    """Text in at most so many lines; an ellipsis replaces the rest."""
    return "\n".join(textwrap.wrap(text, width, max_lines=most, placeholder="…"))
