"""Fréchet distance of two sets of features as Gaussians, and its limit for infinitely many images.

Heusel et al. 2017, arXiv 1706.08500; the limit: Chong and Forsyth 2019, arXiv 1911.07023. Symbols: n images,
F features, G jackknife groups; moments are {"mu": [F], "sigma": [F, F]}. Jackknives are exact for narrow networks and
few images, else to first order: the mean influence of the images that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.linalg import eigh, eigvalsh
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import jackknife, mean_changes
from mixar.scoring.statistics import BLOCK, Moments, Sums, factor
from mixar.study.sections import Scoring

LINE_POINTS = 10  # of the line through distances of fewer images
LINE_IMAGES = 4  # images a feature, of its smallest set
LINEAR_FROM = 512  # features from which a distance is not computed anew for every group
IMAGES_FOR_FIRST_ORDER = 4  # images a feature that the first order needs


# Distances of moments


def frechet_distance(moments: Moments, reference: Moments) -> float:
    """torch-fidelity's Fréchet distance of two Gaussians; squared units of the features."""
    if moments["mu"].dtype != reference["mu"].dtype:  # the library asserts one type; statistics files are float64
        moments, reference = ({k: v.astype(np.float64) for k, v in m.items()} for m in (moments, reference))
    return fid_statistics_to_metric(moments, reference, verbose=False)[KEY_METRIC_FID]


def frechet(sample: Moments, reference: Moments, root: np.ndarray | None = None) -> float:
    """The Fréchet distance of two Gaussians, singular ones too, in float64. root: `factor` of the reference's sigma.

    The trace of (S1 S2)^½ is the sum of the roots of the eigenvalues of Lᵀ S1 L, all real: several times faster than
    the eigenvalues of S1 S2 itself, and equal to them to about 1e-9.
    """
    root = factor(reference["sigma"]) if root is None else root
    return _distance(sample, reference, eigvalsh(root.T @ np.asarray(sample["sigma"], np.float64) @ root))


def _distance(sample: Moments, reference: Moments, values: np.ndarray) -> float:
    """From the eigenvalues of Lᵀ S1 L."""
    mu, mu_r = (np.asarray(m["mu"], np.float64) for m in (sample, reference))
    traces = sum(np.trace(np.asarray(m["sigma"], np.float64)) for m in (sample, reference))
    return float(((mu - mu_r) ** 2).sum() + traces - 2 * np.sqrt(values.clip(0)).sum())


