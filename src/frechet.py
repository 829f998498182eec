"""Features to moments, moments to a distance, moments in and out of files in pytorch-fid's format.

Knows nothing of images or networks. The distance is that of Dowson and Landau 1982 between two normal distributions,
used on network features by Heusel et al. 2017 ("FID").
"""

from __future__ import annotations

import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.common.errors import Caution, UserError
from src.common.files import replacing

LARGEST = 1e100  # of what a file of moments may hold: squares of larger numbers are none


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and unbiased covariance (D, D) of features, float64."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]


class MomentSums:
    """Sums of features as batches stream by, in float64: memory does not grow with the number of images."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, features: NDArray) -> None:
        """Take in a batch (B, D) of any float type."""
        features = np.asarray(features, dtype=np.float64)
        if not self.count:
            dims = features.shape[1]
            self.shift = features.mean(axis=0)  # keeps the sums free of cancellation
            self.sum, self.products = np.zeros(dims), np.zeros((dims, dims))
        centred = features - self.shift
        self.count += len(features)
        self.sum += centred.sum(axis=0)
        self.products += centred.T @ centred

    def moments(self) -> Moments:
        """Raises UserError for fewer than two images, which have no covariance."""
        if self.count < 2:
            raise UserError(f"moments of features need at least 2 images, found {self.count}; draw more, or use more data")
        mean = self.sum / self.count
        return Moments(self.shift + mean, (self.products - self.count * np.outer(mean, mean)) / (self.count - 1))


def moments(features: NDArray, batch_size: int = 1000) -> Moments:
    """Moments of features (N, D) that are all in memory, in their own type."""
    sums = MomentSums()
    for start in range(0, len(features), batch_size):
        sums.add(features[start : start + batch_size])
    return sums.moments()


def distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2)); 0 for equal moments, larger is worse.

    With R the symmetric root of sigma_b, the last trace is the sum of the roots of the eigenvalues of R sigma_a R, which
    is symmetric: no root of a product that is not, and singular covariances need no special case.
    """
    try:
        values, vectors = np.linalg.eigh(b.sigma)
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        cross = np.sqrt(np.linalg.eigvalsh(root @ a.sigma @ root).clip(min=0)).sum()
        found = ((a.mu - b.mu) ** 2).sum() + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross
    except np.linalg.LinAlgError:
        found = np.nan
    if not np.isfinite(found):
        raise UserError("the Frechet distance is not finite: features or statistics are far too large; compute them anew")
    return max(float(found), 0.0)  # rounding can leave equal moments a hair below zero


def caution(name: str, count: int, dims: int) -> None:
    """Warn where the distance `name` rests on no more images than features."""
    if count <= dims:
        warnings.warn(
            f"{count} images are too few for {dims} features: {name} is far too high, since the covariance is singular; "
            f"compare it with values of as many images only",
            Caution, stacklevel=2,
        )


def save(moments: Moments, path: str | Path) -> None:
    """An .npz with `mu` and `sigma`, as `python -m pytorch_fid --save-stats` writes and reads it."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, mu=moments.mu, sigma=moments.sigma)


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A member of an .npz, as float64. Its header is read first: nothing larger than `shape` is unpacked."""
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)[0]
        found, by_columns, dtype = readers[version](file)
        if found != shape or dtype.kind not in "fiu":
            raise ValueError(f"{name} is {dtype} of shape {found}, not real numbers of shape {shape}")
        raw = file.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C").astype(np.float64)


def load(path: str | Path, dims: int) -> Moments:
    """Moments of `dims`-dimensional features from such an .npz. Raises UserError that says what is wrong with it."""
    wanted = f"expected an .npz with mu ({dims},) and sigma ({dims}, {dims}), as `python -m pytorch_fid --save-stats` writes"
    try:
        with zipfile.ZipFile(path) as archive:
            mu, sigma = _array(archive, "mu", (dims,)), _array(archive, "sigma", (dims, dims))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {wanted}") from None
    except MemoryError:
        raise
    except Exception as error:  # zipfile, the decompressors and numpy raise many kinds on damaged files
        raise UserError(f"{path}: cannot be read ({error}); {wanted}") from None
    if not np.isfinite(mu).all() or not np.isfinite(sigma).all():
        raise UserError(f"{path}: holds values that are not finite; {wanted}")
    if max(np.abs(mu).max(), np.abs(sigma).max()) > LARGEST:
        raise UserError(f"{path}: holds values beyond {LARGEST:g}, which no features have; {wanted}")
    if not np.allclose(sigma, sigma.T, rtol=1e-5, atol=1e-8):
        raise UserError(f"{path}: sigma is not symmetric; {wanted}")
    variances = np.linalg.eigvalsh((sigma + sigma.T) / 2)
    if variances[0] < -1e-3 * abs(variances[-1]):
        raise UserError(f"{path}: sigma is no covariance, with eigenvalues from {variances[0]:g} to {variances[-1]:g}; {wanted}")
    return Moments(mu, (sigma + sigma.T) / 2)
