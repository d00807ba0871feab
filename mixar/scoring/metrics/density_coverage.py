"""Density and coverage: how many balls of the reference hold the drawn images. Naeem et al. 2020, arXiv 2002.09797.

The ball of a reference image reaches to its k-th neighbour in the reference. Precision and recall ask only whether an
image is inside some ball, so one outlier with a wide ball is enough; density counts the balls, and coverage uses only
those of the reference. For equal distributions, whatever they are, density is expected to be 1, and coverage
1 - 1 / 2^k for as many drawn as reference images.

Symbols: n drawn images, m reference images, k neighbours, G jackknife groups.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import mean_changes
from mixar.scoring.metrics.precision_recall import BLOCK, distances, radii
from mixar.study.sections import Scoring

NEIGHBOURS = 5  # k, as in the paper's experiments; fixed, so that all values of these names are comparable


def density(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring) -> float:
    """Mean number of reference balls around a drawn image, divided by k; 0 to m / k."""
    return float(_balls_around(sample, reference).mean())


def density_jackknife(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Exact, [G]: the balls are the reference's and stay."""
    balls = _balls_around(sample, reference)
    return balls.mean() + mean_changes(balls, groups)


def coverage(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring) -> float:
    """Share of the reference balls that hold a drawn image; 0 to 1."""
    together = np.zeros(len(sample), np.int64)
    return float((_images_inside(sample, reference, together) > 0).mean())


def coverage_jackknife(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Exact, [G]: a ball stays covered if it holds an image of another group.

    Where every ball holds images of several groups, nothing changes and the interval is a point.
    """
    inside = _images_inside(sample, reference, groups)
    return (inside.sum(axis=1, keepdims=True) > inside).mean(axis=0)


def _balls_around(sample: FeatureSet, reference: FeatureSet) -> np.ndarray:
    """Reference balls that hold each drawn image, divided by k, [n]."""
    y = reference.features
    reach = radii(y, NEIGHBOURS)
    counts = [_is_inside(part, y, reach).sum(dim=1) for part in sample.features.split(BLOCK)]
    return torch.cat(counts).numpy() / NEIGHBOURS


def _images_inside(sample: FeatureSet, reference: FeatureSet, groups: np.ndarray) -> np.ndarray:
    """Drawn images of each group inside each reference ball, [m, G]."""
    y = reference.features
    reach = radii(y, NEIGHBOURS)
    member = torch.nn.functional.one_hot(torch.from_numpy(groups)).double()  # [n, G]
    counts = torch.zeros(len(y), member.shape[1], dtype=torch.float64)
    for part, groups_of_part in zip(sample.features.split(BLOCK), member.split(BLOCK), strict=True):
        counts += _is_inside(part, y, reach).double().T @ groups_of_part
    return counts.numpy()


def _is_inside(x: Tensor, y: Tensor, reach: Tensor) -> Tensor:
    """Whether each x is inside each y's ball, [len(x), len(y)]; the boundary is outside, as in the authors' code."""
    return distances(x, y) < reach
