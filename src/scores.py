"""How close one set of features is to another, by every measure we have; for generated images, and for the real-image floors."""

from __future__ import annotations

from dataclasses import asdict

from torch import Tensor

from src import classifier
from src.extrapolation import to_infinity
from src.frechet import Moments, distance, moments
from src.kernel import kid
from src.neighbours import manifolds


def scores(features: Tensor, real: Tensor, reference: Moments, neighbours: int, seed: int) -> dict[str, float | None]:
    """Scores of `features` (N, D): against `reference`, the moments of all training images, and `real` (M, D), some of them."""
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
    return {
        "fd_digits": distance(moments(features.numpy()), reference),
        "accuracy": classifier.recognised(instrument, features, labels),
    }
