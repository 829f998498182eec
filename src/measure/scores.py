"""All scores of how close one set of features is to another.

They are computed for generated images, and for real images as floors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from .. import classifier
from ..common.dataset import rows
from ..common.randomness import generator
from .extrapolation import to_infinity
from .frechet import Moments, caution, distance, moments
from .kernel import kid
from .neighbours import manifolds, nearest

# Quantile of the held-out images' distances to their nearest training image. An image below it
# counts as memorised.
NEAR = 0.01


def scores(
    features: Tensor, real: Tensor, reference: Moments, neighbours: int, seed: int
) -> dict[str, float | None]:
    """All scores of `features` (N, D), by name; a score is None if there are too few images.

    `reference` has the moments of all training images, `real` (M, D) the features of some.
    """
    caution("fd_digits", *features.shape)
    mean, deviation = kid(real, features, seed)
    limit, limit_deviation = to_infinity(features.numpy(), reference, seed)
    return {
        "fd_digits": distance(moments(features.numpy()), reference),
        "fd_digits_infinity": limit,
        "fd_digits_infinity_sd": limit_deviation,
        "kid_digits": mean,
        "kid_digits_sd": deviation,
    } | asdict(manifolds(real, features, neighbours))


def quick(
    instrument: classifier.Classifier, images: Tensor, labels: Tensor | None, reference: Moments
) -> dict[str, float | None]:
    """fd_digits and accuracy of uint8 images (N, C, H, W), drawn for the classes `labels` (N,).

    The accuracy is None without labels, or if the classifier was trained without them.
    """
    features = classifier.features(instrument, images)
    caution("fd_digits", *features.shape)
    return {
        "fd_digits": distance(moments(features.numpy()), reference),
        "accuracy": classifier.recognised(instrument, features, labels),
    }


def shares(labels: Tensor, classes: int) -> Tensor:
    """Share of each class among `labels` (N,) int64: (classes,) float64, sums to 1."""
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def total_variation(a: Tensor, b: Tensor) -> float:
    """Half the sum of |a - b| for two distributions over classes, (classes,) each; in [0, 1]."""
    return float((a - b).abs().sum() / 2)


def floor_of_sets(
    features: Tensor, distance: Callable[[Tensor], float], size: int
) -> tuple[int, float | None, float | None]:
    """Distances of disjoint sets of `size` real features, out of `features` (N, D).

    Returns the number of sets, and mean and standard deviation of their distances. Each is None
    if there are too few sets.
    """
    sets = [part for part in features.split(size) if len(part) == size]
    floors = [distance(part) for part in sets]
    mean = statistics.mean(floors) if floors else None
    return len(floors), mean, statistics.stdev(floors) if len(floors) > 1 else None


def shuffled(features: Tensor, seed: int) -> Tensor:
    """The rows of `features` in random order: the first half of MNIST's test images is neater."""
    return features[torch.randperm(len(features), generator=generator(seed, "floor"))]


def nearest_images(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each of `images`, the nearest of `others`, both uint8 (N, C, H, W); their N may differ.

    Returns Euclidean distances between pixels in [0, 1] (N,) float32, and positions (N,) int64.
    """
    return nearest(torch.cat(list(rows(images))), rows(others))
