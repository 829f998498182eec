"""From noise to images with fresh noise in each step: SDE-DPM-Solver++(2M), which corrects its own errors on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from src.denoiser import Denoiser
from src.samplers import Step


def sample_sde(
    denoiser: Denoiser,
    noise: Callable[[], Tensor],
    timesteps: list[int],
    eta: float = 1.0,
    guidance: float = 1.0,
    guidance_interval: tuple[float, float] = (-math.inf, math.inf),
    label: Tensor | None = None,
    clip: bool = True,
) -> Iterator[Step]:
    """As `samplers.sample`, with the stochastic solver of second order of Lu et al. 2022, "DPM-Solver++", appendix.

    `eta` scales the noise: 1 is the reverse diffusion with all its noise, 0 is DPM-Solver++(2M) without any.
    """
    log_snr = denoiser.schedule.log_snr
    x_t, previous = noise(), None
    for i, t in enumerate(timesteps):
        guided = guidance_interval[0] <= float(log_snr[t]) <= guidance_interval[1]
        with torch.inference_mode():
            x0 = denoiser.predict_x0(x_t, t, label, guidance if guided else 1.0)
            if clip:
                x0 = x0.clamp(-1, 1)
        yield Step(t, x_t, x0)
        if i + 1 == len(timesteps):
            return
        with torch.inference_mode():
            x_t = _step(denoiser, x_t, x0, previous, timesteps[max(i - 1, 0)], t, timesteps[i + 1], eta, noise)
        previous = x0


def _step(
    denoiser: Denoiser, x_t: Tensor, x0: Tensor, previous: Tensor | None, last: int, t: int, following: int, eta: float,
    noise: Callable[[], Tensor],
) -> Tensor:
    """One step in lambda, the half log-SNR, with x0 extrapolated linearly from the last two predictions."""
    half_log_snr, alpha_bar = denoiser.schedule.log_snr / 2, denoiser.schedule.alpha_bar
    h = float(half_log_snr[following] - half_log_snr[t])
    d = x0
    if previous is not None:
        d = x0 + (x0 - previous) * (h / (2 * float(half_log_snr[t] - half_log_snr[last])))
    alpha, sigma, sigma_t = (math.sqrt(v) for v in (alpha_bar[following], 1 - alpha_bar[following], 1 - alpha_bar[t]))
    x_next = sigma / sigma_t * math.exp(-eta * h) * x_t - alpha * math.expm1(-(1 + eta) * h) * d
    return x_next + sigma * math.sqrt(-math.expm1(-2 * eta * h)) * noise() if eta > 0 else x_next
