"""Extrapolate the Frechet distance to infinitely many images.

Its bias falls as 1 / N, so a line through the distances at several N gives the limit.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..common.randomness import generator
from .frechet import Moments, distance, moments


def to_infinity(
    features: NDArray, reference: Moments, seed: int, points: int = 15, lines: int = 20
) -> tuple[float, float] | tuple[None, None]:
    """Mean and standard deviation of the extrapolated distance of `features` (N, D).

    Each of `lines` lines is fitted to the distances of `points` random subsets over 1 / size. Its
    intercept is the extrapolated distance, which can be negative. Sizes are equally spaced from
    max(N / 10, 2 D) to N. The mean is needed because a single line depends much on its subsets.

    Returns (None, None) if N is below 4 D, too few for a line. Source: Chong and Forsyth 2020.
    """
    N, D = features.shape
    if N < 4 * D:
        return None, None
    sizes = np.linspace(max(N // 10, 2 * D), N, points).round().astype(int)
    random = generator(seed, "extrapolation")
    distances = np.array(
        [
            [
                distance(
                    moments(features[torch.randperm(N, generator=random)[:size].numpy()]), reference
                )
                for size in sizes
            ]
            for _ in range(lines)
        ]
    )
    intercepts = np.polyfit(1 / sizes, distances.T, deg=1)[1]
    return float(intercepts.mean()), float(intercepts.std(ddof=1))
