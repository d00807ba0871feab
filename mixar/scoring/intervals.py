"""Intervals of scores: the delete-group jackknife, and the spread over seeds.

A bootstrap would be wrong here: drawing images twice raises a Fréchet distance, so its interval may miss the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
GROUP_SEED = 0


class Interval(NamedTuple):
    """A value with its interval. The value is the plain estimate: the jackknife's correction of it is not used."""

    value: float
    low: float
    high: float


def jackknife_groups(index: np.ndarray, num_groups: int, labels: np.ndarray | None = None) -> np.ndarray:
    """A group in 0..num_groups-1 for each image, int64 [n], of sizes that differ by one at most.

    The groups depend on index (and labels) alone, so two sets of images with the same ones share their groups. With
    labels every class is spread evenly over the groups, as it is when each class is drawn a fixed number of times.
    Raises ValueError for fewer images than groups.
    """
    if not 2 <= num_groups <= len(index):
        raise ValueError(f"scoring.jackknife_groups: {num_groups} groups for {len(index)} images; give 2 to that many")
    shuffled = np.random.default_rng(GROUP_SEED).permutation(len(index))
    order = np.argsort(index, kind="stable")[shuffled]
    if labels is not None:
        order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
    groups = np.empty(len(index), np.int64)
    groups[order] = np.arange(len(index)) % num_groups
    return groups


def jackknife(estimate: Callable[[np.ndarray], Sequence[float]], groups: np.ndarray) -> np.ndarray:
    """Estimates with one group left out at a time, [num_groups, number of estimates].

    estimate: (keep, bool [n]) -> one or several numbers from the images where keep is True.
    """
    return np.array([np.atleast_1d(estimate(groups != g)) for g in range(groups.max() + 1)], dtype=float)


def mean_changes(values: np.ndarray, groups: np.ndarray, count: int = 0) -> np.ndarray:
    """How the mean of values [n] changes where each group [n] is left out, [G]. count: at least so many groups."""
    sizes, sums = np.bincount(groups, minlength=count), np.bincount(groups, weights=values, minlength=count)
    return (values.sum() - sums) / (len(groups) - sizes) - values.mean()


def standard_error(replicates: np.ndarray) -> np.ndarray:
    """Jackknife standard errors [...] of replicates [num_groups, ...]."""
    num_groups = len(replicates)
    return np.sqrt((num_groups - 1) / num_groups * ((replicates - replicates.mean(axis=0)) ** 2).sum(axis=0))


def half_width(replicates: np.ndarray) -> float:
    """Half the 95 % interval of the value behind replicates [num_groups]: Student's t at num_groups - 1 degrees."""
    return float(standard_error(np.asarray(replicates)) * stdtrit(len(replicates) - 1, (1 + LEVEL) / 2))


def interval(value: float, replicates: np.ndarray, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """The 95 % interval of a value from its replicates [num_groups].

    bounds: values that the quantity cannot leave; the interval is cut there.
    """
    reach = half_width(replicates)
    return Interval(value, max(value - reach, bounds[0]), min(value + reach, bounds[1]))


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds; None for the latter where there is only one."""
    if not len(values):
        raise ValueError("spread over seeds: no values")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
