"""Mean and covariance of features: sums over shards, statistics files, and cached roots of covariances.

The distances between them are in metrics/frechet.py. Everything is float64. Symbols: n images, F features; moments are
{"mu": [F], "sigma": [F, F]}.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh

from mixar.storage.files import replaced

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


# What NumPy raises for a foreign or damaged file, or one with an impossible size in its header.
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
        raise ValueError(f"{path}: not a statistics file with arrays {' and '.join(keys)} ({error})") from None
    if mu.shape != (width,) or sigma.shape != (width, width):
        raise ValueError(f"{path}: {keys[0]} {mu.shape} and {keys[1]} {sigma.shape}; expected {width} "
                         "Inception features")  # fmt: skip
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{path}: holds values that are not finite")
    if not np.allclose(sigma, sigma.T, atol=1e-6):
        raise ValueError(f"{path}: {keys[1]} is not symmetric, so it is not a covariance")
    return {"mu": mu, "sigma": sigma}


def save_statistics(path: Path, moments: Moments) -> None:
    """Write moments as `load_statistics` reads them, and the evaluators of MAR and ADM too."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, mu=np.asarray(moments["mu"], np.float64), sigma=np.asarray(moments["sigma"], np.float64))


# Roots


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
