"""Drawn features of known distributions, and the settings that small sets of them can be scored under."""

import numpy as np
import torch

from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import jackknife
from mixar.scoring.values import value_of
from mixar.study.sections import Extractor, Scoring


def settings(**changes) -> Scoring:
    base = {
        "protocol": "emoji-gfd",
        "extractor": Extractor(network="subgroup-cnn", weights="x"),
        "kid_subsets": 5,
        "kid_subset_size": 40,
        "is_splits": 3,
        "jackknife_groups": 5,
    }
    return Scoring(**(base | changes))


def features(n: int, width: int = 6, seed: int = 0, shift: float = 0.0, classes: int = 4) -> FeatureSet:
    """Standard normal, moved by `shift`."""
    rng = torch.Generator().manual_seed(seed)
    values, logits = torch.randn(n, width, generator=rng) + shift, torch.randn(n, classes, generator=rng)
    return FeatureSet(np.arange(n), np.arange(n) % 2, values, logits)


def stretched(n: int, width: int = 8, seed: int = 0, shift: float = 0.0, classes: int = 4) -> FeatureSet:
    """Normal, of deviations from 0.2 to 2."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(n, width, generator=rng) * torch.linspace(0.2, 2, width) + shift
    return FeatureSet(np.arange(n), np.arange(n) % 2, values, 3 * torch.randn(n, classes, generator=rng))


def anew(metric: str, sample, reference, groups, scoring) -> np.ndarray:
    """The metric computed from scratch without each group, [G]."""
    return jackknife(lambda keep: [value_of(METRICS[metric], sample.take(keep), reference, scoring)], groups)[:, 0]
