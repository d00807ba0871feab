"""Kernel distance (KID): unbiased squared MMD under a cubic kernel. Bińkowski et al. 2018, arXiv 1801.01401.

Symbols: n images, F features, G jackknife groups.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_kid import kernel_mmd

from mixar.scoring.features import SEED, FeatureSet
from mixar.scoring.intervals import mean_changes
from mixar.study.sections import Scoring

KERNEL_IMAGES = 5_000  # of each side behind the interval
BLOCK = 1000  # images a side of a kernel matrix: memory is BLOCK * n floats


def kid(sample: FeatureSet, reference: FeatureSet, scoring: Scoring) -> float:
    """Mean over random subsets of the unbiased squared MMD."""
    return float(kid_subsets(sample, reference, scoring.kid_subsets, scoring.kid_subset_size).mean())


@lru_cache(maxsize=1)  # the interval asks again
def kid_subsets(sample: FeatureSet, reference: FeatureSet, count: int, size: int) -> np.ndarray:
    """The kernel distance of each of torch-fidelity's random subsets, [count].

    The library's own loop gives only their mean, which is the same to the last bit.
    """
    rng = np.random.RandomState(SEED)
    sides = [s.features.numpy() for s in (sample, reference)]
    drawn = ([x[rng.choice(len(x), size, replace=False)] for x in sides] for _ in range(count))
    return np.array([kernel_mmd(x, y) for x, y in drawn], float)


def kid_jackknife(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """The spread of the images plus that of the random subsets, which are independent, [G].

    The images' comes from every pair of them, so subset noise does not pass for theirs. The subsets' comes from leaving
    out a group of subsets with each group of images. All runs use the same subsets, so shared noise cancels in
    differences.
    """
    subsets = kid_subsets(sample, reference, scoring.kid_subsets, scoring.kid_subset_size)
    group = np.arange(len(subsets)) % (groups.max() + 1)
    return kid_of_pairs(sample, reference, groups) + mean_changes(subsets, group, groups.max() + 1)


def kid_of_pairs(
    sample: FeatureSet, reference: FeatureSet, groups: np.ndarray, most: int = KERNEL_IMAGES
) -> np.ndarray:
    """Unbiased, over all pairs, with each group left out, [G].

    Of more than `most` images a part is used, and the spread is scaled by the root of its share.
    """
    rows, others = (np.random.default_rng(SEED).permutation(len(s))[:most] for s in (sample, reference))
    rows = rows[np.argsort(groups[rows], kind="stable")]
    x, sizes = sample.features[torch.from_numpy(rows)], np.bincount(groups[rows], minlength=groups.max() + 1)
    parts, y = x.split(sizes.tolist()), reference.features[torch.from_numpy(others)]
    upper = [[_kernel_sum(a, b) if i <= j else 0.0 for j, b in enumerate(parts)] for i, a in enumerate(parts)]
    within = np.array(upper) + np.triu(upper, 1).T
    own = np.array([_diagonal(a).sum().item() for a in parts])
    cross, left = np.array([_kernel_sum(a, y) for a in parts]), len(x) - sizes
    pairs = within.sum() - 2 * within.sum(axis=1) + np.diag(within) - (own.sum() - own)
    found = pairs / (left * (left - 1)) - 2 * (cross.sum() - cross) / (left * len(y))
    found += (_kernel_sum(y, y) - _diagonal(y).sum().item()) / (len(y) * (len(y) - 1))
    return found.mean() + (found - found.mean()) * np.sqrt(len(x) / len(sample))


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    blocks = (((block @ y.T) / x.shape[1] + 1).pow(3) for block in x.split(BLOCK))
    return sum(block.sum(dtype=torch.float64).item() for block in blocks)


def _diagonal(x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1).double().pow(3)
