"""PNGs and animated GIFs of images side by side."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from ..pictures import tile

# Milliseconds for which an animation shows its first state, each next one, and the last.
FIRST_MS, NEXT_MS, LAST_MS = 400, 120, 1600
MAX_FRAMES = 40
GREYS = 32  # in an animation: noise compresses badly, and more levels look the same


def png(images: Tensor, columns: int, scale: int) -> bytes:
    """A PNG of uint8 images (N, C, H, W), row by row, each pixel enlarged to scale x scale."""
    buffer = io.BytesIO()
    tile(images, columns, scale).save(buffer, "PNG")
    return buffer.getvalue()


def gif(states: Tensor, columns: int, scale: int) -> bytes:
    """A GIF that loops through uint8 states (S, N, C, H, W) of N images.

    Each pixel is enlarged to scale x scale. It shows at most MAX_FRAMES states, evenly spread,
    with the first and the last.
    """
    shown = torch.linspace(0, len(states) - 1, min(len(states), MAX_FRAMES)).round().long()
    frames = [tile(states[i], columns, scale) for i in shown]
    if states.shape[2] == 1:
        palette = Image.new("P", (1, 1))
        greys = [round(grey * 255 / (GREYS - 1)) for grey in range(GREYS)]
        palette.putpalette([level for grey in greys for level in (grey, grey, grey)])
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    else:
        frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    times = [FIRST_MS, *[NEXT_MS] * (len(frames) - 2), LAST_MS][-len(frames) :]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=times,
        loop=0,
        disposal=1,
    )
    return buffer.getvalue()
