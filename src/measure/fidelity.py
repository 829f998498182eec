"""Fidelity by noise level: at which noise levels does a model lose what?

Real images are noised to a level, and the sampler denoises them from there with its own steps.
"""

from __future__ import annotations

from threading import Event

import torch
from torch import Tensor

from ..common.dataset import to_float, to_pixels
from ..common.randomness import ImageNoise
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import Sampler, sample
from ..drawing import on_all_cores, parts


def nearest_steps(denoiser: Denoiser, sampler: Sampler, log_snrs: list[float]) -> list[int]:
    """The sampler's steps, counted from 0, with the nearest log-SNR. Each once, the last first."""
    timesteps = sampler.timesteps(denoiser.schedule)
    levels = denoiser.schedule.log_snr[timesteps]
    return sorted({int((levels - wanted).abs().argmin()) for wanted in log_snrs}, reverse=True)


def log_snr(denoiser: Denoiser, sampler: Sampler, step: int) -> float:
    """log(alpha^2 / sigma^2) where this step of the sampler starts."""
    timesteps = sampler.timesteps(denoiser.schedule)
    return float(denoiser.schedule.log_snr[timesteps[step]])


def restored(
    denoiser: Denoiser,
    sampler: Sampler,
    first: int,
    images: Tensor,
    labels: Tensor | None,
    seed: int,
    batch_size: int = 250,
) -> Tensor:
    """Noise uint8 images (N, C, H, W) to the sampler's step `first`, and denoise them from there.

    `labels` (N,) int64 has their classes, or is None. Returns uint8 (N, C, H, W). The noise of
    image k depends only on (seed, k).
    """
    device = next(denoiser.parameters()).device
    labels = labels if denoiser.conditional else None
    t = sampler.timesteps(denoiser.schedule)[first]

    def finish(numbers: range, stopped: Event) -> Tensor:
        chosen = slice(numbers[0] - 1, numbers[-1])
        x0 = to_float(images[chosen]).to(device, memory_format=torch.channels_last)
        label = None if labels is None else labels[chosen].to(device)
        noise = ImageNoise(seed, numbers, tuple(x0.shape[1:]), device)
        x_t = denoiser.schedule.add_noise(denoiser.encode(x0), noise(), torch.full((len(x0),), t))
        starts = [x_t]

        def next_noise() -> Tensor:
            return starts.pop() if starts else noise()

        for step in sample(denoiser, next_noise, sampler, label, first=first):
            if stopped.is_set():
                break
        return to_pixels(step.x0).cpu()

    return torch.cat(list(on_all_cores(finish, parts(len(images), batch_size), denoiser)))
