"""Scores as pure functions of features: torch-fidelity's, asked for by their exact definitions.

A metric of your own is a function (sample, reference, scoring) -> float, the first two a FeatureSet each. Name it in
the study: `scoring: {metrics: [fd, "my_module:my_metric"]}`; its rows' metric is what follows the colon. It must leave
the features as they are. A built-in has a row in METRICS, here and in mixar/study/choices.py; a row in BOUNDS cuts its
interval, and one in REPLICATES (replicates.py) saves computing it anew for every group of the jackknife.

Symbols: n images, F features, V classes of the feature network. Which images a score needs, and how its row is named,
lies in protocols.py; its interval in intervals.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from mixar.scoring.statistics import factor, frechet_infinity, kept_factor
from mixar.study import choices
from mixar.study.sections import Scoring

SEED = 2020  # torch-fidelity's: order of the Inception Score's splits, and KID's subsets
LINE_POINTS = 10  # of the line through distances of fewer images
LINE_IMAGES = 4  # images a feature, of its smallest set
BLOCK = 1000  # images a side of a distance or kernel matrix: memory is BLOCK * n floats


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of a set of images, in the order of their index. Equal only to itself, so that it can be a cache key.

    index: int64 [n], ascending. labels: int [n]. features: float32 [n, F]. logits: float32 [n, V].
    walk: int64 [n], the order in which the Inception Score cuts its splits. moments_given: mean and covariance that
    stand for more images than are here. root_folder: where the covariance's root is kept between calls.
    Raises ValueError for duplicate indices, other lengths, values not finite.
    """

    index: np.ndarray
    labels: np.ndarray
    features: Tensor
    logits: Tensor
    walk: np.ndarray | None = None
    moments_given: dict[str, np.ndarray] | None = None
    root_folder: Path | None = None

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
            if not values.sum().isfinite() and not values.isfinite().all():  # the sum is quick, and shows all but good
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

    def keeping_root_in(self, folder: Path) -> FeatureSet:
        """The same features; the root of their covariance is looked for in a folder, and left there."""
        return replace(self, root_folder=folder)

    @cached_property
    def moments(self) -> dict[str, np.ndarray]:
        """Mean `mu` [F] and covariance `sigma` [F, F] of the features."""
        return self.moments_given or fid_features_to_statistics(self.features)

    @cached_property
    def root(self) -> np.ndarray:
        """Matrix root [F, F] of the covariance; kept between calls where there is a folder for it."""
        folder = self.root_folder
        return kept_factor(self.moments["sigma"], folder) if folder else factor(self.moments["sigma"])


class InputChangedError(ValueError):
    """A metric changed the features that it was given."""


@contextmanager
def inputs_kept(where: str, *sets: FeatureSet) -> Iterator[None]:
    """Raise InputChangedError naming the metric at `where` if the body changes a set: all metrics share them."""
    before = [_checksums(one) for one in sets]
    yield
    if any(found.items() - _checksums(one).items() for one, found in zip(sets, before, strict=True)):
        raise InputChangedError(f"{where} changes the features that it is given, and other metrics use them; "
                                "let it work on copies, such as sample.features.clone()")  # fmt: skip


def _checksums(features: FeatureSet) -> dict[str, int]:
    """Of all numbers in a set, the moments and the root among them where they are known; a second a gigabyte."""
    arrays = {}
    for name, value in vars(features).items():
        parts = {f"{name} {key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        arrays |= {key: part for key, part in parts.items() if isinstance(part, (np.ndarray, Tensor))}
    return {key: zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8)) for key, part in arrays.items()}


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
        ("fd_infinity", "jackknife_groups", scoring.jackknife_groups, len(sample)),
        ("fd_infinity", "jackknife_groups", 3, left),  # two points of a line
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


def fd_infinity(sample: FeatureSet, reference: FeatureSet, _scoring: Scoring) -> float:
    """The distance extrapolated to infinitely many drawn images, from ten sets of fewer up to all of them."""
    return _limit(sample, reference)


@lru_cache(maxsize=1)  # the interval asks again
def _limit(sample: FeatureSet, reference: FeatureSet) -> float:
    order = torch.from_numpy(sample.walk)
    return frechet_infinity(sample.features[order], reference.moments, line_sizes(sample), reference.root)


def line_sizes(sample: FeatureSet) -> list[int]:
    """Sizes of the line's sets: a tenth or, where there are enough, LINE_IMAGES images a feature, up to all of them.

    Below that the distance does not fall as 1/n, for the covariance is singular or nearly so.
    """
    n, width = sample.features.shape
    smallest = max(2, n // LINE_POINTS, min(LINE_IMAGES * width, n // 2))
    return sorted({int(size) for size in np.linspace(smallest, n, LINE_POINTS)})


def inception_score(sample: FeatureSet, _reference: FeatureSet, scoring: Scoring) -> float:
    """Mean over `is_splits` splits of exp(mean KL of class probabilities to their average); 1 to V."""
    logits = sample.logits[torch.from_numpy(sample.walk)]
    return isc_features_to_metric(logits, splits=scoring.is_splits, shuffle=False)[KEY_METRIC_ISC_MEAN]


def kid(sample: FeatureSet, reference: FeatureSet, scoring: Scoring) -> float:
    """Kernel distance: unbiased squared MMD under a cubic kernel, mean over random subsets."""
    return float(kid_subsets(sample, reference, scoring.kid_subsets, scoring.kid_subset_size).mean())


@lru_cache(maxsize=1)  # the interval asks again
def kid_subsets(sample: FeatureSet, reference: FeatureSet, count: int, size: int) -> np.ndarray:
    """The kernel distance of each of torch-fidelity's random subsets, [count].

    Its own loop over them gives their mean alone, which is the same to the last bit.
    """
    rng = np.random.RandomState(SEED)
    sides = [s.features.numpy() for s in (sample, reference)]
    drawn = ([x[rng.choice(len(x), size, replace=False)] for x in sides] for _ in range(count))
    return np.array([kernel_mmd(x, y) for x, y in drawn], float)


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
        **known(prc_neighborhood=neighbours, prc_batch_size=BLOCK, save_cpu_ram=True, verbose=False),
    )


def known(**options) -> dict:
    """The same options, which the library would ignore where it does not know them. Raises ValueError for those."""
    if unknown := sorted(set(options) - set(DEFAULTS)):
        raise ValueError(f"torch-fidelity knows no {', '.join(unknown)}, and would go on without")
    return options


Metric = Callable[[FeatureSet, FeatureSet, Scoring], float]
METRICS: dict[str, Metric] = {
    "fd": fd,
    "fd_infinity": fd_infinity,
    "is": inception_score,
    "kid": kid,
    "precision": precision,
    "recall": recall,
}
# Least and greatest value of the metrics that have one, to which intervals are cut. (fd_infinity may fall below zero.)
UNBOUNDED = (-np.inf, np.inf)
BOUNDS = {"fd": (0, np.inf), "is": (1, np.inf), "precision": (0, 1), "recall": (0, 1)}
# What the networks of scoring.further give: name of the row -> how it is computed from their features.
FURTHER = {
    "dinov2-vitl14": {"fd_dinov2": "fd"},
    "vgg16": {"precision_vgg": "precision", "recall_vgg": "recall"},
    "inception-spatial": {"sfid": "fd"},
}


def metric_of(name: str, scoring: Scoring) -> Metric:
    """The metric of a name: one of METRICS, or the study's own. Raises ValueError where that cannot be loaded."""
    if name in scoring.own_metrics:
        return choices.METRICS.load_function(scoring.own_metrics[name])
    return METRICS[name]
