"""From noise to images: samplers, all in one generator of steps.

Their formulas hold for every schedule x_t = alpha x0 + sigma eps. The x0 of the last step is the
image. All steps together make a figure or an animation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .denoiser import Denoiser
from .schedule import Schedule, Spacing

Method = Literal[
    "ddpm", "ddim", "euler", "heun", "dpmsolver++", "sde-dpmsolver++", "sa-solver", "unipc"
]
Interval = tuple[float, float]  # (low, high) in log-SNR

# ddpm is ddim with eta 1, euler with eta 0; dpmsolver++ is sde-dpmsolver++ with eta 0.
FIXED_ETA = {"ddpm": 1.0, "euler": 0.0, "heun": 0.0, "dpmsolver++": 0.0, "unipc": 0.0}
MAX_ETA = {"ddim": 1.0, "sde-dpmsolver++": 2.0, "sa-solver": 2.0}


@dataclass(frozen=True)
class Sampler:
    """The settings of a sampler. Model, noise, labels and these settings determine the image.

    `eta` sets the fresh noise in each step of ddim, sde-dpmsolver++ and sa-solver. At 0 there is
    none, at 1 as much as in the reverse diffusion. For ddim it is a factor of the noise's standard
    deviation; for the others it is tau^2 of Xue et al. 2023, "SA-Solver", and may exceed 1.

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
            whose = f" for {self.method}" if self.method in MAX_ETA else ""
            raise ValueError(f"eta: expected 0 to {most:g}{whose}, got {self.eta!r}")
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

    def timesteps(self, schedule: Schedule) -> list[int]:
        """The timesteps that it visits, strictly descending."""
        return schedule.sampling_timesteps(self.steps, self.spacing)

    def evaluations(self, denoiser: Denoiser) -> int:
        """Network evaluations per image: one for each step, and one for each guidance that acts.

        heun predicts x0 twice at each timestep but the first.
        """
        count = 0
        for i, t in enumerate(self.timesteps(denoiser.schedule)):
            guidance, autoguidance = self.guidance_at(float(denoiser.schedule.log_snr[t]))
            once = 1 + (guidance != 1.0 and denoiser.conditional) + (autoguidance != 1.0)
            count += once * (2 if self.method == "heun" and i > 0 else 1)
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
    # The x0 predicted from x_t, in [-1 - margin, 1] if clipped. That of the last step, clipped to
    # [-1, 1], is the image.
    x0: Tensor


