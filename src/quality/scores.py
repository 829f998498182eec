"""How close one set of features is to another, by every measure we have; for generated images, and for the real-image floors."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from src import classifier
from src.frechet import Moments, caution, distance, moments
from src.quality.extrapolation import to_infinity
from src.quality.kernel import kid
from src.quality.neighbours import manifolds

NEAR = 0.01  # share of held-out images that lie nearer to a training image than what is called near


def scores(features: Tensor, real: Tensor, reference: Moments, neighbours: int, seed: int) -> dict[str, float | None]:
    """Scores of `features` (N, D): against `reference`, the moments of all training images, and `real` (M, D), some of them."""
    caution("fd_digits", *features.shape)
    mean, deviation = kid(real, features, seed)
    limit, limit_deviation = to_infinity(features.numpy(), reference, seed)
    return {
        "fd_digits": distance(moments(features.numpy()), reference),
        "fd_digits_infinity": limit, "fd_digits_infinity_sd": limit_deviation,
        "kid_digits": mean, "kid_digits_sd": deviation,
    } | asdict(manifolds(real, features, neighbours))


def quick(
    instrument: classifier.Classifier, images: Tensor, labels: Tensor | None, reference: Moments
) -> dict[str, float | None]:
    """fd_digits and accuracy of uint8 images (N, C, H, W), drawn as `labels` (N,), where these are known."""
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
    """Half the summed difference of two distributions over classes, (classes,) each; in [0, 1]."""
    return float((a - b).abs().sum() / 2)
