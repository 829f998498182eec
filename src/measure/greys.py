"""How often each band of grey levels occurs. A model can leave faint speckle where digits are 0."""

from __future__ import annotations

import torch
from torch import Tensor

# First and last grey level of each band, of 0 to 255.
BANDS = ((0, 0), (1, 3), (4, 63), (64, 191), (192, 252), (253, 255))


def shares(images: Tensor) -> dict[str, float]:
    """Share of the values of uint8 images (N, C, H, W) in each band, by name; sums to 1."""
    counts = torch.zeros(256, dtype=torch.int64)
    for part in images.split(1000):
        counts += torch.bincount(part.flatten(), minlength=256)
    shares = counts.double() / counts.sum()
    return {name(*band): float(shares[band[0] : band[1] + 1].sum()) for band in BANDS}


def name(first: int, last: int) -> str:
    """The name of a band, such as grey_1_3."""
    return f"grey_{first}" if first == last else f"grey_{first}_{last}"
