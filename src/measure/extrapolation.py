"""The Frechet distance at infinitely many images.

Its bias falls as 1 / N, so a line through the values at several N leads to the limit.
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
    """Intercept of a line through the distances of random subsets over 1 / size.

    Mean and standard deviation over `lines` lines, each through subsets of its own: one line alone
    depends much on its subsets. Sizes are equally spaced from N / 10, but at least 2 D, up to N.
    The result can be negative.

    `features` (N, D). Returns (None, None) where N is below 4 D, too few for a line. Source: Chong
    and Forsyth 2020.
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
