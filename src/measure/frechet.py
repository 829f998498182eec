"""Features to moments, moments to a distance, and moments in files of pytorch-fid's format.

Knows nothing of images or networks. The Frechet distance between two normal distributions is that
of Dowson and Landau 1982. Heusel et al. 2017 used it on network features ("FID").
"""

from __future__ import annotations

import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.errors import Caution, UserError
from ..common.files import replacing

LARGEST = 1e100  # allowed in a file of moments: the squares of larger numbers can overflow


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and unbiased covariance (D, D) of features, float64."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]


class MomentSums:
    """Sums of features as batches stream by, in float64.

    Memory does not grow with the number of images.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, features: NDArray) -> None:
        """Take in a batch (B, D) of any float type."""
        features = np.asarray(features, dtype=np.float64)
        if not self.count:
            dims = features.shape[1]
            self.shift = features.mean(axis=0)  # keeps the sums free of cancellation
            self.sum = np.zeros(dims)
            self.products = np.zeros((dims, dims))
        centred = features - self.shift
        self.count += len(features)
        self.sum += centred.sum(axis=0)
        self.products += centred.T @ centred

    def moments(self) -> Moments:
        """Moments of all features so far.

        Raises UserError for fewer than two images, which have no covariance.
        """
        if self.count < 2:
            raise UserError(
                f"moments of features need at least 2 images, found {self.count}; "
                f"draw more, or use more data"
            )
        mean = self.sum / self.count
        return Moments(
            self.shift + mean,
            (self.products - self.count * np.outer(mean, mean)) / (self.count - 1),
        )


def moments(features: NDArray, batch_size: int = 1000) -> Moments:
    """Moments of features (N, D) of any float type that are all in memory."""
    sums = MomentSums()
    for start in range(0, len(features), batch_size):
        sums.add(features[start : start + batch_size])
    return sums.moments()


def distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2)).

    0 for equal moments; larger is worse. Raises UserError if the result is not finite.

    Let R be the symmetric root of sigma_b. The last trace is the sum of the roots of the
    eigenvalues of R sigma_a R. That product is symmetric, unlike sigma_a sigma_b, so singular
    covariances need no special case.
    """
    try:
        values, vectors = np.linalg.eigh(b.sigma)
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        cross = np.sqrt(np.linalg.eigvalsh(root @ a.sigma @ root).clip(min=0)).sum()
        result = ((a.mu - b.mu) ** 2).sum() + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross
    except np.linalg.LinAlgError:
        result = np.nan
    if not np.isfinite(result):
        raise UserError(
            "the Frechet distance is not finite: features or statistics are far too large; "
            "compute them anew"
        )
    return max(float(result), 0.0)  # rounding can leave equal moments a hair below zero


def caution(name: str, count: int, dims: int) -> None:
    """Warn where the distance `name` rests on no more images than features."""
    if count <= dims:
        warnings.warn(
            f"{count} images are too few for {dims} features: {name} is far too high, "
            f"since the covariance is singular; compare it with values of as many images only",
            Caution,
            stacklevel=2,
        )


def save(moments: Moments, path: str | Path) -> None:
    """Write an .npz with `mu` and `sigma`, the format of `python -m pytorch_fid --save-stats`."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, mu=moments.mu, sigma=moments.sigma)


def load(path: str | Path, dims: int) -> Moments:
    """Read moments of `dims`-dimensional features from such an .npz.

    Raises UserError that says what is wrong with it.
    """
    wanted = (
        f"expected an .npz with mu ({dims},) and sigma ({dims}, {dims}), "
        f"as `python -m pytorch_fid --save-stats` writes"
    )
    try:
        with zipfile.ZipFile(path) as archive:
            mu = _array(archive, "mu", (dims,))
            sigma = _array(archive, "sigma", (dims, dims))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {wanted}") from None
    except MemoryError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds on damaged archives
        raise UserError(f"{path}: cannot be read ({error}); {wanted}") from None
    _check(path, mu, sigma, wanted)
    return Moments(mu, (sigma + sigma.T) / 2)


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A member of an .npz, as float64.

    Reads its header first, so that nothing larger than `shape` is unpacked.
    """
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)[0]
        actual, by_columns, dtype = readers[version](file)
        if actual != shape or dtype.kind not in "fiu":
            raise ValueError(
                f"{name} is {dtype} of shape {actual}, not real numbers of shape {shape}"
            )
        raw = file.read(math.prod(shape) * dtype.itemsize)
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C")
    return array.astype(np.float64)


def _check(
    path: str | Path, mu: NDArray[np.float64], sigma: NDArray[np.float64], wanted: str
) -> None:
    """Raises UserError, ending in `wanted`, unless these can be a mean and a covariance."""
    if not np.isfinite(mu).all() or not np.isfinite(sigma).all():
        raise UserError(f"{path}: holds values that are not finite; {wanted}")
    if max(np.abs(mu).max(), np.abs(sigma).max()) > LARGEST:
        raise UserError(
            f"{path}: holds values beyond {LARGEST:g}, which no features have; {wanted}"
        )
    if not np.allclose(sigma, sigma.T, rtol=1e-5, atol=1e-8):
        raise UserError(f"{path}: sigma is not symmetric; {wanted}")
    variances = np.linalg.eigvalsh((sigma + sigma.T) / 2)
    if variances[0] < -1e-3 * abs(variances[-1]):
        raise UserError(
            f"{path}: sigma is no covariance, "
            f"with eigenvalues from {variances[0]:g} to {variances[-1]:g}; {wanted}"
        )
