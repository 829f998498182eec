"""Images side by side in one picture, enlarged without smoothing."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def tile(images: Tensor, columns: int, scale: int = 1) -> Image.Image:
    """Tile uint8 images (N, C, H, W) row by row. Each pixel becomes `scale` x `scale` pixels."""
    N, C, H, W = images.shape
    rows = -(-N // columns)
    canvas = torch.zeros(rows * columns, C, H, W, dtype=torch.uint8)
    canvas[:N] = images
    grid = canvas.view(rows, columns, C, H, W).permute(0, 3, 1, 4, 2)
    picture = grid.reshape(rows * H, columns * W, C)
    picture = picture.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return Image.fromarray(np.ascontiguousarray(picture.expand(-1, -1, 3).numpy()))
