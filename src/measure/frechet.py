"""Moments of features, the Frechet distance between them, and files with moments.

The features can come from any network. The Frechet distance between two normal distributions is
from Dowson and Landau 1982. Heusel et al. 2017 applied it to network features ("FID"). The files
have the format of pytorch-fid.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common import npy
from ..common.errors import Caution, UserError
from ..common.files import replacing
from ..common.zips import check_methods

LARGEST = 1e100  # the largest value accepted in a file: squares of larger ones can overflow


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and unbiased covariance (D, D) of features, float64."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]


class MomentSums:
    """Sums of features in float64, updated batch by batch.

    Memory does not grow with the number of images.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, features: NDArray) -> None:
        """Add a batch of features (B, D) of any float type."""
        features = np.asarray(features, dtype=np.float64)
        if not self.count:
            dims = features.shape[1]
            self.shift = features.mean(axis=0)  # avoids cancellation in the sums
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
                f"moments of features need at least 2 images, found {self.count}. "
                f"Draw more images, or use more data"
            )
        mean = self.sum / self.count
        return Moments(
            self.shift + mean,
            (self.products - self.count * np.outer(mean, mean)) / (self.count - 1),
        )


def moments(features: NDArray, batch_size: int = 1000) -> Moments:
    """Moments of features (N, D) of any float type, all in memory."""
    sums = MomentSums()
    for start in range(0, len(features), batch_size):
        sums.add(features[start : start + batch_size])
    return sums.moments()


def square_root(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root of a covariance (D, D). Not finite if there is none."""
    try:
        values, vectors = np.linalg.eigh(sigma)
    except np.linalg.LinAlgError:
        return np.full_like(sigma, np.nan)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def distance(a: Moments, b: Moments, root: NDArray[np.float64] | None = None) -> float:
    """The Frechet distance |mu_a - mu_b|^2 + tr(sigma_a + sigma_b - 2 (sigma_a sigma_b)^(1/2)).

    0 for equal moments; larger is worse. `root` is square_root(b.sigma), if it is known. Raises
    UserError if the result is not finite.

    With R = sigma_b^(1/2), tr((sigma_a sigma_b)^(1/2)) = sum_i sqrt(lambda_i), where lambda_i are
    the eigenvalues of R sigma_a R. That product is symmetric, unlike sigma_a sigma_b, so singular
    covariances need no special case.
    """
    root = square_root(b.sigma) if root is None else root
    try:
        cross = np.sqrt(np.linalg.eigvalsh(root @ a.sigma @ root).clip(min=0)).sum()
        result = ((a.mu - b.mu) ** 2).sum() + np.trace(a.sigma) + np.trace(b.sigma) - 2 * cross
    except np.linalg.LinAlgError:
        result = np.nan
    if not np.isfinite(result):
        raise UserError(
            "the Frechet distance is not finite, because features or statistics are too large. "
            "Compute them again"
        )
    return max(float(result), 0.0)  # rounding can make it slightly negative


def caution(name: str, count: int, dims: int) -> None:
    """Warn if the distance `name` is measured on no more images than features."""
    if count <= dims:
        warnings.warn(
            f"{count} images are too few for {dims} features: their covariance is singular, which "
            f"makes {name} far too high. Compare only values for the same number of images",
            Caution,
            stacklevel=2,
        )


def save(moments: Moments, path: str | Path, dtype: type[np.floating] = np.float64) -> None:
    """Write an .npz with `mu` and `sigma`, the format of `python -m pytorch_fid --save-stats`.

    `dtype` is that of sigma in the file.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, mu=moments.mu, sigma=moments.sigma.astype(dtype))


def load(path: str | Path, dims: int) -> Moments:
    """Read moments of `dims`-dimensional features from an .npz of `save` or of pytorch-fid.

    Raises UserError if the file is missing or damaged, or holds anything else.
    """
    wanted = (
        f"expected an .npz with mu ({dims},) and sigma ({dims}, {dims}), "
        f"as `python -m pytorch_fid --save-stats` writes"
    )
    try:
        with zipfile.ZipFile(path) as archive:
            check_methods(archive)
            mu = _array(archive, "mu", (dims,))
            sigma = _array(archive, "sigma", (dims, dims))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {wanted}") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged archives raise many types of errors
        raise UserError(f"{path}: cannot be read ({error}); {wanted}") from None
    _check(path, mu, sigma, wanted)
    return Moments(mu, (sigma + sigma.T) / 2)


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The array `name` of an .npz, as float64.

    Checks its header first, so that no array larger than `shape` is unpacked.
    """
    with archive.open(f"{name}.npy") as file:
        try:
            actual, by_columns, dtype = npy.header(file)
        except ValueError as error:
            raise ValueError(f"{name} has {error}") from None
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
    """Raises UserError, ending in `wanted`, unless mu and sigma can be mean and covariance."""
    if not np.isfinite(mu).all() or not np.isfinite(sigma).all():
        raise UserError(f"{path}: holds values that are not finite; {wanted}")
    if max(np.abs(mu).max(), np.abs(sigma).max()) > LARGEST:
        raise UserError(
            f"{path}: holds values beyond {LARGEST:g}, too large for features; {wanted}"
        )
    if not np.allclose(sigma, sigma.T, rtol=1e-5, atol=1e-8):
        raise UserError(f"{path}: sigma is not symmetric; {wanted}")
    variances = np.linalg.eigvalsh((sigma + sigma.T) / 2)
    if variances[0] < -1e-3 * abs(variances[-1]):
        raise UserError(
            f"{path}: sigma is no covariance, "
            f"since its eigenvalues go from {variances[0]:g} to {variances[-1]:g}; {wanted}"
        )
