"""Moments, their files, sums and factors, and Fréchet distances against closed forms and other people's formulas."""

import zipfile

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.helpers import text_to_dtype
from torch_fidelity.metric_fid import fid_features_to_statistics

from mixar.scoring.metrics.frechet import frechet, frechet_distance, frechet_infinity, influence
from mixar.scoring.statistics import (
    Sums,
    factor,
    kept_factor,
    load_statistics,
    save_statistics,
)


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
    # scipy's root of a singular product is good to about the root of its own precision
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


def test_sums_of_shards_add_up_in_every_order():
    x = gaussian(200).astype(np.float32) + 100
    parts = [Sums.of(torch.from_numpy(x[rows])) for rows in (slice(0, 30), slice(30, 130), slice(130, 200))]

    found = (parts[2] + parts[0] + parts[1]).moments

    for key, value in moments(x.astype(np.float64)).items():
        assert found[key].dtype == np.float64
        assert np.abs(found[key] - value).max() < 1e-9
    with pytest.raises(ValueError, match="at least 2 images, found 1"):
        _ = Sums.of(x[:1]).moments


def test_sums_are_double_precision_whatever_the_features_are():
    assert text_to_dtype("float64") is torch.float32  # the trap: the library's word for double means single
    x = (np.random.default_rng(0).normal(1e4, 1, (1000, 2))).astype(np.float32)

    single = (x.T @ x - len(x) * np.outer(x.mean(0), x.mean(0))) / (len(x) - 1)

    true = np.cov(x.astype(np.float64), rowvar=False)
    assert np.abs(single - true).max() > 0.1
    assert np.abs(Sums.of(x).moments["sigma"] - true).max() < 1e-5


def test_distances_of_small_sets_are_too_large_by_what_falls_as_one_over_n():
    truth = {"mu": np.zeros(16), "sigma": np.eye(16)}
    x = np.random.default_rng(0).standard_normal((64, 800, 16))

    small, large = (np.mean([frechet(moments(part[:n]), truth) for part in x]) for n in (200, 800))

    assert small == pytest.approx(4 * large, rel=0.15)


def test_a_line_against_one_over_n_takes_that_bias_away():
    truth, x = {"mu": np.full(16, 0.3), "sigma": np.eye(16)}, np.random.default_rng(1).standard_normal((1000, 16))

    limit = frechet_infinity(x, truth, range(100, 1001, 100))

    plain, expected = frechet(moments(x), truth), 16 * 0.3**2
    assert abs(limit - expected) < abs(plain - expected)
    assert limit == pytest.approx(expected, rel=0.15)


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


# Factors and files


def test_a_factor_multiplies_back_also_where_the_covariance_is_singular():
    for n in (100, 4):
        sigma = moments(gaussian(n, 8))["sigma"]

        root = factor(sigma)

        assert np.allclose(root @ root.T, sigma, atol=1e-12)


def test_a_kept_factor_is_found_again_and_never_for_another_matrix(tmp_path):
    one, two = (moments(gaussian(50, seed=s))["sigma"] for s in (0, 1))
    first = kept_factor(one, tmp_path)
    (kept,) = tmp_path.iterdir()
    assert np.array_equal(np.load(kept), first)
    np.save(kept, first + 1)

    assert np.array_equal(kept_factor(one, tmp_path), first + 1), "computed again"

    assert np.array_equal(kept_factor(two, tmp_path), factor(two))
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(kept_factor(one, tmp_path), first), "a damaged copy is made again"


def test_statistics_come_back_as_they_were_saved_and_other_names_and_widths_are_refused(tmp_path):
    known = moments(gaussian(40, 5))
    save_statistics(tmp_path / "a.npz", known)

    found = load_statistics(tmp_path / "a.npz", width=5)

    assert all(np.array_equal(found[key], known[key]) for key in known)
    with pytest.raises(ValueError, match=r"mu \(5,\) and sigma \(5, 5\); expected 2048"):
        load_statistics(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="arrays mu_s and sigma_s"):
        load_statistics(tmp_path / "a.npz", keys=("mu_s", "sigma_s"), width=2023)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:50])
    with pytest.raises(ValueError, match="cut.npz: no statistics file"):
        load_statistics(tmp_path / "cut.npz")


def forged(text: bytes) -> bytes:
    """An .npy file whose header says `text`."""
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"


@pytest.mark.parametrize(
    "member",
    [
        forged(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,)}"),
        forged(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-5,)}"),
        forged(b"{'descr': '|O', 'fortran_order': False, 'shape': (5,)}"),
        forged(b"nothing"),
        b"",
    ],
)
def test_statistics_with_a_header_that_no_array_has_are_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mu.npy", member)
        archive.writestr("sigma.npy", member)

    with pytest.raises(ValueError, match="a.npz: no statistics file with arrays mu and sigma"):
        load_statistics(tmp_path / "a.npz", width=5)


def test_one_array_alone_is_no_file_of_statistics(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(5))

    with pytest.raises(ValueError, match="a.npy: no statistics file with arrays mu and sigma"):
        load_statistics(tmp_path / "a.npy", width=5)
