"""Kernel distance between two sets of features (KID).

Its estimate is unbiased, unlike that of the Frechet distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.randomness import generator

ROWS = 1000  # of a matrix of kernel values that are in memory at a time


def kid(
    real: Tensor, fake: Tensor, seed: int, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """Squared maximum mean discrepancy of features (N, D) with the kernel (x.y / D + 1)^3.

    Returns mean and standard deviation over `subsets` pairs of random subsets (Binkowski et al.
    2018). Each subset has `size` points, but at most half of the smaller set. The estimate has
    mean 0 for equal distributions, so it can be negative.

    All features are divided by the root mean square of the real ones, so their scale does not
    matter. The kernel is meant for features with x.x / D of about 1, like Inception's.
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


class KernelDistance:
    """The same distance to real features (N, D), from all points at once instead of subsets."""

    def __init__(self, real: Tensor):
        self.unit = real.double().square().mean().sqrt()
        self.real = real.double() / self.unit
        self.within = _within(self.real)

    def distance(self, fake: Tensor) -> float:
        """The distance of features (M, D), M at least 2. Its mean is 0 for equal distributions."""
        fake = fake.double() / self.unit
        mean = _total(self.real, fake) / (len(self.real) * len(fake))
        return float(self.within + _within(fake) - 2 * mean)

    def without_each(self, parts: list[Tensor]) -> tuple[float, list[float]]:
        """The distance of all `parts` (M, D) together, and those with one part left out each."""
        points = [part.double() / self.unit for part in parts]
        counts = torch.tensor([len(part) for part in points], dtype=torch.float64)
        crosses = torch.stack([_total(self.real, part) for part in points])
        pairs = torch.stack([torch.stack([_total(a, b) for b in points]) for a in points])
        pairs -= torch.diag(torch.stack([_diagonal(part).sum() for part in points]))

        def of(kept: Tensor) -> float:
            count = counts[kept].sum()
            within = pairs[kept][:, kept].sum() / (count * (count - 1))
            return float(self.within + within - 2 * crosses[kept].sum() / len(self.real) / count)

        everything = torch.ones(len(points), dtype=torch.bool)
        left_out = []
        for i in range(len(points)):
            kept = everything.clone()
            kept[i] = False
            left_out.append(of(kept))
        return of(everything), left_out


def discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate from two samples (n, D), float64: a scalar.

    Source: Gretton et al. 2012, eq. 3.
    """
    return _within(x) + _within(y) - 2 * _cubic(x, y).mean()


def _within(x: Tensor) -> Tensor:
    """Mean kernel value of all pairs of different points among x (n, D)."""
    n = len(x)
    own = _diagonal(x)
    return (_total(x, x) - own.sum()) / (n * (n - 1))


def _total(a: Tensor, b: Tensor) -> Tensor:
    """The sum of all kernel values of points (n, D) and (m, D)."""
    return torch.stack([_cubic(part, b).sum() for part in a.split(ROWS)]).sum()


def _diagonal(x: Tensor) -> Tensor:
    """The kernel value of each point (n, D) with itself: (n,)."""
    return ((x * x).sum(dim=1) / x.shape[1] + 1) ** 3


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    """Kernel values (n, m) of all pairs of points (n, D) and (m, D)."""
    return (a @ b.T / a.shape[1] + 1) ** 3
