"""From noise to images: DDPM, DDIM, DPM-Solver++(2M) and SA-Solver, as one generator of steps.

The x0 of the last step is the image. All steps together make a figure or an animation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .denoiser import Denoiser
from .schedule import Spacing

Method = Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++", "sa-solver"]
Interval = tuple[float, float]  # (low, high) in log-SNR

# ddpm is ddim with eta 1; dpmsolver++ is sde-dpmsolver++ with eta 0.
FIXED_ETA = {"ddpm": 1.0, "dpmsolver++": 0.0}
MAX_ETA = {"ddim": 1.0, "sde-dpmsolver++": 2.0, "sa-solver": 2.0}


@dataclass(frozen=True)
class Sampler:
    """The settings of a sampler. Model, noise, labels and these settings determine the image.

    `eta` sets the fresh noise in each step of ddim, sde-dpmsolver++ and sa-solver. At 0 there is
    none, at 1 as much as in the reverse diffusion. Above 1, fresh noise replaces old noise faster
    (tau^2 of Xue et al. 2023, "SA-Solver").

    Guidance acts only where the log-SNR lies in its interval (Kynkaanniemi et al. 2024). Without
    an interval it acts at every step. Raises ValueError that starts with the field's name.
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

    @classmethod
    def named(cls, name: str, steps: int, **settings: Any) -> Sampler:
        """The sampler "METHOD SPACING" or "METHOD SPACING ETA", such as "sa-solver logsnr 1".

        `settings` are other fields. Raises ValueError.
        """
        match = re.fullmatch(r"(\S+) (\S+)( \d+(\.\d+)?)?", name)
        if not match:
            raise ValueError(
                f'expected "METHOD SPACING" or "METHOD SPACING ETA", such as "sa-solver logsnr 1"; '
                f"found {name!r}"
            )
        method, spacing, eta = match[1], match[2], match[3]
        if eta and method in FIXED_ETA:
            raise ValueError(f"expected no eta for {method}, found {name!r}")
        return cls(method, steps, spacing, float(eta or 0.0), **settings)  # type: ignore[arg-type]

    def guidance_at(self, log_snr: float) -> tuple[float, float]:
        """(guidance, autoguidance) at this log-SNR. Each is 1 outside its interval."""
        inside = _inside(self.guidance_interval, log_snr)
        inside_auto = _inside(self.autoguidance_interval, log_snr)
        return self.guidance if inside else 1.0, self.autoguidance if inside_auto else 1.0

    def evaluations(self, denoiser: Denoiser) -> int:
        """Network evaluations per image: one for each step, and one for each guidance that acts."""
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
    x_t: Tensor  # the noisy image at timestep t
    x0: Tensor  # the x0 predicted from x_t, in [-1, 1] if clipped; at the last step, the image


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
    first: int = 0,
) -> Iterator[Step]:
    """Sample images from noise. Yields the Step at each timestep, from noise to the clean image.

    Each call of `noise` returns standard normal noise, (B, C, H, W) float32. The first is x_T, the
    others are the fresh noise of the steps. `label` is int64 (B,) or None. `clip` limits each
    predicted x0 to [-1, 1]. Raises ValueError if the model was not trained for the sampler's
    guidance, or if the sampler has more steps than the schedule has timesteps.

    With `first` above 0, the sampler starts at that step, counted from 0. The first call of `noise`
    then returns x_t there, such as a noised image (Meng et al. 2022, "SDEdit").

    ddim             Song et al. 2021, "Denoising Diffusion Implicit Models", eqs. 12 and 16
    ddpm             ddim with eta 1: the same posterior, also for fewer steps than timesteps
                     (section 4.1 there)
    dpmsolver++      sde-dpmsolver++ with eta 0: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2)
    sde-dpmsolver++  with eta 1 the SDE version of DPM-Solver++(2M)
    sa-solver        Xue et al. 2023, algorithm 1, with a predictor and a corrector of two steps.
                     It integrates exactly where DPM-Solver++ takes a midpoint. The corrector
                     repeats a step when x0 is known at both ends. It uses the same noise and
                     needs no further evaluation.
    """
    denoiser.check_guidance(1.0 if label is None else sampler.guidance, sampler.autoguidance)
    timesteps = denoiser.schedule.sampling_timesteps(sampler.steps, sampler.spacing)
    if not 0 <= first < len(timesteps):
        raise ValueError(f"first: expected 0 to {len(timesteps) - 1}, got {first}")
    return _steps(denoiser, noise, sampler, timesteps[first:], label, clip)


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
            return  # the next level has no noise, so every method would return x0
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
    """The part of a solver's step that comes from x_t and from fresh noise.

    With h = end.lam - start.lam:
    (end.sigma / start.sigma) exp(-eta h) x_t + end.sigma sqrt(1 - exp(-2 eta h)) noise
    """
    h = end.lam - start.lam
    kept = end.sigma / start.sigma * math.exp(-eta * h) * x_t
    if eta == 0:
        return kept
    return kept + end.sigma * math.sqrt(-math.expm1(-2 * eta * h)) * noise()


def _data_part(
    past: list[tuple[float, Tensor]], start: Level, end: Level, eta: float, exact: bool
) -> Tensor:
    """The part of a solver's step that comes from x0: an integral over lambda.

    x0 is a line in lambda through the one or two predictions in `past`. The integral weights it
    with exp((1 + eta) lambda). So it equals the integral of the weight times the line's value at
    the weight's centre of mass. `exact` takes the line there, DPM-Solver++ takes it halfway.
    """
    h = end.lam - start.lam
    weight = -math.expm1(-(1 + eta) * h)
    lam, x0 = past[0]
    if len(past) == 2:
        before, x0_before = past[1]
        centre = start.lam + (h / weight - 1 / (1 + eta) if exact else h / 2)
        x0 = x0 + (centre - lam) / (lam - before) * (x0 - x0_before)
    return end.alpha * weight * x0
