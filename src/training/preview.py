"""A quick look at a model in training: a few samples, tiled into one picture."""

from __future__ import annotations

import torch
from PIL import Image

from src.common.dataset import to_pixels
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import ImageNoise, sample
from src.pictures import tile


def preview(denoiser: Denoiser, seed: int, rows: int = 8, steps: int = 10) -> Image.Image:
    """A row per draw, a column per class (of many the first twenty; ten columns where there are none), by DPM-Solver++(2M)."""
    unet = denoiser.eval().config.unet
    columns = min(unet.classes, 20) or 10
    device = next(denoiser.parameters()).device
    label = torch.arange(columns, device=device).repeat(rows) if unet.classes else None
    noise = ImageNoise(seed, range(1, rows * columns + 1), (unet.image_channels, unet.image_size, unet.image_size), device)
    *_, last = sample(denoiser, noise, denoiser.schedule.sampling_timesteps(min(steps, len(denoiser.schedule)), "logsnr"),
                      "dpmsolver++", label=label)
    return tile(to_pixels(last.x0).cpu(), columns, scale=max(1, 56 // unet.image_size))
