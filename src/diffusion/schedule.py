"""Noise schedules: how much image and how much noise x_t has at each timestep.

x_t = alpha_t x0 + sigma_t eps. The noise grows from t = 0 to t = T - 1. A schedule is a few tables
over t: alpha, sigma, log-SNR and slopes. Losses and samplers use these tables alone.

linear, cosine  variance preserving, alpha^2 + sigma^2 = 1. They start from betas (Ho et al. 2020,
                "Denoising Diffusion Probabilistic Models", DDPM): alpha_bar_t is the product of
                1 - beta_s for s <= t, alpha_t = sqrt(alpha_bar_t), sigma_t = sqrt(1 - alpha_bar_t)
flow            the straight path, alpha + sigma = 1, of rectified flow and flow matching (Liu et
                al. 2022; Lipman et al. 2022). Time runs from image to noise, as in Esser et al.
                2024. Timestep i stands for the time (i + 1/2) / T: sigma is that time, alpha one
                minus it

EDM's path (Karras et al. 2022: alpha = 1, sigma up to 80) is the variance-preserving one, divided
by alpha. For images of variance 1, its preconditioned network predicts -v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

ScheduleName = Literal["linear", "cosine", "flow"]
Spacing = Literal["leading", "trailing", "logsnr", "karras"]

MAX_TIMESTEPS = 100_000
MIN_SIGNAL = 1e-12  # least alpha^2 at the last timestep; samplers divide by alpha

# Limits of log-SNR for the spacing logsnr. Below PURE_NOISE all noisy images look alike. Above
# CLEAN the image no longer changes visibly. So one step crosses each of these ends. The cosine
# schedule goes from -20 to 10.
PURE_NOISE, CLEAN = -6.0, 6.0

# Largest and smallest sigma / alpha for the spacing karras (Karras et al. 2022, table 1).
SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.002, 7


@dataclass(frozen=True)
class ScheduleConfig:
    """The settings of a schedule. Every model file stores them."""

    name: ScheduleName
    timesteps: int
    beta_start: float = 1e-4  # linear only
    beta_end: float = 0.02  # linear only
    cosine_s: float = 0.008  # cosine only


def linear_betas(timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Betas that grow linearly (DDPM, section 4). Returns (timesteps,) float64."""
    return torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)


def cosine_betas(timesteps: int, s: float, max_beta: float = 0.999) -> Tensor:
    """Betas of the cosine schedule (Nichol and Dhariwal 2021, eq. 17), capped at `max_beta`.

    Returns (timesteps,) float64.
    """

    def f(u: Tensor) -> Tensor:
        return torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    edges = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    return (1 - f(edges[1:]) / f(edges[:-1])).clamp(max=max_beta)


