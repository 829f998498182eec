"""Scores by nearest neighbours: precision, recall, density, coverage, and how near the nearest training image is.

Knows nothing of networks: points are rows of features or of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Manifolds:
    """Four shares of how two sets of points cover each other; 1 is best, density may exceed it."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifolds(real: Tensor, fake: Tensor, k: int = 5) -> Manifolds:
    """Compare `fake` (M, D) with `real` (N, D), float32, at least two points each; with few points k is as large as can be.

    A point's ball reaches to its k-th nearest neighbour in its own set. Precision is the share of fake points inside any
    real ball, recall that of real points inside any fake ball (Kynkaanniemi et al. 2019); density counts the real balls
    around a fake point, in units of k, and coverage is the share of real balls with a fake point inside (Naeem et al.
    2020, k = 5 as there).
    """
    k = min(k, len(real) - 1, len(fake) - 1)
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    inside_real = torch.zeros(len(fake), dtype=torch.long)  # real balls around each fake point
    recalled, covered = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    for part in torch.arange(len(real)).split(1000):
        distances = torch.cdist(real[part], fake)
        balls = distances < real_radii[part, None]
        inside_real += balls.sum(dim=0)
        covered[part] = balls.any(dim=1)
        recalled[part] = (distances < fake_radii[None, :]).any(dim=1)
    return Manifolds(
        precision=float((inside_real > 0).double().mean()), recall=float(recalled.double().mean()),
        density=float(inside_real.double().mean() / k), coverage=float(covered.double().mean()),
    )


def radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point (N, D) to its k-th nearest other point: (N,)."""
    return torch.cat([torch.cdist(part, points).kthvalue(k + 1, dim=1).values for part in points.split(1000)])


def nearest(points: Tensor, others: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Euclidean distance of each point (M, D) to the nearest of all `others`, which come in blocks (N, D), and which it is.

    (M,) float32, (M,) int64. No more of `others` than a block needs to be in memory.
    """
    best, distance = torch.full((len(points),), torch.inf), torch.empty(len(points))
    which, first = torch.zeros(len(points), dtype=torch.long), 0
    for block in others:
        squares = block.square().sum(dim=1)[None, :]
        for part in torch.arange(len(points)).split(500):
            # Squared distances less the |a|^2 of each point, which does not change who is nearest ...
            found = torch.addmm(squares, points[part], block.T, alpha=-2).min(dim=1)
            is_nearer = found.values < best[part]
            mine, there = part[is_nearer], found.indices[is_nearer]
            best[mine], which[mine] = found.values[is_nearer], first + there
            distance[mine] = (points[mine] - block[there]).norm(dim=1)  # ... anew: they lose digits where points nearly coincide
        first += len(block)
    return distance, which
