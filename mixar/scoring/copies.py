"""Copies: drawn images that are closer to a training image than images are that no training saw.

The distance of each image to its nearest training image, in a space. Held-out images set the measure: a distance is
that of a copy where only COMMON of theirs are smaller, so a model that copies nothing has a share of about COMMON.
Compare Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying", arXiv 2004.05675, which compares
the same two sets of distances.

Symbols: n images, F values per image in a space, G jackknife groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mixar.scoring.catalogue import METRICS
from mixar.scoring.intervals import interval, jackknife_groups, mean_changes
from mixar.scoring.metrics.precision_recall import BLOCK, distances
from mixar.storage.files import write_table

COMMON = 0.05  # share of the held-out images that count as copies
PIXELS = 32  # side to which images are averaged in the space of pixels
SPACES = ("features", "pixels")


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each image of a set: its place in the training set, and how far it is; [n] each."""

    place: np.ndarray
    distance: np.ndarray


def pixel_space(images: np.ndarray | Tensor) -> Tensor:
    """Images uint8 [n, H, W, 3] as float32 [n, 3 * s * s] in [0, 1]; larger ones are averaged to s = PIXELS a side."""
    parts = []
    for part in torch.as_tensor(images).split(BLOCK):
        unit = part.movedim(-1, 1).float() / 255
        side = min(PIXELS, unit.shape[-1])
        parts.append(adaptive_avg_pool2d(unit, side).flatten(1))
    return torch.cat(parts)


def nearest(x: Tensor, training: Tensor) -> Nearest:
    """The nearest of the training set for each of x. x: [n, F]; training: [m, F]. A block of distances at a time."""
    found = [distances(part, training).min(dim=1) for part in x.split(BLOCK)]
    return Nearest(torch.cat([f.indices for f in found]).numpy(), torch.cat([f.values for f in found]).numpy())


def reach_of(held_out: Nearest) -> float:
    """The distance below which an image counts as a copy: the COMMON quantile of the held-out images' distances."""
    return float(np.quantile(held_out.distance, COMMON))


def copies_value(space: str, drawn: Nearest, reach: float, index: np.ndarray, labels: np.ndarray, groups: int) -> dict:
    """The share of copies with its interval, as the value of a row. index, labels: of the drawn images, [n].

    groups: of the jackknife over drawn images, which is exact; the held-out images stay.
    """
    is_copy = (drawn.distance < reach).astype(float)
    metric = METRICS[f"copies_{space}"]
    changes = mean_changes(is_copy, jackknife_groups(index, groups, labels))
    replicates = is_copy.mean() + changes
    found = interval(float(is_copy.mean()), replicates, metric.bounds)._asdict()
    return {"metric": metric.name, **found, "replicates": replicates.tolist(), "n": len(is_copy), "unit": None}


def write_nearest(path: Path, index: np.ndarray, training_index: np.ndarray, found: dict[str, Nearest]) -> None:
    """Write one row per drawn image: index, and by space the index of its nearest training image and the distance."""
    columns = {"index": pa.array(index, pa.int64())}
    for space, near in found.items():
        columns[f"nearest_{space}"] = pa.array(training_index[near.place], pa.int64())
        columns[f"distance_{space}"] = pa.array(near.distance, pa.float32())
    write_table(path, pa.table(columns))
