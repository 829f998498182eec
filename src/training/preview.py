"""Draw a few samples from a model in training, tiled into one picture."""

from __future__ import annotations

import torch
from PIL import Image

from ..common.dataset import to_pixels
from ..common.randomness import ImageNoise
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import Sampler, sample
from ..pictures import tile

MAX_COLUMNS = 20  # further classes are not shown


def preview(denoiser: Denoiser, seed: int, rows: int = 8, steps: int = 10) -> Image.Image:
    """Samples of DPM-Solver++(2M): a column per class, with `rows` samples of it.

    A model without classes gets ten columns.
    """
    unet = denoiser.eval().config.unet
    columns = min(unet.classes, MAX_COLUMNS) or 10
    device = next(denoiser.parameters()).device
    label = torch.arange(columns, device=device).repeat(rows) if unet.classes else None
    shape = (unet.image_channels, unet.image_size, unet.image_size)
    noise = ImageNoise(seed, range(1, rows * columns + 1), shape, device)
    sampler = Sampler("dpmsolver++", min(steps, len(denoiser.schedule)), "logsnr")
    *_, last = sample(denoiser, noise, sampler, label)
    return tile(to_pixels(last.x0).cpu(), columns, scale=max(1, 56 // unet.image_size))