def influence(features, own: Moments, other: Moments, root: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """The Fréchet distance, and what each image adds to it, to first order, [n]; their mean is zero.

    features: [n, F], with moments `own`. The distance's derivative in the covariance is I - T, with the linear map T
    that carries one Gaussian to the other. root: `factor` of the other covariance. Directions in which the own
    covariance is zero are left as they are.
    """
    root = factor(other["sigma"]) if root is None else root
    mu = np.asarray(own["mu"], np.float64)
    values, vectors = eigh(root.T @ np.asarray(own["sigma"], np.float64) @ root)
    inverse = np.where(values > values[-1] * 1e-12, values.clip(1e-300) ** -0.5, 0)
    mapped = root @ vectors
    slope = np.eye(len(mu)) - (mapped * inverse) @ mapped.T
    # In single precision, which is half the work: an interval needs no more than six digits.
    slope = slope.astype(np.float32)
    shift, x, found = 2 * (mu - np.asarray(other["mu"], np.float64)), np.asarray(features), []
    for start in range(0, len(x), BLOCK):
        part = np.asarray(x[start : start + BLOCK], np.float64) - mu
        found.append(part @ shift + ((part.astype(np.float32) @ slope) * part).sum(axis=1))
    added = np.concatenate(found)
    return _distance(own, other, values), added - added.mean()


# fd


def fd(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring) -> float:
    """Fréchet distance of the two sets of features. FID where the network is Inception, and nowhere else."""
    return frechet_distance(sample.moments, reference.moments)


def fd_jackknife(
    sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray, linear_from: int = LINEAR_FROM
) -> np.ndarray:
    """`fd` with each group of drawn images left out, [G].

    linear_from: features from which it is not computed anew for every group.
    """
    if sample.width < linear_from:
        return jackknife(lambda keep: [fd(sample.take(keep), reference, scoring)], groups)[:, 0]
    if not _is_enough(sample):
        other, root = reference.moments, reference.root
        return jackknife(lambda keep: [frechet(sample.take(keep).moments, other, root)], groups)[:, 0]
    value, added = influence(sample.features, sample.moments, reference.moments, reference.root)
    return value + mean_changes(added, groups)


def pairs_jackknife(
    made: FeatureSet, originals: FeatureSet, scoring: Scoring, groups: np.ndarray, linear_from: int = LINEAR_FROM
) -> np.ndarray:
    """`fd` with each group of reconstructions and their originals left out, [G].

    Given moments of the reference stay, as in `fd_jackknife`.
    """
    if originals.moments_given is not None:
        return fd_jackknife(made, originals, scoring, groups, linear_from)
    if made.width < linear_from or not _is_enough(made):
        return jackknife(lambda keep: [fd(made.take(keep), originals.take(keep), scoring)], groups)[:, 0]
    value, added = influence(made.features, made.moments, originals.moments, originals.root)
    _, added_by_originals = influence(originals.features, originals.moments, made.moments)
    return value + mean_changes(added + added_by_originals, groups)


def _is_enough(sample: FeatureSet) -> bool:
    return len(sample) >= IMAGES_FOR_FIRST_ORDER * sample.width


# fd_infinity


def fd_infinity(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring) -> float:
    """The distance extrapolated to infinitely many drawn images, from ten sets of fewer up to all of them."""
    return _limit(sample, reference)


@lru_cache(maxsize=1)  # the interval asks again
def _limit(sample: FeatureSet, reference: FeatureSet) -> float:
    order = torch.from_numpy(sample.walk)
    return frechet_infinity(sample.features[order], reference.moments, line_sizes(sample), reference.root)


def fd_infinity_jackknife(
    sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray, linear_from: int = LINEAR_FROM
) -> np.ndarray:
    """`fd_infinity` with each group left out, [G]. To first order an image counts once in every set of the line.

    Its weights are those of the line's limit, so images of the smallest sets count most, and some negatively.
    """
    if sample.width < linear_from:
        return jackknife(lambda keep: [fd_infinity(sample.take(keep), reference, scoring)], groups)[:, 0]
    sizes = line_sizes(sample)
    counts = np.zeros(len(sample))
    for size, weight in zip(sizes, limit_weights(sizes), strict=True):
        counts[sample.walk[:size]] += weight * len(sample) / size
    _, added = influence(sample.features, sample.moments, reference.moments, reference.root)
    return fd_infinity(sample, reference, scoring) + mean_changes(counts * added, groups)


def line_sizes(sample: FeatureSet) -> list[int]:
    """Sizes of the line's sets: a tenth or, where there are enough, LINE_IMAGES images a feature, up to all of them.

    Below that the distance does not fall as 1/n, for the covariance is singular or nearly so.
    """
    n = len(sample)
    smallest = max(2, n // LINE_POINTS, min(LINE_IMAGES * sample.width, n // 2))
    return sorted({int(size) for size in np.linspace(smallest, n, LINE_POINTS)})


def frechet_infinity(features, reference: Moments, sizes: Sequence[int], root: np.ndarray | None = None) -> float:
    """The limit of a line through the distances of fewer images against 1 / n, the rate at which their bias falls.

    features: [n, F], in random order. sizes: numbers of images, ascending, up to n; each larger set holds the smaller
    ones. root: `factor` of the reference's covariance.
    """
    root = factor(reference["sigma"]) if root is None else root
    x, distances, sums, before = np.asarray(features), [], None, 0
    for size in sizes:
        part = Sums.of(x[before:size])
        sums, before = part if sums is None else sums + part, size
        distances.append(frechet(sums.moments, reference, root))
    return float(limit_weights(sizes) @ np.array(distances))


def limit_weights(sizes: Sequence[int]) -> np.ndarray:
    """What each distance counts in the limit of the line of least squares through them; the weights add up to one."""
    x = 1 / np.asarray(sizes, float)
    return 1 / len(x) - x.mean() * (x - x.mean()) / ((x - x.mean()) ** 2).sum()