class Level(NamedTuple):
    """A noise level: x = alpha x0 + sigma eps, and lambda = log(alpha / sigma)."""

    alpha: float
    sigma: float
    lam: float

    @property
    def scale(self) -> float:
        """x / scale is on the flow path: (1 - s) x0 + s eps with s = sigma / scale."""
        return self.alpha + self.sigma


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
    predicted x0 to [-1 - margin, 1]. Raises ValueError if the model was not trained for the
    sampler's guidance, or if the sampler has more steps than the schedule has timesteps.

    With `first` above 0, the sampler starts at that step, counted from 0. The first call of `noise`
    then returns x_t there, such as a noised image (Meng et al. 2022, "SDEdit").

    ddim             Song et al. 2021, "Denoising Diffusion Implicit Models", eqs. 12 and 16
    ddpm             ddim with eta 1: the same posterior, also for fewer steps than timesteps
    euler            ddim with eta 0. It is Euler's method over time on the flow path, and over
                     sigma / alpha on any path
    heun             Heun's method over time on the flow path; any other path is scaled to it. It
                     predicts x0 twice a step
    dpmsolver++      sde-dpmsolver++ with eta 0: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2)
    sde-dpmsolver++  the SDE version of DPM-Solver++(2M) at eta 1; at eta 0 its ODE version
    sa-solver        Xue et al. 2023, algorithm 1, with predictor and corrector of order 2. It
                     integrates exactly where DPM-Solver++ takes a midpoint. The corrector
                     repeats a step when x0 is known at both ends. It uses the same noise and
                     needs no further evaluation.
    unipc            Zhao et al. 2023, "UniPC", of order 2 with B(h) = e^h - 1: DPM-Solver++(2M)
                     and a corrector from the parabola through the last three x0
    """
    denoiser.check_guidance(1.0 if label is None else sampler.guidance, sampler.autoguidance)
    timesteps = sampler.timesteps(denoiser.schedule)
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
    eta = FIXED_ETA.get(sampler.method, sampler.eta)
    exact = sampler.method == "sa-solver"
    levels = [_level(denoiser.schedule, t) for t in timesteps]

    def predicted(x_t: Tensor, i: int) -> Tensor:
        guidance, autoguidance = sampler.guidance_at(2 * levels[i].lam)
        x0 = denoiser.predict_x0(x_t, timesteps[i], label, guidance, autoguidance)
        return denoiser.clip(x0) if clip else x0

    x_t = noise()
    noisy_part = x_t  # of the last multistep
    past: list[tuple[float, Tensor]] = []  # (lambda, x0) of the last steps, newest first
    for i, t in enumerate(timesteps):
        with torch.inference_mode():
            x0 = predicted(x_t, i)
        yield Step(t, x_t, x0)
        if i + 1 == len(timesteps):
            return  # the next level has no noise, so every method would return x0
        with torch.inference_mode():
            level, following = levels[i], levels[i + 1]
            if sampler.method in ("ddpm", "ddim", "euler"):
                x_t = _ddim_step(x_t, x0, level, following, eta, noise)
                continue
            if sampler.method == "heun":
                x_t = _heun_step(x_t, x0, level, following, partial(predicted, i=i + 1))
                continue
            past = [(level.lam, x0), *past[:2]]
            # Correct the step that led here.
            if exact and i > 0:
                x_t = noisy_part + _data_part(past[:2], levels[i - 1], level, eta, exact)
            if sampler.method == "unipc" and i > 0:
                x_t = noisy_part + _unipc_corrector(past, levels[i - 1], level)
            noisy_part = _noisy_part(x_t, level, following, eta, noise)
            x_t = noisy_part + _data_part(past[:2], level, following, eta, exact)


def _level(schedule: Schedule, t: int) -> Level:
    tables = schedule.alpha, schedule.sigma, schedule.log_snr / 2
    return Level(*(float(table[t]) for table in tables))


def _ddim_step(
    x_t: Tensor, x0: Tensor, start: Level, end: Level, eta: float, noise: Noise
) -> Tensor:
    """DDIM, eqs. 12 and 16, with epsilon recomputed from the (clipped) x0."""
    eps = (x_t - start.alpha * x0) / start.sigma
    h = end.lam - start.lam
    variance = (eta * end.sigma) ** 2 * (1 - math.exp(-2 * h))
    x_next = end.alpha * x0 + math.sqrt(end.sigma**2 - variance) * eps
    return x_next + math.sqrt(variance) * noise() if eta > 0 else x_next


def _heun_step(
    x_t: Tensor, x0: Tensor, start: Level, end: Level, predicted: Callable[[Tensor], Tensor]
) -> Tensor:
    """Heun's method for z = x / scale over s = sigma / scale. `predicted` gives x0 at the end.

    Karras et al. 2022, algorithm 1, on the flow path. Their own choice divides by alpha alone; but
    near pure noise sigma / alpha has no bound, and such a step magnifies the errors of x0.
    """
    z, s, s_next = x_t / start.scale, start.sigma / start.scale, end.sigma / end.scale
    slope = (z - x0) / s  # dz / ds
    z_next = z + (s_next - s) * slope  # Euler's step
    slope_next = (z_next - predicted(z_next * end.scale)) / s_next
    return (z + (s_next - s) * (slope + slope_next) / 2) * end.scale


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


def _unipc_corrector(past: list[tuple[float, Tensor]], start: Level, end: Level) -> Tensor:
    """The part from x0 of UniPC's corrector: the integral of e^lambda times a polynomial in lambda.

    The polynomial is the parabola through the three predictions in `past`, whose newest is at the
    end. After the first step there are two: their mean.
    """
    h = end.lam - start.lam
    weight = -math.expm1(-h)
    (_, x0_end), (_, x0_start), *earlier = past
    if not earlier:
        return end.alpha * weight * (x0_end + x0_start) / 2
    [(lam_earlier, x0_earlier)] = earlier
    # Newton's form in u = lambda - end.lam: x0_end + slope u + curvature u (u + h).
    slope = (x0_end - x0_start) / h
    slope_earlier = (x0_start - x0_earlier) / (start.lam - lam_earlier)
    curvature = (slope - slope_earlier) / (end.lam - lam_earlier)
    # Integrals of e^u u and of e^u u^2 from -h to 0.
    moment_1 = (h + 1) * math.exp(-h) - 1
    moment_2 = 2 - (h * h + 2 * h + 2) * math.exp(-h)
    return end.alpha * (weight * x0_end + moment_1 * slope + (moment_2 + h * moment_1) * curvature)
