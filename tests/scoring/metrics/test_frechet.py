"""Fréchet distances against closed forms and others' formulas, their limit, and both ways of leaving groups out."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics
from toy_features import anew, features, settings, stretched

from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import jackknife_groups, standard_error
from mixar.scoring.metrics.frechet import (
    fd_infinity_jackknife,
    fd_jackknife,
    frechet,
    frechet_distance,
    frechet_infinity,
    influence,
    line_sizes,
    pairs_jackknife,
)
from mixar.scoring.statistics import Sums
from mixar.scoring.values import value_of

SCORING = settings(jackknife_groups=10)


def gaussian(n: int, width: int = 6, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, width)) * np.linspace(0.3, 2, width) + shift


def moments(x: np.ndarray) -> dict:
    return {"mu": x.mean(axis=0), "sigma": np.cov(x, rowvar=False)}


def with_exact_moments(mu: np.ndarray, sigma: np.ndarray, n: int = 400) -> np.ndarray:
    """Features whose sample mean and covariance are these, to rounding."""
    x = np.random.default_rng(5).standard_normal((n, len(mu)))
    x -= x.mean(axis=0)
    whitened = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return whitened @ np.linalg.cholesky(sigma).T + mu


def test_the_distance_of_two_gaussians_equals_its_closed_form():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    a, b = rng.uniform(0.5, 2, 5), rng.uniform(0.5, 2, 5)
    first = {"mu": rng.standard_normal(5), "sigma": rotation @ np.diag(a) @ rotation.T}
    second = {"mu": rng.standard_normal(5), "sigma": rotation @ np.diag(b) @ rotation.T}

    distance = frechet_distance(first, second)

    # Covariances that commute: sum of squared differences of the means and of the standard deviations.
    expected = ((first["mu"] - second["mu"]) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert distance == pytest.approx(expected, rel=1e-10)


def test_features_of_two_gaussians_are_as_far_apart_as_the_closed_form_says():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    (a, b), (mu, mu_r) = rng.uniform(0.5, 2, (2, 5)), rng.standard_normal((2, 5))
    one, two = (with_exact_moments(m, rotation @ np.diag(v) @ rotation.T) for m, v in ((mu, a), (mu_r, b)))
    expected = ((mu - mu_r) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()

    ours = frechet(Sums.of(one).moments, Sums.of(two).moments)
    library = frechet_distance(*(fid_features_to_statistics(torch.from_numpy(x)) for x in (one, two)))

    assert ours == pytest.approx(expected, abs=1e-6) and library == pytest.approx(expected, abs=1e-6)


def test_one_gaussian_in_one_dimension_needs_no_matrix():
    one, two = {"mu": np.array([1.0]), "sigma": np.array([[4.0]])}, {"mu": np.array([3.0]), "sigma": np.array([[1.0]])}

    assert frechet(one, two) == pytest.approx((1 - 3) ** 2 + (2 - 1) ** 2, abs=1e-12)


@pytest.mark.parametrize("n", [300, 7], ids=["more images than features", "fewer"])
def test_the_distance_by_a_factor_equals_the_librarys_and_the_matrix_root_of_edm2(n):
    one, two = moments(gaussian(n, 20)), moments(gaussian(400, 20, seed=1, shift=0.2))

    found = frechet(one, two)

    root = scipy.linalg.sqrtm(one["sigma"] @ two["sigma"])
    edm2 = ((one["mu"] - two["mu"]) ** 2).sum() + np.trace(one["sigma"] + two["sigma"] - 2 * root).real
    # for a singular product scipy's root is accurate to half the usual digits
    assert found == pytest.approx(edm2, rel=1e-9 if n > 20 else 1e-5)
    assert found == pytest.approx(frechet_distance(one, two), rel=1e-9 if n > 20 else 1e-5)


def test_few_images_on_both_sides_give_the_nuclear_norm_between_them():
    x, y = gaussian(5, 30), gaussian(8, 30, seed=1)
    one, two = moments(x), moments(y)

    found = frechet(one, two)

    between = ((x - x.mean(0)) / np.sqrt(4)) @ ((y - y.mean(0)) / np.sqrt(7)).T
    nuclear = np.linalg.svd(between, compute_uv=False).sum()
    expected = ((one["mu"] - two["mu"]) ** 2).sum() + np.trace(one["sigma"] + two["sigma"]) - 2 * nuclear
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet(one, one) == pytest.approx(0, abs=1e-5)


def test_the_distance_of_a_set_to_itself_is_zero_also_with_fewer_images_than_features():
    few = features(10, width=32)

    assert value_of(METRICS["fd"], few, few, settings()) == pytest.approx(0, abs=1e-4)


def test_a_shift_of_all_features_adds_its_squared_length():
    one, two = features(50), features(50, shift=0.5)

    assert value_of(METRICS["fd"], one, two, settings()) == pytest.approx(6 * 0.25, rel=1e-4)


def test_moments_of_a_statistics_file_replace_the_reference_images():
    sample, reference = features(50), features(60, seed=1)
    moments = {"mu": np.zeros(6), "sigma": np.eye(6)}

    value = value_of(METRICS["fd"], sample, reference.standing_for(moments), settings())

    own = {k: v.astype(np.float64) for k, v in sample.moments.items()}
    assert value == frechet_distance(own, moments)


def test_distances_of_small_sets_are_biased_upwards_by_order_one_over_n():
    truth = {"mu": np.zeros(16), "sigma": np.eye(16)}
    x = np.random.default_rng(0).standard_normal((64, 800, 16))

    small, large = (np.mean([frechet(moments(part[:n]), truth) for part in x]) for n in (200, 800))

    assert small == pytest.approx(4 * large, rel=0.15)


def test_a_line_over_one_over_n_removes_that_bias():
    truth, x = {"mu": np.full(16, 0.3), "sigma": np.eye(16)}, np.random.default_rng(1).standard_normal((1000, 16))

    limit = frechet_infinity(x, truth, range(100, 1001, 100))

    plain, expected = frechet(moments(x), truth), 16 * 0.3**2
    assert abs(limit - expected) < abs(plain - expected)
    assert limit == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("n", "width", "smallest"), [(1000, 6, 100), (400, 64, 200), (1000, 64, 256), (6, 2, 3)])
def test_the_line_to_infinity_begins_where_the_distance_falls_as_one_over_n(n, width, smallest):
    sizes = line_sizes(features(n, width))

    assert (sizes[0], sizes[-1]) == (smallest, n) and sizes == sorted(set(sizes))


def test_the_limit_of_wide_features_is_not_bent_by_sets_that_are_too_small():
    reference = features(10, 64).standing_for({"mu": np.zeros(64), "sigma": np.eye(64)})
    found = [
        value_of(METRICS["fd_infinity"], features(768, 64, seed, shift=0.1), reference, settings()) for seed in range(8)
    ]

    error = np.std(found, ddof=1) / np.sqrt(8)
    assert np.mean(found) == pytest.approx(0.64, abs=3 * error)


def test_the_influence_of_an_image_is_the_slope_in_its_weight():
    x, other = gaussian(80), moments(gaussian(90, seed=1, shift=0.3))
    weights, step = np.ones(80), 1e-5

    distance, found = influence(x, moments(x), other)

    def weighted(w):
        mu = (w @ x) / w.sum()
        return {"mu": mu, "sigma": ((x - mu) * w[:, None]).T @ (x - mu) / w.sum() * 80 / 79}

    for image in (0, 17, 79):
        up = weights.copy()
        up[image] += step
        slope = (frechet(weighted(up), other) - frechet(weighted(weights), other)) / step * 80
        assert found[image] == pytest.approx(slope, rel=0.02, abs=0.02)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert distance == pytest.approx(frechet(moments(x), other), rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_to_first_order_a_wide_network_has_the_spread_of_computing_again(shift):
    sample, reference = stretched(320, 32), stretched(900, 32, seed=1, shift=shift)
    groups = jackknife_groups(sample.index, 10)

    found = fd_jackknife(sample, reference, SCORING, groups, linear_from=32)
    exact = anew("fd", sample, reference, groups, SCORING)

    assert not np.allclose(found, exact)  # it is the other way
    assert standard_error(found) == pytest.approx(standard_error(exact), rel=0.2)
    assert np.corrcoef(found, exact)[0, 1] > 0.9


def test_the_limit_of_a_wide_network_has_the_spread_of_computing_again():
    sample, reference = stretched(800, 16), stretched(900, 16, seed=1, shift=0.3)
    groups = jackknife_groups(sample.index, 10)

    found = fd_infinity_jackknife(sample, reference, SCORING, groups, linear_from=16)
    exact = anew("fd_infinity", sample, reference, groups, SCORING)

    assert standard_error(found) == pytest.approx(standard_error(exact), rel=0.25)
    assert np.corrcoef(found, exact)[0, 1] > 0.8


def test_pairs_leave_the_jackknife_together_exactly_and_to_first_order():
    originals = stretched(320, 32)
    noise = 0.3 * torch.randn(320, 32, generator=torch.Generator().manual_seed(9))
    made = FeatureSet(originals.index, originals.labels, originals.features * 0.8 + noise, originals.logits)
    groups = jackknife_groups(made.index, 10)
    exact = pairs_jackknife(made, originals, SCORING, groups)

    found = pairs_jackknife(made, originals, SCORING, groups, linear_from=32)

    alone = fd_jackknife(made, originals, SCORING, groups, linear_from=32)
    assert standard_error(found) == pytest.approx(standard_error(exact), rel=0.3)
    assert not np.allclose(found, alone)
