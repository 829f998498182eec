"""From noise to images: DDPM, DDIM(eta), DPM-Solver++(2M, eta) and SA-Solver, as one generator that yields every step.

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

Method = Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++", "sa-solver"]
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
    interval (Kynkaanniemi et al. 2024): elsewhere it costs variety, and evaluations, for nothing.

    `eta` is how much fresh noise comes into a step of ddim, sde-dpmsolver++ and sa-solver: 1 is the reverse diffusion's own, and
    the most for ddim, above 1 old noise makes way for new faster than that (tau^2 of Xue et al. 2023, "SA-Solver").

    ddpm is ddim with eta 1: the same posterior (Song et al. 2021, "Denoising Diffusion Implicit Models", section 4.1), which also
    defines it for fewer steps than it was trained with. dpmsolver++ is sde-dpmsolver++ with eta 0: DPM-Solver++(2M) (Lu et al.
    2022, algorithm 2) and, with eta 1, its SDE version. sa-solver predicts x_t as they do, but integrates exactly where they take
    a midpoint; and once the x0 there is known it takes the step again, with the same noise and x0 at both ends, for no further
    evaluation (Xue et al. 2023, algorithm 1, a predictor and a corrector of two steps).
    """
    if method not in get_args(Method):
        raise UserError(f"sample.method: expected one of {', '.join(get_args(Method))}, found {method!r}")
    eta = ETA.get(method, eta)
    alpha_bars = [float(denoiser.schedule.alpha_bar[t]) for t in timesteps] + [1.0]
    half_log_snrs = [float(denoiser.schedule.log_snr[t]) / 2 for t in timesteps]
    x_t = noisy = noise()
    past: list[tuple[float, Tensor]] = []  # half log-SNR and x0 of the last two evaluations, newest first
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
                continue
            exact = method == "sa-solver"
            past = [(half_log_snrs[i], x0), *past[:1]]
            if exact and i > 0:
                x_t = noisy + _data_part(past, half_log_snrs[i - 1], half_log_snrs[i], eta, exact)
            noisy = _noisy_part(x_t, half_log_snrs[i], half_log_snrs[i + 1], eta, noise)
            x_t = noisy + _data_part(past, half_log_snrs[i], half_log_snrs[i + 1], eta, exact)


def _ddim_step(
    x_t: Tensor, x0: Tensor, alpha_bar: float, alpha_bar_next: float, eta: float, noise: Callable[[], Tensor]
) -> Tensor:
    """DDIM, eqs. 12 and 16, with epsilon recomputed from the (clipped) x0."""
    eps = (x_t - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)
    variance = eta**2 * (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    x_next = math.sqrt(alpha_bar_next) * x0 + math.sqrt(1 - alpha_bar_next - variance) * eps
    return x_next + math.sqrt(variance) * noise() if eta > 0 else x_next


def _noisy_part(x_t: Tensor, start: float, end: float, eta: float, noise: Callable[[], Tensor]) -> Tensor:
    """What a step from one half log-SNR to another keeps of x_t, and the fresh noise of it."""
    h = end - start
    kept = _sigma(end) / _sigma(start) * math.exp(-eta * h) * x_t
    return kept + _sigma(end) * math.sqrt(-math.expm1(-2 * eta * h)) * noise() if eta > 0 else kept


def _data_part(past: list[tuple[float, Tensor]], start: float, end: float, eta: float, exact: bool) -> Tensor:
    """What x0 brings into a step, x0 being a line in the half log-SNR through the evaluations in `past` (one or two).

    The integral of a line under a weight is the weight's own, times the line's value at the weight's centre of mass: `exact`
    reads it there, DPM-Solver++ halfway. The weight is exp((1 + eta) half log-SNR).
    """
    h = end - start
    weight = -math.expm1(-(1 + eta) * h)
    (at, x0), *before = past
    if before:
        ((before_at, before_x0),) = before
        centre = start + (h / weight - 1 / (1 + eta) if exact else h / 2)
        x0 = x0 + (centre - at) / (at - before_at) * (x0 - before_x0)
    return _sigma(-end) * weight * x0


def _sigma(half_log_snr: float) -> float:
    """Standard deviation of the noise; at the negative half log-SNR it is the share of the image."""
    return 1 / math.sqrt(1 + math.exp(2 * half_log_snr))
