"""Kernel distance between two sets of features (KID).

It is an estimate without bias, unlike the Frechet distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.randomness import generator


def kid(
    real: Tensor, fake: Tensor, seed: int, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """Squared maximum mean discrepancy of features (N, D) under the kernel (x.y / D + 1)^3.

    Mean and standard deviation over `subsets` random subsets of `size` points of each set, at most
    half of a set (Binkowski et al. 2018). The mean is zero for equal distributions, so a single
    value can be negative.

    Features are divided by the root mean square of the real ones, so their unit does not matter.
    The kernel is meant for x.x / D of about 1, as Inception's features have.
    """
    random = generator(seed, "kid")
    unit = real.double().square().mean().sqrt()
    real, fake = real / unit, fake / unit
    size = max(2, min(size, len(real) // 2, len(fake) // 2))
    values = torch.stack(
        [
            discrepancy(
                real[torch.randperm(len(real), generator=random)[:size]].double(),
                fake[torch.randperm(len(fake), generator=random)[:size]].double(),
            )
            for _ in range(subsets)
        ]
    )
    return float(values.mean()), float(values.std(correction=0))


def discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate for two samples (n, D) of one size, float64: a scalar.

    Source: Gretton et al. 2012, eq. 3.
    """
    n = len(x)
    within = sum(k.sum() - k.trace() for k in (_cubic(x, x), _cubic(y, y)))
    cross = _cubic(x, y)
    return within / (n * (n - 1)) - 2 * cross.mean()


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    """Kernel values (n, m) of all pairs of points (n, D) and (m, D)."""
    return (a @ b.T / a.shape[1] + 1) ** 3
