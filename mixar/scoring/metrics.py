"""Scores as pure functions of features: torch-fidelity's, asked for by their exact definitions.

Symbols: n images, F features, V classes of the feature network. Which images a score needs, and how its row is named,
lies in protocols.py; its interval in intervals.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from mixar.spec import Scoring

SEED = 2020  # torch-fidelity's: order of the Inception Score's splits, and KID's subsets
BLOCK = 1000  # images a side of a distance or kernel matrix: memory is BLOCK * n floats


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of a set of images, in the order of their index. Equal only to itself, so that it can be a cache key.

    index: int64 [n], ascending. labels: int [n]. features: float32 [n, F]. logits: float32 [n, V].
    walk: int64 [n], the order in which the Inception Score cuts its splits. moments_given: mean and covariance that
    stand for more images than are here. Raises ValueError for duplicate indices, other lengths, values not finite.
    """

    index: np.ndarray
    labels: np.ndarray
    features: Tensor
    logits: Tensor
    walk: np.ndarray | None = None
    moments_given: dict[str, np.ndarray] | None = None

    def __post_init__(self):
        lengths = {len(self.index), len(self.labels), len(self.features), len(self.logits)}
        if len(lengths) > 1:
            raise ValueError(f"features: index, labels, features and logits have different lengths {sorted(lengths)}")
        if (np.diff(self.index) <= 0).any():
            at = self.index[1:][np.diff(self.index) <= 0][0]
            raise ValueError(f"features: index {at} occurs twice, or out of order")
        for name, values in (("features", self.features), ("logits", self.logits)):
            if values.dim() != 2:
                raise ValueError(f"{name}: expected one vector an image, found shape {list(values.shape)}")
            if not values.isfinite().all():
                row = int((~values.isfinite()).any(dim=1).nonzero()[0])
                raise ValueError(f"{name}: values of image {self.index[row]} are not finite")
        if self.walk is None:
            object.__setattr__(self, "walk", np.random.RandomState(SEED).permutation(len(self.index)))

    def __len__(self) -> int:
        return len(self.index)

    def take(self, keep: np.ndarray) -> FeatureSet:
        """The images where keep [n] is True. They stay in the Inception Score's order, so its splits hardly change."""
        place = np.cumsum(keep) - 1
        walk = place[self.walk[keep[self.walk]]]
        chosen = torch.from_numpy(np.flatnonzero(keep))
        return FeatureSet(self.index[keep], self.labels[keep], self.features[chosen], self.logits[chosen], walk)

    def standing_for(self, moments: dict[str, np.ndarray]) -> FeatureSet:
        """The same features with the mean and covariance of a larger set, for the Fréchet distance."""
        return replace(self, moments_given=moments)

    @cached_property
    def moments(self) -> dict[str, np.ndarray]:
        """Mean `mu` [F] and covariance `sigma` [F, F] of the features."""
        return self.moments_given or fid_features_to_statistics(self.features)


def merge(parts: Sequence[tuple]) -> FeatureSet:
    """One set from parts (index, labels, features, logits) in any order. Raises ValueError as FeatureSet does."""
    if not parts:
        raise ValueError("features: no parts to merge")
    widths = {tuple(p[2].shape[1:]) + tuple(p[3].shape[1:]) for p in parts}
    if len(widths) > 1:
        raise ValueError(f"features: parts of different widths (features, logits) {sorted(widths)}, of two networks")
    index, labels = (np.concatenate([np.asarray(p[i]) for p in parts]) for i in (0, 1))
    order = np.argsort(index, kind="stable")
    features, logits = (torch.cat([p[i] for p in parts])[torch.from_numpy(order)] for i in (2, 3))
    return FeatureSet(index[order], labels[order], features, logits)


