"""From noise to images: DDPM, DDIM(eta) and DPM-Solver++(2M, eta), as one generator that yields every step.

The caller decides what becomes of the steps: the last one's x0 is the image, all of them are a figure or an animation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from src.common.errors import UserError
from src.common.randomness import generator
from src.diffusion.denoiser import Denoiser

Method = Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++"]
ETA = {"ddpm": 1.0, "dpmsolver++": 0.0}  # methods that are another at this share of fresh noise
EVERYWHERE = (-math.inf, math.inf)  # the log-SNR of all timesteps


@dataclass(frozen=True)
class Step:
    """One network evaluation. Images are (B, C, H, W) float32."""

    t: int
    x_t: Tensor  # the noisy image that went in
    x0: Tensor  # the clean image predicted from it, in [-1, 1]; after the last step, the sample


class ImageNoise:
    """Standard normal noise for images numbered from 1; that of image k follows from (seed, k) alone.

    Each call returns the next (B, C, H, W) float32 draw, whatever else is in the batch.
    """

    def __init__(self, seed: int, numbers: range, shape: tuple[int, int, int], device: torch.device | str = "cpu"):
        self.generators = [generator(seed, "image", k) for k in numbers]
        self.shape = shape
        self.device = device

    def __call__(self) -> Tensor:
        draws = [torch.randn(self.shape, generator=g) for g in self.generators]
        return torch.stack(draws).to(self.device, memory_format=torch.channels_last)


def sample(
    denoiser: Denoiser,
    noise: Callable[[], Tensor],
    timesteps: list[int],
    method: Method,
    eta: float = 0.0,
    guidance: float = 1.0,
    guidance_interval: tuple[float, float] = EVERYWHERE,
    autoguidance: float = 1.0,
    autoguidance_interval: tuple[float, float] = EVERYWHERE,
    label: Tensor | None = None,
    clip: bool = True,
) -> Iterator[Step]:
    """Walk `timesteps` (strictly descending) from noise to a clean image, yielding each step before it is taken.

    `noise` gives x_T at its first call and the noise of each stochastic step at later ones. `clip` bounds each predicted x0
    to [-1, 1] before it is used further. Guidance of each kind (see Denoiser.predict_x0) acts where the log-SNR lies in its
    interval (Kynkaanniemi et al. 2024): elsewhere it costs variety, and evaluations, for nothing. `eta` is how much fresh noise
    comes into a step of ddim and sde-dpmsolver++: 1 is the reverse diffusion's own, and the most for ddim, above 1 old noise
    makes way for new faster than that (the family of Xue et al. 2023, "SA-Solver", tau^2 there). ddpm is ddim with eta 1: the
    same posterior (Song et al. 2021, "Denoising Diffusion Implicit Models", section 4.1), which also defines it for fewer steps
    than it was trained with. dpmsolver++ is sde-dpmsolver++ with eta 0.
    """
    if method not in get_args(Method):
        raise UserError(f"sample.method: expected one of {', '.join(get_args(Method))}, found {method!r}")
    eta = ETA.get(method, eta)
    alpha_bars = [float(denoiser.schedule.alpha_bar[t]) for t in timesteps] + [1.0]
    x_t, previous = noise(), None
    for i, t in enumerate(timesteps):
        with torch.inference_mode():
            log_snr = float(denoiser.schedule.log_snr[t])
            by_class = guidance if guidance_interval[0] <= log_snr <= guidance_interval[1] else 1.0
            by_guide = autoguidance if autoguidance_interval[0] <= log_snr <= autoguidance_interval[1] else 1.0
            x0 = denoiser.predict_x0(x_t, t, label, by_class, by_guide)
            if clip:
                x0 = x0.clamp(-1, 1)
        yield Step(t, x_t, x0)
        if i + 1 == len(timesteps):
            return  # from here to alpha_bar = 1 every method lands on x0
        with torch.inference_mode():
            if method in ("ddpm", "ddim"):
                x_t = _ddim_step(x_t, x0, alpha_bars[i], alpha_bars[i + 1], eta, noise)
            else:
                x_t = _dpm_solver_step(
                    x_t, x0, previous, alpha_bars[max(i - 1, 0)], alpha_bars[i], alpha_bars[i + 1], eta, noise
                )
                previous = x0


def _ddim_step(
    x_t: Tensor, x0: Tensor, alpha_bar: float, alpha_bar_next: float, eta: float, noise: Callable[[], Tensor]
) -> Tensor:
    """DDIM, eqs. 12 and 16, with epsilon recomputed from the (clipped) x0."""
    eps = (x_t - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)
    variance = eta**2 * (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    x_next = math.sqrt(alpha_bar_next) * x0 + math.sqrt(1 - alpha_bar_next - variance) * eps
    return x_next + math.sqrt(variance) * noise() if eta > 0 else x_next


def _dpm_solver_step(
    x_t: Tensor, x0: Tensor, previous: Tensor | None, alpha_bar_last: float, alpha_bar: float, alpha_bar_next: float,
    eta: float, noise: Callable[[], Tensor],
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) and, with eta 1, its SDE version (their appendix on SDE-DPM-Solver++).

    x0 is extrapolated linearly in lambda, the half log-SNR, from the last two predictions.
    """
    def half_log_snr(a: float) -> float:
        return 0.5 * math.log(a / (1 - a))

    h = half_log_snr(alpha_bar_next) - half_log_snr(alpha_bar)
    d = x0
    if previous is not None:
        r = (half_log_snr(alpha_bar) - half_log_snr(alpha_bar_last)) / h
        d = x0 + (x0 - previous) / (2 * r)
    kept = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) * math.exp(-eta * h)
    x_next = kept * x_t - math.sqrt(alpha_bar_next) * math.expm1(-(1 + eta) * h) * d
    return x_next + math.sqrt((1 - alpha_bar_next) * -math.expm1(-2 * eta * h)) * noise() if eta > 0 else x_next
