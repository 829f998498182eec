"""Scores from nearest neighbours: precision, recall, density, coverage; nearest training images.

Points are rows of features or of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Manifolds:
    """How well two sets of points cover each other. 1 is best; only density can exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifolds(real: Tensor, fake: Tensor, k: int = 5) -> Manifolds:
    """Compare points `fake` (M, D) with `real` (N, D), float32, at least two of each.

    The ball of a point reaches to its k-th nearest neighbour in its own set. k is at most the size
    of the smaller set minus 1.

    precision: share of fake points inside any real ball (Kynkaanniemi et al. 2019).
    recall: share of real points inside any fake ball (same source).
    density: mean number of real balls around a fake point, divided by k (Naeem et al. 2020).
    coverage: share of real balls with a fake point inside (same source, also with k = 5).
    """
    k = min(k, len(real) - 1, len(fake) - 1)
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    inside_real = torch.zeros(len(fake), dtype=torch.long)  # real balls around each fake point
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for part in torch.arange(len(real)).split(1000):
        distances = torch.cdist(real[part], fake)
        balls = distances < real_radii[part, None]
        inside_real += balls.sum(dim=0)
        covered[part] = balls.any(dim=1)
        recalled[part] = (distances < fake_radii[None, :]).any(dim=1)
    return Manifolds(
        precision=float((inside_real > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(inside_real.double().mean() / k),
        coverage=float(covered.double().mean()),
    )


def radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point (N, D) to its k-th nearest other point: (N,)."""
    return torch.cat(
        [torch.cdist(part, points).kthvalue(k + 1, dim=1).values for part in points.split(1000)]
    )


def nearest(points: Tensor, others: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """For each point (M, D), find the nearest of all `others`.

    `others` yields blocks (N, D), so only one block needs to be in memory. Returns Euclidean
    distances (M,) float32 and positions in `others` (M,) int64.
    """
    best = torch.full((len(points),), torch.inf)
    distances = torch.empty(len(points))
    positions = torch.zeros(len(points), dtype=torch.long)
    first = 0
    for block in others:
        squares = block.square().sum(dim=1)[None, :]
        for part in torch.arange(len(points)).split(500):
            # |a - b|^2 without |a|^2, which does not change the nearest b.
            candidates = torch.addmm(squares, points[part], block.T, alpha=-2).min(dim=1)
            is_nearer = candidates.values < best[part]
            rows, columns = part[is_nearer], candidates.indices[is_nearer]
            best[rows] = candidates.values[is_nearer]
            positions[rows] = first + columns
            # Compute it again: the squares lose digits if points nearly coincide.
            distances[rows] = (points[rows] - block[columns]).norm(dim=1)
        first += len(block)
    return distances, positions
