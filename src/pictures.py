"""Images side by side in one picture, still or moving, enlarged without smoothing."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

HELD, ANIMATED, LAST = 400, 120, 1600  # milliseconds that an animation shows its first state, those on the way, and the last
MOST_FRAMES = 40
GREYS = 32  # of an animation: noise does not compress, and nobody sees the difference


def tile(images: Tensor, columns: int, scale: int = 1) -> Image.Image:
    """uint8 images (N, C, H, W) row by row in one picture, each pixel enlarged to scale x scale, never smoothed."""
    N, C, H, W = images.shape
    rows = -(-N // columns)
    canvas = torch.zeros(rows * columns, C, H, W, dtype=torch.uint8)
    canvas[:N] = images
    picture = canvas.view(rows, columns, C, H, W).permute(0, 3, 1, 4, 2).reshape(rows * H, columns * W, C)
    picture = picture.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return Image.fromarray(np.ascontiguousarray(picture.expand(-1, -1, 3).numpy()))


def png(images: Tensor, columns: int, scale: int) -> bytes:
    """A PNG of uint8 images (N, C, H, W), row by row, each pixel enlarged to scale x scale."""
    buffer = io.BytesIO()
    tile(images, columns, scale).save(buffer, "PNG")
    return buffer.getvalue()


def gif(states: Tensor, columns: int, scale: int) -> bytes:
    """An animation, for ever, through uint8 states (S, N, C, H, W) of N images, each pixel enlarged to scale x scale.

    Of many states it shows some, evenly spread, first and last included.
    """
    shown = torch.linspace(0, len(states) - 1, min(len(states), MOST_FRAMES)).round().long()
    frames = [tile(states[i], columns, scale) for i in shown]
    if states.shape[2] == 1:
        palette = Image.new("P", (1, 1))
        palette.putpalette([level for grey in range(GREYS) for level in [round(grey * 255 / (GREYS - 1))] * 3])
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    else:
        frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    times = [HELD, *[ANIMATED] * (len(frames) - 2), LAST][-len(frames):]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)
    return buffer.getvalue()
