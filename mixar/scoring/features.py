"""Features of a set of images: what every metric takes, merged from parts, with mean and covariance.

Symbols: n images, F features, V classes of the feature network.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixar.scoring.statistics import Moments, factor, kept_factor

SEED = 2020  # torch-fidelity's: order of the Inception Score's splits, and KID's subsets


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of a set of images, in the order of their index. Equal only to itself, so that it can be a cache key.

    index: int64 [n], ascending. labels: int [n]. features: float32 [n, F]. logits: float32 [n, V].
    walk: int64 [n], the order in which the Inception Score cuts its splits. moments_given: mean and covariance of
    a larger set that replaces these images. root_folder: cache of the covariance's root.
    Raises ValueError for duplicate indices, other lengths, values not finite.
    """

    index: np.ndarray
    labels: np.ndarray
    features: Tensor
    logits: Tensor
    walk: np.ndarray = None  # type: ignore[assignment]  # always set: by default a fixed permutation
    moments_given: Moments | None = None
    root_folder: Path | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.index), len(self.labels), len(self.features), len(self.logits)}
        if len(lengths) > 1:
            raise ValueError(f"features: index, labels, features and logits have different lengths {sorted(lengths)}")
        if (np.diff(self.index) <= 0).any():
            at = self.index[1:][np.diff(self.index) <= 0][0]
            raise ValueError(f"features: index {at} occurs twice, or out of order")
        for name, values in (("features", self.features), ("logits", self.logits)):
            if values.dim() != 2:
                raise ValueError(f"{name}: expected one vector per image, found shape {list(values.shape)}")
            # A finite sum means that all values are finite; look for the image only otherwise.
            if not values.sum().isfinite() and not values.isfinite().all():
                row = int((~values.isfinite()).any(dim=1).nonzero()[0])
                raise ValueError(f"{name}: values of image {self.index[row]} are not finite")
        if self.walk is None:
            object.__setattr__(self, "walk", np.random.RandomState(SEED).permutation(len(self.index)))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def width(self) -> int:
        return self.features.shape[1]

    def take(self, keep: np.ndarray) -> FeatureSet:
        """The images where keep [n] is True. They stay in the Inception Score's order, so its splits hardly change."""
        place = np.cumsum(keep) - 1
        walk = place[self.walk[keep[self.walk]]]
        chosen = torch.from_numpy(np.flatnonzero(keep))
        return FeatureSet(self.index[keep], self.labels[keep], self.features[chosen], self.logits[chosen], walk)

    def standing_for(self, moments: Moments) -> FeatureSet:
        """The same features with the mean and covariance of a larger set, for the Fréchet distance."""
        return replace(self, moments_given=moments)

    def keeping_root_in(self, folder: Path) -> FeatureSet:
        """The same features; the root of their covariance is cached in a folder."""
        return replace(self, root_folder=folder)

    @cached_property
    def moments(self) -> Moments:
        """Mean `mu` [F] and covariance `sigma` [F, F] of the features."""
        from torch_fidelity.metric_fid import fid_features_to_statistics  # two seconds, which extraction does not need

        return self.moments_given or fid_features_to_statistics(self.features)

    @cached_property
    def root(self) -> np.ndarray:
        """Matrix root [F, F] of the covariance, cached in `root_folder` if there is one."""
        folder = self.root_folder
        return kept_factor(self.moments["sigma"], folder) if folder else factor(self.moments["sigma"])


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
    """Of all arrays in a set, including moments and root if they are computed; takes a second a gigabyte."""
    arrays: dict[str, np.ndarray | Tensor] = {}
    for name, value in vars(features).items():
        parts = {f"{name} {key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        arrays |= {key: part for key, part in parts.items() if isinstance(part, (np.ndarray, Tensor))}
    return {key: zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data) for key, part in arrays.items()}
