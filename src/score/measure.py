"""All scores of a set of digits, each with the uncertainty that comes from drawing the images.

The classifier and the moments of MNIST are those of the yardstick. Some scores compare with real
images; without MNIST they are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import classifier, yardstick
from ..common import device
from ..common.dataset import Dataset
from ..common.randomness import generator
from ..measure import frechet, neighbours, scores, strokes
from ..measure.extractors import IMAGENET, LoadedExtractor
from ..measure.frechet import Moments
from ..measure.kernel import KernelDistance
from ..measure.reference import drawn_at_random

BLOCKS, FEWEST = 10, 4  # of the jackknife, and images in each
NEIGHBOURS = 5
SEED = 0


@dataclass(frozen=True)
class Value:
    """A score, and its standard deviation over draws of as many images; None if unknown."""

    value: float
    deviation: float | None


Scores = dict[str, Value]


@dataclass(frozen=True)
class Target:
    """Moments of MNIST's training images, and the square root of their covariance."""

    moments: Moments
    root: NDArray[np.float64]

    @classmethod
    def load(cls, path: Path, dims: int) -> Target:
        moments = frechet.load(path, dims)
        return cls(moments, frechet.square_root(moments.sigma))

    def distance(self, features: Moments) -> float:
        return frechet.distance(features, self.moments, self.root)


def shipped() -> Path:
    """The folder of the yardstick: beside this package in a wheel, else in the repository."""
    package = Path(__file__).parents[1]
    packed = package / "yardstick_files"
    return packed if packed.exists() else package.parent / "yardstick"


class Instrument:
    """The yardstick's networks and moments in `folder` (default: those shipped with this code)."""

    def __init__(self, folder: Path | None = None):
        """Raises UserError if a file is missing or damaged."""
        folder = folder or shipped()
        self.yardstick = stick = yardstick.load(folder)
        model, _ = classifier.load(stick.file(folder, "classifier.safetensors"))
        self.classifier = model.to(device.best())
        self.digits = Target.load(stick.file(folder, "digits.npz"), classifier.FEATURES)
        self.imagenet = Target.load(stick.file(folder, "imagenet.npz"), IMAGENET.dims)
        self._network: LoadedExtractor | None = None

    def imagenet_features(self, images: Tensor) -> Tensor:
        """Features (N, 1280) float32."""
        self._network = self._network or LoadedExtractor(IMAGENET)
        return self._network.features(images)

    def measure(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        real: Dataset | None = None,
        near: float | None = None,
    ) -> Scores:
        """Scores of uint8 images (N, 1, 28, 28); labels (N,) int64 or None.

        `real` is MNIST, or None. `near` is the distance to a training image below which an image
        counts as memorised; without it, that score is missing.
        """
        features = classifier.features(self.classifier, images)
        found = {
            "fd_imagenet": frechet_distance(self.imagenet_features(images), self.imagenet),
            "fd_digits": frechet_distance(features, self.digits),
        }
        if labels is not None:
            right = classifier.predictions(self.classifier, features) == labels
            found["accuracy"] = share(right)
        found["broken"] = share_of(strokes.broken(images), len(images))
        if real is not None:
            found |= self._compared(features, real)
            if near is not None:
                distances, _ = scores.nearest_images(images, real.images)
                found["memorised"] = share(distances < near)
        return found

    def _compared(self, features: Tensor, real: Dataset) -> Scores:
        chosen = drawn_at_random(len(real.images))
        train = classifier.features(self.classifier, real.images[chosen])
        found = {"kid_digits": kernel_distance(train, features)}
        manifolds = neighbours.manifolds(train, features, NEIGHBOURS)
        found["precision"] = share_of(manifolds.precision, len(features))
        for name in ("recall", "density", "coverage"):
            found[name] = Value(getattr(manifolds, name), None)
        return found


def share(right: Tensor) -> Value:
    """The share of true values (N,) bool."""
    return share_of(float(right.double().mean()), len(right))


def share_of(value: float, count: int) -> Value:
    """A share of `count` images, with a standard deviation that is not 0 at 0 and 1.

    It is that of Agresti and Coull 1998: two more images of each kind are counted.
    """
    more = count + 4
    shifted = (value * count + 2) / more
    return Value(value, math.sqrt(shifted * (1 - shifted) / more))


def blocks(features: Tensor) -> list[Tensor]:
    """Random blocks of about equal size, since images may be sorted by class."""
    order = torch.randperm(len(features), generator=generator(SEED, "blocks"))
    return list(features[order].tensor_split(BLOCKS))


def kernel_distance(real: Tensor, features: Tensor) -> Value:
    """KID from all images at once, and its standard deviation by a jackknife over blocks."""
    parts = blocks(features)
    value, left_out = KernelDistance(real).without_each(parts)
    return Value(value, jackknife(left_out) if len(parts[-1]) >= FEWEST else None)


def frechet_distance(features: Tensor, target: Target) -> Value:
    """The distance of features (N, D), and its standard deviation by a jackknife over blocks.

    The jackknife leaves out one block of images at a time (Efron and Stein 1981). For images that
    are as good as real ones it is somewhat too large.
    """
    parts = [part.double().numpy() for part in blocks(features)]
    shift = np.concatenate(parts).mean(axis=0)
    centred = [part - shift for part in parts]
    sums = [part.sum(axis=0) for part in centred]
    products = [part.T @ part for part in centred]

    def distance(count: int, total: NDArray, product: NDArray) -> float:
        mean = total / count
        covariance = (product - count * np.outer(mean, mean)) / (count - 1)
        return target.distance(Moments(shift + mean, covariance))

    count, total, product = len(features), np.sum(sums, axis=0), np.sum(products, axis=0)
    value = distance(count, total, product)
    if len(parts[-1]) < FEWEST:
        return Value(value, None)
    left_out = [
        distance(count - len(part), total - own, product - square)
        for part, own, square in zip(parts, sums, products, strict=True)
    ]
    return Value(value, jackknife(left_out))


def jackknife(left_out: list[float]) -> float:
    """Standard deviation of a statistic from its values with one block left out each."""
    count, mean = len(left_out), sum(left_out) / len(left_out)
    return math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in left_out))
