"""`export`: the drawn images of a run as one `.npz`, as ADM's evaluator reads it."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from mixar.data.images import read_images
from mixar.process.progress import Progress
from mixar.scoring.features import SEED
from mixar.storage.files import replaced
from mixar.study.arguments import check_drawn
from mixar.study.layout import Layout
from mixar.study.sections import Study


def export(study: Study, layout: Layout, run: str, seed: int, sampler: str, path: Path) -> int:
    """Write the images of all shards: arr_0 uint8 [n, H, W, 3] and arr_1, their labels, int64 [n]. Returns n.

    They are in a random order with a fixed seed: ours are sorted by class, and an Inception Score of consecutive splits
    would be far too low. Memory: one shard at a time; the folder of `path` needs room for the pixels twice.
    run: a run of the study, or 'maskbit'. Raises ValueError for unknown names, another suffix, and missing images.
    """
    check_drawn(study, run, seed, sampler)
    if path.suffix != ".npz":
        raise ValueError(f"--to: {path} is no .npz file; give a name that ends in .npz")
    if (keep := study.evaluation.keep_images) != "all":
        raise ValueError(f"evaluation.keep_images: {keep}, but export needs all drawn images; set it to all")
    shards = [layout.samples(run, seed, sampler, shard) for shard in range(study.evaluation.num_shards)]
    if absent := [str(shard) for shard in shards if not shard.is_file()]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(f"{absent[0]}{more}: no images; run `sample` first")
    count = study.evaluation.num_images
    order = np.random.RandomState(SEED).permutation(count)
    with replaced(path) as temporary, tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        pixels, labels = Path(folder) / "arr_0.npy", Path(folder) / "arr_1.npy"
        np.save(labels, _gather(shards, order, pixels, count))
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for part in (pixels, labels):
                archive.write(part, part.name)
    return count


def _gather(shards: list[Path], order: np.ndarray, pixels: Path, count: int) -> np.ndarray:
    """Write every image to its place in `order`, in one .npy file; returns the labels in that order, int64 [count]."""
    place, labels = np.empty(count, np.int64), np.full(count, -1, np.int64)
    place[order] = np.arange(count)
    announce, target, done = Progress("export", "images"), None, 0
    for shard in shards:
        index, label, images = read_images(shard)
        if target is None:
            target = np.lib.format.open_memmap(pixels, "w+", np.uint8, (count, *images.shape[1:]))
        if images.shape[1:] != target.shape[1:] or index.min() < 0 or index.max() >= count:
            raise ValueError(f"{shard}: not images of this study as it is now; run `sample` again")
        target[place[index]], labels[place[index]] = images, label
        done += len(index)
        announce(done, count)
    if target is None or (labels < 0).any():
        raise ValueError(
            f"{shards[0].parent}: {int((labels < 0).sum())} of {count} images are missing; run `sample` again"
        )
    target.flush()
    return labels