def check_sizes(names: Sequence[str], sample: FeatureSet, reference: FeatureSet, scoring: Scoring) -> None:
    """Raise ValueError where a metric of `names` cannot be computed from this many images, or the widths differ."""
    widths = (sample.features.shape[1], reference.features.shape[1], len(reference.moments["mu"]))
    if len(set(widths)) > 1:
        raise ValueError(
            f"features: {widths[0]} an image, but the reference has {widths[1]} (its moments: {widths[2]}); "
            "score both with one network"
        )
    fewest = min(len(sample), len(reference))
    left = len(sample) - -(-len(sample) // scoring.jackknife_groups)  # in the smallest jackknife replicate
    limits = (
        ("fd", "jackknife_groups", scoring.jackknife_groups, len(sample)),
        ("fd", "jackknife_groups", 2, left),
        ("is", "is_splits", scoring.is_splits, left),
        ("kid", "kid_subset_size", scoring.kid_subset_size, fewest),
        ("precision", "neighbours", scoring.neighbours + 1, min(left, fewest)),
        ("recall", "neighbours", scoring.neighbours + 1, min(left, fewest)),
    )
    for metric, key, needed, found in limits:
        if metric in names and found < needed:
            raise ValueError(
                f"scoring.{key}: metric {metric!r} needs at least {needed} images, found {found} "
                f"({len(sample)} scored, {len(reference)} in the reference); lower {key} or score more images"
            )


def frechet_distance(moments: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
    """Fréchet distance of two Gaussians given as mu [F] and sigma [F, F]; squared units of the features."""
    if moments["mu"].dtype != reference["mu"].dtype:  # the library asserts one type; statistics files are float64
        moments, reference = ({k: v.astype(np.float64) for k, v in m.items()} for m in (moments, reference))
    return fid_statistics_to_metric(moments, reference, verbose=False)[KEY_METRIC_FID]


def fd(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring) -> float:
    """Fréchet distance of the two sets of features. FID where the network is Inception, and nowhere else."""
    return frechet_distance(sample.moments, reference.moments)


def inception_score(sample: FeatureSet, _reference: FeatureSet, scoring: Scoring) -> float:
    """Mean over `is_splits` splits of exp(mean KL of class probabilities to their average); 1 to V."""
    logits = sample.logits[torch.from_numpy(sample.walk)]
    return isc_features_to_metric(logits, splits=scoring.is_splits, shuffle=False)[KEY_METRIC_ISC_MEAN]


def kid(sample: FeatureSet, reference: FeatureSet, scoring: Scoring) -> float:
    """Kernel distance: unbiased squared MMD under a cubic kernel, mean over random subsets."""
    return kid_features_to_metric(
        sample.features,
        reference.features,
        kid_subsets=scoring.kid_subsets,
        kid_subset_size=scoring.kid_subset_size,
        rng_seed=SEED,
        verbose=False,
    )[KEY_METRIC_KID_MEAN]


def kid_of_all(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring) -> float:
    """What `kid` estimates by subsets, from every pair of images instead: no random choice, so it can be jackknifed."""
    x, y = sample.features, reference.features
    within = [(_kernel_sum(f, f) - _kernel_diagonal(f).sum().item()) / (len(f) * (len(f) - 1)) for f in (x, y)]
    return sum(within) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return sum(((block @ y.T) / x.shape[1] + 1).pow(3).sum(dtype=torch.float64).item() for block in x.split(BLOCK))


def _kernel_diagonal(x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1).double().pow(3)


def precision(sample: FeatureSet, reference: FeatureSet, scoring: Scoring) -> float:
    """Share of the drawn images inside a ball of the reference; balls reach to the k-th neighbour of their centre."""
    return _precision_recall(sample, reference, scoring.neighbours)[KEY_METRIC_PRECISION]


def recall(sample: FeatureSet, reference: FeatureSet, scoring: Scoring) -> float:
    """Share of the reference inside a ball of the drawn images."""
    return _precision_recall(sample, reference, scoring.neighbours)[KEY_METRIC_RECALL]


@lru_cache(maxsize=1)  # precision and recall come from the same distances
def _precision_recall(sample: FeatureSet, reference: FeatureSet, neighbours: int) -> dict[str, float]:
    # Order of the arguments: drawn, then real. The beta that MAR's fork is based on has them swapped.
    return prc_features_to_metric(
        sample.features,
        reference.features,
        prc_neighborhood=neighbours,
        prc_batch_size=BLOCK,
        save_cpu_ram=True,
        verbose=False,
    )


Metric = Callable[[FeatureSet, FeatureSet, Scoring], float]
METRICS: dict[str, Metric] = {
    "fd": fd,
    "is": inception_score,
    "kid": kid,
    "precision": precision,
    "recall": recall,
}
# For jackknife replicates: the same quantities without random subsets, whose noise would pass for spread.
REPLICATED: dict[str, Metric] = {**METRICS, "kid": kid_of_all}
# Least and greatest value of each metric, to which intervals are cut.
BOUNDS = {"fd": (0, np.inf), "is": (1, np.inf), "kid": (-np.inf, np.inf), "precision": (0, 1), "recall": (0, 1)}
