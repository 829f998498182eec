"""The Frechet distance at infinitely many images: its bias falls as 1 / N, so a line through several N leads to the limit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from src.common.randomness import generator
from src.frechet import Moments, distance, moments


def to_infinity(
    features: NDArray, reference: Moments, seed: int, points: int = 15, lines: int = 20
) -> tuple[float, float] | tuple[None, None]:
    """Intercept of a straight line through the distances of random subsets over 1 / size (Chong and Forsyth 2020).

    Mean and standard deviation over so many `lines`, each through subsets of its own: that of one alone depends much on which
    subsets they were. `features` (N, D). Sizes are equally spaced from N / 10, but at least 2 D, up to N; (None, None) where N
    is below 4 D, too few for a line. The result can lie below zero.
    """
    N, D = features.shape
    if N < 4 * D:
        return None, None
    sizes = np.linspace(max(N // 10, 2 * D), N, points).round().astype(int)
    random = generator(seed, "extrapolation")
    found = np.array([
        [distance(moments(features[torch.randperm(N, generator=random)[:size].numpy()]), reference) for size in sizes]
        for _ in range(lines)
    ])
    intercepts = np.polyfit(1 / sizes, found.T, deg=1)[1]
    return float(intercepts.mean()), float(intercepts.std(ddof=1))
