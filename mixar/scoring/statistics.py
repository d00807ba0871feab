"""Fréchet distances by way of means and covariances: files, sums over shards, factors kept, influence of each image.

torch-fidelity has the distance of two sets (metrics.fd calls it) and none of these. Every distance is float64. Symbols:
n images, F features; moments are {"mu": [F], "sigma": [F, F]}.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, eigvalsh

from mixar.files import replaced

INCEPTION_WIDTH = 2048
BLOCK = 4096  # images turned into float64 at a time
Moments = dict[str, np.ndarray]


@dataclass
class Sums:
    """Sums over images from which their moments follow, whatever the order: shards add up. As MaskBit and EDM2 do.

    count: images. total: [F]. outer: sum of x xᵀ [F, F].
    """

    count: int
    total: np.ndarray
    outer: np.ndarray

    @classmethod
    def of(cls, features) -> Sums:
        """The sums of features [n, F], a tensor or an array."""
        x = np.asarray(features, np.float64)
        return cls(len(x), x.sum(axis=0), x.T @ x)

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def moments(self) -> Moments:
        """Mean and unbiased covariance. Raises ValueError for a single image."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, found {self.count}")
        mu = self.total / self.count
        return {"mu": mu, "sigma": (self.outer - self.count * np.outer(mu, mu)) / (self.count - 1)}


# Files


# What NumPy raises for a file that is none of its own, is damaged, or has a header of a size that no array has.
UNREADABLE = (BadZipFile, EOFError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError, ZlibError)


def load_statistics(path: Path, keys: tuple[str, str] = ("mu", "sigma"), width: int = INCEPTION_WIDTH) -> Moments:
    """Mean `mu` [2048] and covariance `sigma` [2048, 2048], float64, of an ADM statistics file (.npz).

    keys: the arrays' names in the file (ADM's own also has mu_s and sigma_s, of sFID). width: features expected.
    Raises ValueError for a file without them, other shapes, values not finite, or an asymmetric covariance.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            mu, sigma = (np.asarray(content[key], np.float64) for key in keys)
    except UNREADABLE as error:
        raise ValueError(f"{path}: no statistics file with arrays {' and '.join(keys)} ({error})") from None
    if mu.shape != (width,) or sigma.shape != (width, width):
        raise ValueError(f"{path}: {keys[0]} {mu.shape} and {keys[1]} {sigma.shape}; expected {width} "
                         "Inception features")  # fmt: skip
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{path}: holds values that are not finite")
    if not np.allclose(sigma, sigma.T, atol=1e-6):
        raise ValueError(f"{path}: {keys[1]} is not symmetric, so it is no covariance")
    return {"mu": mu, "sigma": sigma}


def save_statistics(path: Path, moments: Moments) -> None:
    """Write moments as `load_statistics` reads them, and the evaluators of MAR and ADM too."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{key: np.asarray(value, np.float64) for key, value in moments.items()})


# Distances


def factor(sigma: np.ndarray) -> np.ndarray:
    """A matrix root L [F, F] with L Lᵀ = sigma: Cholesky's, or where sigma is singular the one of its eigenvectors."""
    sigma = np.asarray(sigma, np.float64)
    try:
        return cholesky(sigma, lower=True)
    except LinAlgError:
        values, vectors = eigh(sigma)
        return vectors * np.sqrt(values.clip(0))


def kept_factor(sigma: np.ndarray, folder: Path) -> np.ndarray:
    """`factor`, remembered in a folder under the hash of the matrix: another matrix never finds it."""
    content = np.ascontiguousarray(sigma, np.float64)
    path = folder / f"factor-{hashlib.sha256(content.tobytes()).hexdigest()[:32]}.npy"
    if path.is_file():
        try:
            found = np.load(path, allow_pickle=False)
            if found.shape == content.shape:
                return found
        except (OSError, ValueError, EOFError):
            pass  # a damaged copy is made again
    found = factor(content)
    with replaced(path) as temporary, open(temporary, "wb") as file:
        np.save(file, found)
    return found


def frechet(sample: Moments, reference: Moments, root: np.ndarray | None = None) -> float:
    """The Fréchet distance of two Gaussians, singular ones too. root: `factor` of the reference's covariance.

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
    found = np.concatenate(found)
    return _distance(own, other, values), found - found.mean()


def frechet_infinity(features, reference: Moments, sizes: Sequence[int], root: np.ndarray | None = None) -> float:
    """The distance that infinitely many images would have: a line through the distances of fewer, against 1 / n.

    features: [n, F], in random order. sizes: numbers of images, ascending, up to n; each larger set holds the smaller
    ones. root: `factor` of the reference's covariance. The bias of a Fréchet distance falls as 1 / n. Chong and
    Forsyth, arXiv:1911.07023.
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
