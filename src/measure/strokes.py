"""Broken strokes: digits that fall into more than one piece."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from torch import Tensor

TOUCHING = np.ones((3, 3))  # diagonal neighbours are connected


def broken(images: Tensor, threshold: int = 100) -> float:
    """Share of images with strokes in more than one piece, in [0, 1].

    `images` (N, C, H, W) uint8; pixels above `threshold` in any channel belong to a stroke.
    """
    strokes = images.amax(dim=1).numpy() > threshold
    return float(np.mean([ndimage.label(stroke, TOUCHING)[1] > 1 for stroke in strokes]))