def lookup(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """The values of a `table` (T,) at t (B,) int64: (B, 1, 1, 1), dtype and device as `like`.

    Tables stay on the CPU in float64, so that no schedule depends on the device.
    """
    return table[t.cpu()].view(-1, 1, 1, 1).to(like)


class Schedule:
    """A noise schedule in discrete time.

    `alpha`, `sigma` and `log_snr` = log(alpha^2 / sigma^2) are float64 (T,) on the CPU; log_snr
    decreases with t. `alpha_slope` and `sigma_slope` are derivatives by the time t / T; those of
    the linear and cosine schedules are finite differences. Raises ValueError if the configuration
    is invalid.
    """

    def __init__(self, config: ScheduleConfig):
        self.config = config
        if type(config.timesteps) is not int or not 2 <= config.timesteps <= MAX_TIMESTEPS:
            raise ValueError(
                f"timesteps: expected an integer from 2 to {MAX_TIMESTEPS}, got {config.timesteps}"
            )
        if config.name == "flow":
            self._straight()
        elif config.name == "linear":
            self._from_betas(linear_betas(config.timesteps, config.beta_start, config.beta_end))
        elif config.name == "cosine":
            self._from_betas(cosine_betas(config.timesteps, config.cosine_s))
        else:
            names = ", ".join(get_args(ScheduleName))
            raise ValueError(f"schedule: expected one of {names}, got {config.name!r}")

    def _straight(self) -> None:
        timesteps = self.config.timesteps
        time = (torch.arange(timesteps, dtype=torch.float64) + 0.5) / timesteps
        self.alpha, self.sigma = 1 - time, time
        self.alpha_slope, self.sigma_slope = -torch.ones_like(time), torch.ones_like(time)
        self.log_snr = -2 * torch.logit(time)

    def _from_betas(self, betas: Tensor) -> None:
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(
                f"beta_start, beta_end, cosine_s: expected betas between 0 and 1, got "
                f"{float(betas.min()):.3g} to {float(betas.max()):.3g}"
            )
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        if not alpha_bar[-1] >= MIN_SIGNAL:
            raise ValueError(
                f"timesteps: only {float(alpha_bar[-1]):.1e} of the signal is left at the last "
                f"timestep (expected at least {MIN_SIGNAL}). Lower timesteps, or beta_end if the "
                f"schedule is linear"
            )
        self.alpha = alpha_bar.sqrt()
        self.sigma = (1 - alpha_bar).sqrt()
        self.log_snr = torch.log(alpha_bar) - torch.log1p(-alpha_bar)
        stride = 1 / len(betas)
        (self.alpha_slope,) = torch.gradient(self.alpha, spacing=stride)
        (self.sigma_slope,) = torch.gradient(self.sigma, spacing=stride)

    def __len__(self) -> int:
        return self.config.timesteps

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t for t (B,) int64: each (B, 1, 1, 1), dtype and device as `like`."""
        t = t.cpu()
        return lookup(self.alpha, t, like), lookup(self.sigma, t, like)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t (B, C, H, W) for images x0, noise eps and t (B,) int64 (DDPM, eq. 4)."""
        alpha, sigma = self.levels(t, x0)
        return alpha * x0 + sigma * eps

    def sampling_timesteps(self, steps: int, spacing: Spacing) -> list[int]:
        """The `steps` timesteps that a sampler visits, strictly descending.

        leading   multiples of T // steps (DDIM). It starts below T - 1, where x_t should hold a
                  little signal, but samplers start with pure noise.
        trailing  equal strides down from T - 1 (Lin et al. 2024, table 2)
        logsnr    T - 1, then equal strides in log-SNR from PURE_NOISE to one stride short of CLEAN
                  (Lu et al. 2022, "DPM-Solver", section 3.4). The last step goes to the image.
        karras    equal strides in (sigma / alpha)^(1 / 7) from 80 to 0.002, or to t = 0 if that
                  has more noise (Karras et al. 2022, eq. 5); T - 1 in place of 80

        Raises ValueError unless 1 <= steps <= T.
        """
        T = len(self)
        if not 1 <= steps <= T:
            raise ValueError(f"steps: expected 1 to {T} (the schedule's timesteps), got {steps}")
        if spacing == "leading":
            return [i * (T // steps) for i in reversed(range(steps))]
        if spacing == "trailing":
            return [round(T - i * T / steps) - 1 for i in range(steps)]
        if spacing == "logsnr":
            start = max(float(self.log_snr[-1]), PURE_NOISE)
            end = min(float(self.log_snr[0]), CLEAN)
            return self._nearest(torch.linspace(start, end, steps, dtype=torch.float64)[:-1])
        if spacing == "karras":
            largest = min(math.exp(-self.log_snr[-1] / 2), SIGMA_MAX) ** (1 / RHO)
            smallest = max(math.exp(-self.log_snr[0] / 2), SIGMA_MIN) ** (1 / RHO)
            roots = torch.linspace(largest, smallest, steps, dtype=torch.float64)[1:]
            return self._nearest(-2 * RHO * roots.log())
        raise ValueError(
            f"spacing: expected one of {', '.join(get_args(Spacing))}, got {spacing!r}"
        )

    def _nearest(self, log_snrs: Tensor) -> list[int]:
        """T - 1, then the timestep nearest to each log-SNR: distinct and descending."""
        nearest = (self.log_snr[None, :] - log_snrs[:, None]).abs().argmin(dim=1).tolist()
        steps = 1 + len(nearest)
        chosen: list[int] = []
        for i, t in enumerate([len(self) - 1, *nearest]):
            # Two points may have the same nearest timestep. Keep the timesteps distinct, and
            # leave enough of them for the points that follow.
            ceiling = chosen[-1] - 1 if chosen else len(self) - 1
            chosen.append(max(min(t, ceiling), steps - 1 - i))
        return chosen
