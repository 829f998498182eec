"""All scores of a set of digits, each with the uncertainty that comes from drawing the images.

The classifier and the moments of MNIST are those of the yardstick. Some scores compare with real
images; without MNIST they are left out.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import classifier, yardstick
from ..common import device
from ..common.dataset import Dataset, rows
from ..common.randomness import generator
from ..measure import frechet, neighbours, strokes
from ..measure.extractors import IMAGENET, LoadedExtractor
from ..measure.frechet import Moments
from ..measure.kernel import kid
from ..measure.reference import MAX_DRAWN

BLOCKS = 10  # of the jackknife
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


@dataclass(frozen=True)
class Real:
    """What is compared with real images: MNIST itself."""

    data: Dataset

    @cached_property
    def drawn(self) -> Tensor:
        """Positions of 10,000 random training images, as in the pipeline."""
        order = torch.randperm(len(self.data.images), generator=generator(0, "floor"))
        return order[:MAX_DRAWN]


class Instrument:
    """The yardstick's networks and moments in `folder`."""

    def __init__(self, folder: Path, fingerprint: str):
        """Raises UserError if a file is missing or damaged."""
        stick = yardstick.find(folder, fingerprint)
        assert stick is not None  # the fingerprint is that of about.json
        model, _ = classifier.load(stick.file(folder, "classifier.safetensors"))
        self.name = stick.name
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
        labels: Tensor | None,
        real: Real | None,
        near: float | None,
    ) -> Scores:
        """Scores of uint8 images (N, 1, 28, 28); labels (N,) int64 or None.

        `near` is the distance to a training image below which an image counts as memorised.
        """
        features = classifier.features(self.classifier, images)
        found = {
            "fd_imagenet": frechet_distance(self.imagenet_features(images), self.imagenet),
            "fd_digits": frechet_distance(features, self.digits),
        }
        if labels is not None:
            right = classifier.predictions(self.classifier, features) == labels
            found["accuracy"] = share(right)
        found["broken"] = count_share(strokes.broken(images), len(images))
        if real is not None:
            found |= self._compared(features, real)
            if near is not None:
                points = torch.cat(list(rows(images)))
                distances, _ = neighbours.nearest(points, rows(real.data.images))
                found["memorised"] = share(distances < near)
        return found

    def _compared(self, features: Tensor, real: Real) -> Scores:
        train = classifier.features(self.classifier, real.data.images[real.drawn])
        found = {"kid_digits": kernel_distance(train, features)}
        manifolds = neighbours.manifolds(train, features, NEIGHBOURS)
        for name in ("precision", "recall", "coverage"):
            value = getattr(manifolds, name)
            found[name] = count_share(value, len(train if name != "precision" else features))
        found["density"] = Value(manifolds.density, None)
        return found


def share(right: Tensor) -> Value:
    """The share of true values (N,) bool, with the binomial standard deviation."""
    return count_share(float(right.double().mean()), len(right))


def count_share(value: float, count: int) -> Value:
    return Value(value, math.sqrt(value * (1 - value) / count))


def kernel_distance(real: Tensor, features: Tensor) -> Value:
    """KID, and its standard deviation from that of disjoint blocks of the images."""
    order = torch.randperm(len(features), generator=generator(SEED, "blocks"))
    blocks = features[order].chunk(BLOCKS)
    deviation = None
    if len(blocks) == BLOCKS and len(blocks[0]) > 3:
        parts = [kid(real, block, SEED, subsets=10)[0] for block in blocks]
        deviation = statistics.stdev(parts) / math.sqrt(BLOCKS)
    return Value(kid(real, features, SEED)[0], deviation)


def frechet_distance(features: Tensor, target: Target) -> Value:
    """The distance of features (N, D), and its standard deviation by a jackknife over blocks.

    The jackknife leaves out one block of images at a time (Efron and Stein 1981). The blocks are
    random, because images may be sorted by class.
    """
    order = torch.randperm(len(features), generator=generator(SEED, "jackknife"))
    blocks = [part.double().numpy() for part in features[order].chunk(BLOCKS)]
    shift = np.concatenate(blocks).mean(axis=0)
    centred = [block - shift for block in blocks]
    sums = [block.sum(axis=0) for block in centred]
    products = [block.T @ block for block in centred]

    def distance(count: int, total: NDArray, product: NDArray) -> float:
        mean = total / count
        covariance = (product - count * np.outer(mean, mean)) / (count - 1)
        return target.distance(Moments(shift + mean, covariance))

    count, total, product = len(features), sum(sums), sum(products)
    value = distance(count, total, product)
    if len(blocks) < BLOCKS or count - len(blocks[0]) < 2:
        return Value(value, None)
    left_out = [
        distance(count - len(block), total - part, product - square)
        for block, part, square in zip(blocks, sums, products, strict=True)
    ]
    return Value(value, jackknife(left_out))


def jackknife(left_out: list[float]) -> float:
    """Standard deviation of a statistic from its values with one block left out each."""
    count, mean = len(left_out), sum(left_out) / len(left_out)
    return math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in left_out))
