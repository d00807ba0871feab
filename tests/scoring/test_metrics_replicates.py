"""Leaving groups out: the short ways against computing anew, and whether the intervals hold what they should."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from toy_metrics import mean_shift

from mixar.scoring.catalogue import METRICS, Metric
from mixar.scoring.features import SEED, FeatureSet
from mixar.scoring.intervals import interval, jackknife, jackknife_groups, standard_error
from mixar.scoring.metrics import frechet, kid
from mixar.scoring.values import replicates_of, value_of
from mixar.study.sections import Extractor, Scoring

SCORING = Scoring(protocol="emoji-gfd", extractor=Extractor(network="subgroup-cnn", weights="x"), kid_subsets=5,
                  kid_subset_size=40, is_splits=3, jackknife_groups=10)  # fmt: skip


def features(n: int, width: int = 8, seed: int = 0, shift: float = 0.0, classes: int = 4) -> FeatureSet:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(n, width, generator=rng) * torch.linspace(0.2, 2, width) + shift
    return FeatureSet(np.arange(n), np.arange(n) % 2, values, 3 * torch.randn(n, classes, generator=rng))


def anew(metric: str, sample, reference, groups) -> np.ndarray:
    return jackknife(lambda keep: [value_of(METRICS[metric], sample.take(keep), reference, SCORING)], groups)[:, 0]


@pytest.mark.parametrize("metric", ["fd", "precision", "recall"])
def test_leaving_groups_out_equals_computing_anew(metric):
    sample, reference = features(300), features(250, seed=1, shift=0.4)
    groups = jackknife_groups(sample.index, 10)

    found = replicates_of(METRICS[metric], sample, reference, SCORING, groups)

    assert np.allclose(found, anew(metric, sample, reference, groups), rtol=0, atol=1e-6)
    assert np.ptp(found) > 0


def test_a_metric_without_a_short_way_is_computed_anew_without_each_group():
    sample, reference = features(300), features(250, seed=1, shift=0.4)
    groups = jackknife_groups(sample.index, 10)

    found = replicates_of(Metric("mine", function="toy_metrics:mean_shift"), sample, reference, SCORING, groups)

    assert np.array_equal(found, [mean_shift(sample.take(groups != g), reference, SCORING) for g in range(10)])
    assert np.ptp(found) > 0


def test_inception_scores_differ_from_those_computed_anew_only_by_where_splits_are_cut():
    sample = features(600, classes=6)
    groups = jackknife_groups(sample.index, 10)

    found, exact = replicates_of(METRICS["is"], sample, sample, SCORING, groups), anew("is", sample, sample, groups)

    assert np.allclose(found, exact, atol=0.02 * value_of(METRICS["is"], sample, sample, SCORING))
    assert standard_error(found) == pytest.approx(standard_error(exact), rel=0.25)


def test_kernel_distances_equal_the_formula_over_all_pairs():
    sample, reference = features(120), features(100, seed=1, shift=0.4)
    groups = jackknife_groups(sample.index, 10)

    def direct(keep):
        x, y = sample.features[torch.from_numpy(keep)].double(), reference.features.double()
        xx, yy, xy = (((a @ b.T) / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        own = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
        return [(sum(own) - 2 * xy.mean()).item()]

    found = kid._kid_of_pairs(sample, reference, groups)

    assert np.allclose(found, jackknife(direct, groups)[:, 0], atol=1e-6)


def test_subsets_of_the_kernel_distance_are_the_librarys_and_leave_in_groups_of_their_own():
    sample, reference = features(120), features(100, seed=1, shift=0.4)
    groups, scoring = jackknife_groups(sample.index, 10), SCORING.model_copy(update={"kid_subsets": 30})

    subsets = kid.kid_subsets(sample, reference, scoring.kid_subsets, scoring.kid_subset_size)
    found = replicates_of(METRICS["kid"], sample, reference, scoring, groups)

    how = {"kid_subsets": 30, "kid_subset_size": scoring.kid_subset_size, "rng_seed": SEED, "verbose": False}
    by_the_library = kid_features_to_metric(sample.features, reference.features, **how)
    assert value_of(METRICS["kid"], sample, reference, scoring) == by_the_library["kernel_inception_distance_mean"]
    alone = found - kid._kid_of_pairs(sample, reference, groups)
    group_means = subsets.reshape(3, 10).mean(axis=0)
    assert standard_error(alone) == pytest.approx(group_means.std(ddof=1) / np.sqrt(10))


def test_what_two_runs_share_of_the_subsets_noise_cancels_in_their_difference():
    first, reference = features(200), features(100, seed=1, shift=0.4)
    second = FeatureSet(first.index, first.labels, first.features + 0.01, first.logits)
    groups = jackknife_groups(first.index, 10)

    a, b = (replicates_of(METRICS["kid"], sample, reference, SCORING, groups) for sample in (first, second))

    assert standard_error(a - b) < 0.2 * standard_error(a)


def test_of_many_images_the_kernel_distance_takes_a_part_and_scales_its_spread(monkeypatch):
    sample, reference = features(4000), features(300, seed=1, shift=0.5)
    groups = jackknife_groups(sample.index, 10)
    whole = standard_error(kid._kid_of_pairs(sample, reference, groups))
    monkeypatch.setattr(kid, "KERNEL_IMAGES", 1000)

    part = standard_error(kid._kid_of_pairs(sample, reference, groups))

    assert 0.5 * whole < part < 2 * whole


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_to_first_order_a_wide_network_has_the_spread_of_computing_anew(monkeypatch, shift):
    sample, reference = features(320, 32), features(900, 32, seed=1, shift=shift)
    groups = jackknife_groups(sample.index, 10)
    monkeypatch.setattr(frechet, "LINEAR_FROM", 32)

    found, exact = (
        replicates_of(METRICS["fd"], sample, reference, SCORING, groups),
        anew("fd", sample, reference, groups),
    )

    assert not np.allclose(found, exact)  # it is the other way
    assert standard_error(found) == pytest.approx(standard_error(exact), rel=0.2)
    assert np.corrcoef(found, exact)[0, 1] > 0.9


def test_the_limit_of_a_wide_network_has_the_spread_of_computing_anew(monkeypatch):
    sample, reference = features(800, 16), features(900, 16, seed=1, shift=0.3)
    groups = jackknife_groups(sample.index, 10)
    monkeypatch.setattr(frechet, "LINEAR_FROM", 16)

    found = replicates_of(METRICS["fd_infinity"], sample, reference, SCORING, groups)
    exact = anew("fd_infinity", sample, reference, groups)

    assert standard_error(found) == pytest.approx(standard_error(exact), rel=0.25)
    assert np.corrcoef(found, exact)[0, 1] > 0.8


def test_pairs_leave_together_in_both_ways(monkeypatch):
    originals = features(320, 32)
    noise = 0.3 * torch.randn(320, 32, generator=torch.Generator().manual_seed(9))
    made = FeatureSet(originals.index, originals.labels, originals.features * 0.8 + noise, originals.logits)
    groups = jackknife_groups(made.index, 10)
    exact = frechet.pairs_jackknife(made, originals, SCORING, groups)
    monkeypatch.setattr(frechet, "LINEAR_FROM", 32)

    found = frechet.pairs_jackknife(made, originals, SCORING, groups)

    alone = replicates_of(METRICS["fd"], made, originals, SCORING, groups)
    assert standard_error(found) == pytest.approx(standard_error(exact), rel=0.3)
    assert not np.allclose(found, alone)


# Do the intervals cover? Draws with a value that is known, at small size.


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


@pytest.mark.parametrize(("metric", "way"), WAYS)
def test_95_percent_intervals_hold_the_known_value_in_at_least_90_of_100_draws(metric, way, monkeypatch):
    if way == "first order":
        monkeypatch.setattr(frechet, "LINEAR_FROM", 1)
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
    truth, against = truths[metric](), exact if metric.startswith("fd") else reference

    held = 0
    for seed in range(100):
        sample = shifted(seed, n)
        found = replicates_of(METRICS[metric], sample, against, scoring, jackknife_groups(sample.index, 20))
        low, high = interval(value_of(METRICS[metric], sample, against, scoring), found)[1:]
        held += low <= truth <= high

    assert held >= 90, f"{held} of 100 intervals hold {truth:.4f}"


MEMORY = """
import resource, numpy as np, torch
from mixar.scoring.features import FeatureSet
from mixar.scoring.metrics import precision_recall
from mixar.study.sections import Extractor, Scoring
scoring = Scoring(protocol="emoji-gfd", extractor=Extractor(network="subgroup-cnn", weights="x"))
n, precision_recall.BLOCK = 5000, 250
x, y = (FeatureSet(np.arange(n), np.arange(n), torch.randn(n, 4), torch.zeros(n, 1)) for _ in range(2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
precision_recall.precision(x, y, scoring)
precision_recall.recall_jackknife(x, y, scoring, np.arange(n) % 10)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


def test_the_neighbour_search_never_holds_all_distances(root):
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, cwd=root,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip

    grown_mib = float(run.stdout)

    whole = 4 * 5000**2 / 2**20  # of one matrix of distances, 95 MiB; at 50,000 images 9.3 GiB
    assert grown_mib < 0.6 * whole, run.stderr
