"""What a stage takes from the manifest: a part, the training and reference images, the evaluation labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mixar.data.images import load_images
from mixar.data.manifest import read_manifest
from mixar.study.digests import seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study

MEMORY_LIMIT_GIB = 16  # of images held as one tensor


def part_of(rows: pa.Table, shard: int, num_shards: int, what: str) -> pa.Table:
    """Rows shard * n // num_shards up to (shard + 1) * n // num_shards of n rows."""
    if not 0 <= shard < num_shards:
        raise ValueError(f"shard {shard} is none of the study's {num_shards} (0 is the first)")
    if len(rows) < num_shards:
        raise ValueError(f"data.num_shards: {num_shards} shards for {len(rows)} {what}; ask for fewer shards")
    start, end = shard * len(rows) // num_shards, (shard + 1) * len(rows) // num_shards
    return rows.slice(start, end - start)


def training_images(study: Study, layout: Layout, limit_gib: float = MEMORY_LIMIT_GIB) -> Tensor:
    """All training images as one uint8 tensor [n, H, W, 3], in manifest order, for training small networks.

    Raises ValueError where they need more than `limit_gib`.
    """
    rows, size = read_manifest(layout.manifest, "train"), study.data.image_size
    gib = len(rows) * size**2 * 3 / 2**30
    if gib > limit_gib:
        raise ValueError(f"data.image_size: {len(rows)} images of {size} pixels need {gib:.0f} GiB; give `weights`")
    return load_images(rows, size)


def reference_rows(manifest: Path, split: str, limit: int | None) -> pa.Table:
    """Manifest rows of a split; at most `limit` of them, drawn at random with a fixed seed, in manifest order."""
    rows = read_manifest(manifest, split)
    if limit is None or limit >= len(rows):
        return rows
    rng = torch.Generator().manual_seed(seed_of("reference", split))
    return rows.take(torch.randperm(len(rows), generator=rng)[:limit].sort().values.numpy())


def evaluation_labels(study: Study, layout: Layout, num_images: int | None = None) -> np.ndarray:
    """The class of every drawn image, int64 [num_images], sorted: equal counts, or the training proportions.

    num_images: None: those of the evaluation.
    """
    if study.evaluation.labels == "balanced":
        weights = np.ones(study.data.num_classes)
    else:
        labels = read_manifest(layout.manifest, "train", ["label"])["label"].to_numpy()
        weights = np.bincount(labels, minlength=study.data.num_classes).astype(float)
    return np.repeat(np.arange(len(weights)), proportional_counts(weights, num_images or study.evaluation.num_images))


def proportional_counts(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to weights that add up to total (largest remainder; ties go to the first)."""
    exact = weights / weights.sum() * total
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[largest] += 1
    return counts
