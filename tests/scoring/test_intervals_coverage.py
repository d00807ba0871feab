"""95 % intervals cover known values in at least 90 of 100 small draws."""

from functools import partial

import numpy as np
import pytest
import torch
from toy_features import settings

from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import interval, jackknife_groups
from mixar.scoring.metrics.frechet import (
    fd_infinity_jackknife,
    fd_jackknife,
)
from mixar.scoring.values import replicates_of, value_of

SCORING = settings(jackknife_groups=10)


def shifted(seed: int, n: int = 300) -> FeatureSet:
    """Four features about 0.5 with deviation 1, and two-class logits of one known spread."""
    rng = np.random.default_rng(seed)
    values, logits = rng.standard_normal((n, 4)) + 0.5, rng.standard_normal((n, 2)) * [3, 0]
    return FeatureSet(
        np.arange(n), np.zeros(n, int), torch.from_numpy(values).float(), torch.from_numpy(logits).float()
    )


def expected_inception_score() -> float:
    """Of logits (3 z, 0): by symmetry both classes have half the mass; the entropy is an integral over z."""
    z = np.linspace(-8, 8, 20001)
    weight = np.exp(-(z**2) / 2)
    p = 1 / (1 + np.exp(-3 * z))
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return float(np.exp(np.log(2) - (weight * entropy).sum() / weight.sum()))


def expected_kernel_distance(reference: torch.Tensor) -> float:
    """Of N(0.5, 1) in four dimensions against given points: from a very large draw, once."""
    x = torch.from_numpy(np.random.default_rng(99).standard_normal((20_000, 4)) + 0.5)
    y = reference.double()

    def kernel(a, b):
        return ((a @ b.T) / 4 + 1) ** 3

    half = kernel(x[:4000], x[4000:8000]).mean()
    yy = kernel(y, y)
    return float(half + (yy.sum() - yy.diagonal().sum()) / (len(y) * (len(y) - 1)) - 2 * kernel(x, y).mean())


WAYS = [("fd", "anew"), ("fd", "first order"), ("fd_infinity", "anew"), ("fd_infinity", "first order"),
        ("is", "anew"), ("kid", "few subsets"), ("kid", "many subsets"), ("precision", "anew"),
        ("recall", "anew"), ("density", "anew"), ("coverage", "anew")]  # fmt: skip


FIRST_ORDER = {"fd": partial(fd_jackknife, linear_from=1), "fd_infinity": partial(fd_infinity_jackknife, linear_from=1)}


@pytest.mark.parametrize(("metric", "way"), WAYS)
def test_95_percent_intervals_hold_the_known_value_in_at_least_90_of_100_draws(metric, way):
    rng = np.random.default_rng(1000)
    points = torch.from_numpy(rng.standard_normal((60, 4))).float()
    reference = FeatureSet(np.arange(60), np.zeros(60, int), points, torch.zeros(60, 2))
    exact = reference.standing_for({"mu": np.zeros(4), "sigma": np.eye(4)})
    subsets = 100 if way == "many subsets" else 5
    scoring = SCORING.model_copy(update={"is_splits": 1, "jackknife_groups": 20, "kid_subsets": subsets})
    many = shifted(12345, 40_000)
    n = 80 if metric == "coverage" else 300  # which would cover every ball
    truths = {
        "fd": lambda: 4 * 0.25,
        "fd_infinity": lambda: 4 * 0.25,
        "is": expected_inception_score,
        "kid": lambda: expected_kernel_distance(points),
        "precision": lambda: replicates_of(METRICS["precision"], many, reference, scoring, many.index % 20).mean(),
        "density": lambda: value_of(METRICS["density"], many, reference, scoring),
        "coverage": lambda: np.mean(
            [value_of(METRICS["coverage"], shifted(s, n), reference, scoring) for s in range(1000, 1400)]
        ),
        # What it is for so many images: the mean over other draws.
        "recall": lambda: np.mean(
            [value_of(METRICS["recall"], shifted(s), reference, scoring) for s in range(1000, 1400)]
        ),
    }
    left_out = FIRST_ORDER[metric] if way == "first order" else partial(replicates_of, METRICS[metric])
    truth, against = truths[metric](), exact if metric.startswith("fd") else reference

    held = 0
    for seed in range(100):
        sample = shifted(seed, n)
        groups = jackknife_groups(sample.index, 20)
        found = left_out(sample, against, scoring, groups)
        low, high = interval(value_of(METRICS[metric], sample, against, scoring), found)[1:]
        held += low <= truth <= high

    assert held >= 90, f"{held} of 100 intervals hold {truth:.4f}"
