"""From noise to images: DDPM, DDIM, DPM-Solver++(2M) and SA-Solver, as one generator of steps.

The caller decides what becomes of the steps: the last one's x0 is the image, all of them are a
figure or an animation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .denoiser import Denoiser
from .schedule import Spacing

Method = Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++", "sa-solver"]
Interval = tuple[float, float]  # of log-SNR: low, high

FIXED_ETA = {"ddpm": 1.0, "dpmsolver++": 0.0}  # these are another method at this eta
MAX_ETA = {"ddim": 1.0, "sde-dpmsolver++": 2.0, "sa-solver": 2.0}


@dataclass(frozen=True)
class Sampler:
    """How to get from noise to an image. With a model and the noise it fixes the image.

    `eta` is the share of fresh noise in a step of ddim, sde-dpmsolver++ and sa-solver: 1 as in the
    reverse diffusion, 0 for none; above 1 fresh noise replaces old noise faster (tau^2 of Xue et
    al. 2023, "SA-Solver"). Guidance acts where the log-SNR lies in its interval (Kynkaanniemi et
    al. 2024), everywhere if that is None. Raises ValueError that starts with the field's name.
    """

    method: Method
    steps: int
    spacing: Spacing
    eta: float = 0.0
    guidance: float = 1.0  # 1: off; see Denoiser.predict_x0
    guidance_interval: Interval | None = None
    autoguidance: float = 1.0  # 1: off
    autoguidance_interval: Interval | None = None

    def __post_init__(self) -> None:
        for name, options in (("method", Method), ("spacing", Spacing)):
            if getattr(self, name) not in get_args(options):
                names = ", ".join(get_args(options))
                raise ValueError(f"{name}: expected one of {names}, got {getattr(self, name)!r}")
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps: expected an integer of at least 1, got {self.steps!r}")
        most = MAX_ETA.get(self.method, max(MAX_ETA.values()))
        if not _is_number(self.eta) or not 0 <= self.eta <= most:
            raise ValueError(f"eta: expected 0 to {most:g} for {self.method}, got {self.eta!r}")
        for name in ("guidance", "autoguidance"):
            weight, interval = getattr(self, name), getattr(self, f"{name}_interval")
            if not _is_number(weight) or not 0 <= weight < math.inf:
                raise ValueError(f"{name}: expected 0 or more, got {weight!r}")
            if interval is not None and not _is_interval(interval):
                raise ValueError(f"{name}_interval: expected (low, high), got {interval!r}")

    def guidance_at(self, log_snr: float) -> tuple[float, float]:
        """(guidance, autoguidance) at a noise level."""
        inside = _inside(self.guidance_interval, log_snr)
        inside_auto = _inside(self.autoguidance_interval, log_snr)
        return self.guidance if inside else 1.0, self.autoguidance if inside_auto else 1.0

    def evaluations(self, denoiser: Denoiser) -> int:
        """Network evaluations per image: one a step, one more for each guidance that acts."""
        count = 0
        for t in denoiser.schedule.sampling_timesteps(self.steps, self.spacing):
            guidance, autoguidance = self.guidance_at(float(denoiser.schedule.log_snr[t]))
            count += 1 + (guidance != 1.0 and denoiser.conditional) + (autoguidance != 1.0)
        return count


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_interval(value: object) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    return pair and value[0] <= value[1]  # type: ignore[index]


def _inside(interval: Interval | None, log_snr: float) -> bool:
    return interval is None or interval[0] <= log_snr <= interval[1]


@dataclass(frozen=True)
class Step:
    """One step of a sampler. Images are (B, C, H, W) float32."""

    t: int
    x_t: Tensor  # the noisy image that went in
    x0: Tensor  # the clean image predicted from it, in [-1, 1]; after the last step, the sample


class Level(NamedTuple):
    """A noise level: x = alpha x0 + sigma eps, and lambda = log(alpha / sigma)."""

    alpha: float
    sigma: float
    lam: float


Noise = Callable[[], Tensor]


def sample(
    denoiser: Denoiser,
    noise: Noise,
    sampler: Sampler,
    label: Tensor | None = None,
    clip: bool = True,
) -> Iterator[Step]:
    """Go from noise to clean images, yielding each step before it is taken.

    `noise` returns standard normal (B, C, H, W) float32: x_T at its first call, the fresh noise of
    each step at later ones. `label` is int64 (B,) or None. `clip` bounds each predicted x0 to
    [-1, 1]. Raises ValueError if the model was not trained for the sampler's guidance, or has
    fewer timesteps than it has steps.

    ddpm             ddim with eta 1: the same posterior, also for fewer steps than were trained
                     (Song et al. 2021, "Denoising Diffusion Implicit Models", section 4.1)
    dpmsolver++      sde-dpmsolver++ with eta 0: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2)
    sde-dpmsolver++  with eta 1 the SDE version of DPM-Solver++(2M)
    sa-solver        integrates exactly where those take a midpoint. Once the x0 at the end of a
                     step is known it takes the step again, with the same noise and x0 at both
                     ends, for no further evaluation (Xue et al. 2023, algorithm 1, with predictor
                     and corrector of two steps)
    """
    denoiser.check_guidance(1.0 if label is None else sampler.guidance, sampler.autoguidance)
    timesteps = denoiser.schedule.sampling_timesteps(sampler.steps, sampler.spacing)
    return _steps(denoiser, noise, sampler, timesteps, label, clip)


def _steps(
    denoiser: Denoiser,
    noise: Noise,
    sampler: Sampler,
    timesteps: list[int],
    label: Tensor | None,
    clip: bool,
) -> Iterator[Step]:
    schedule = denoiser.schedule
    eta = FIXED_ETA.get(sampler.method, sampler.eta)
    exact = sampler.method == "sa-solver"
    levels = [
        Level(float(schedule.alpha[t]), float(schedule.sigma[t]), float(schedule.log_snr[t]) / 2)
        for t in timesteps
    ]
    x_t = noisy_part = noise()
    past: list[tuple[float, Tensor]] = []  # (lambda, x0) of the last two steps, newest first
    for i, t in enumerate(timesteps):
        with torch.inference_mode():
            guidance, autoguidance = sampler.guidance_at(2 * levels[i].lam)
            x0 = denoiser.predict_x0(x_t, t, label, guidance, autoguidance)
            if clip:
                x0 = x0.clamp(-1, 1)
        yield Step(t, x_t, x0)
        if i + 1 == len(timesteps):
            return  # the next level is the clean image, where every method lands on x0
        with torch.inference_mode():
            level, following = levels[i], levels[i + 1]
            if sampler.method in ("ddpm", "ddim"):
                x_t = _ddim_step(x_t, x0, level, following, eta, noise)
                continue
            past = [(level.lam, x0), *past[:1]]
            if exact and i > 0:  # correct the step that led here
                x_t = noisy_part + _data_part(past, levels[i - 1], level, eta, exact)
            noisy_part = _noisy_part(x_t, level, following, eta, noise)
            x_t = noisy_part + _data_part(past, level, following, eta, exact)


def _ddim_step(
    x_t: Tensor, x0: Tensor, start: Level, end: Level, eta: float, noise: Noise
) -> Tensor:
    """DDIM, eqs. 12 and 16, with epsilon recomputed from the (clipped) x0."""
    eps = (x_t - start.alpha * x0) / start.sigma
    ratio = start.alpha / end.alpha
    variance = (eta * end.sigma / start.sigma) ** 2 * (1 - ratio**2)
    x_next = end.alpha * x0 + math.sqrt(end.sigma**2 - variance) * eps
    return x_next + math.sqrt(variance) * noise() if eta > 0 else x_next


def _noisy_part(x_t: Tensor, start: Level, end: Level, eta: float, noise: Noise) -> Tensor:
    """What a solver's step keeps of x_t, plus its fresh noise."""
    h = end.lam - start.lam
    kept = end.sigma / start.sigma * math.exp(-eta * h) * x_t
    if eta == 0:
        return kept
    return kept + end.sigma * math.sqrt(-math.expm1(-2 * eta * h)) * noise()


def _data_part(
    past: list[tuple[float, Tensor]], start: Level, end: Level, eta: float, exact: bool
) -> Tensor:
    """What x0 contributes to a solver's step: x0 is a line in lambda through `past` (one or two).

    The integral of a line under a weight is the weight's integral times the line's value at the
    weight's centre of mass. `exact` reads it there, DPM-Solver++ halfway. The weight is
    exp((1 + eta) lambda).
    """
    h = end.lam - start.lam
    weight = -math.expm1(-(1 + eta) * h)
    lam, x0 = past[0]
    if len(past) == 2:
        before, x0_before = past[1]
        centre = start.lam + (h / weight - 1 / (1 + eta) if exact else h / 2)
        x0 = x0 + (centre - lam) / (lam - before) * (x0 - x0_before)
    return end.alpha * weight * x0
