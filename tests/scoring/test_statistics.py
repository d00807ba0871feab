"""Moments, their sums, factors and files."""

import zipfile

import numpy as np
import pytest
import torch
from torch_fidelity.helpers import text_to_dtype

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
    with pytest.raises(ValueError, match="cut.npz: not a statistics file"):
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

    with pytest.raises(ValueError, match="a.npz: not a statistics file with arrays mu and sigma"):
        load_statistics(tmp_path / "a.npz", width=5)


def test_one_array_alone_is_no_file_of_statistics(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(5))

    with pytest.raises(ValueError, match="a.npy: not a statistics file with arrays mu and sigma"):
        load_statistics(tmp_path / "a.npy", width=5)
