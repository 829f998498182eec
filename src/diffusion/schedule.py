"""Noise schedules: betas and their cumulative products in float64, adding noise, and which timesteps a sampler visits.

Knows nothing of networks. Notation as in Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (DDPM):
x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps, with t = 0 the least and t = T - 1 the most noisy level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from src.common.errors import UserError
from src.params import MOST_TIMESTEPS

ScheduleName = Literal["linear", "cosine"]
Spacing = Literal["leading", "trailing", "logsnr"]

# Log-SNR below which all images look alike, and above which nothing is left to decide: one step leads through. Cosine goes from
# -20 to 10.
DROWNED, CLEAN = -6.0, 6.0


@dataclass(frozen=True)
class ScheduleConfig:
    """What fixes a schedule: five numbers that travel with every model file."""

    name: ScheduleName
    timesteps: int
    beta_start: float
    beta_end: float
    cosine_s: float


def linear_betas(timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Betas that grow linearly (DDPM, section 4). Returns (timesteps,) float64."""
    return torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)


def cosine_betas(timesteps: int, s: float, max_beta: float = 0.999) -> Tensor:
    """Betas of the cosine schedule (Nichol and Dhariwal 2021, eq. 17), capped at `max_beta` as there.

    Returns (timesteps,) float64.
    """
    def f(u: Tensor) -> Tensor:
        return torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    edges = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    return (1 - f(edges[1:]) / f(edges[:-1])).clamp(max=max_beta)


class Schedule:
    """A discrete noise schedule. All tables are float64 of shape (T,) and live on the CPU."""

    def __init__(self, config: ScheduleConfig):
        self.config = config
        if type(config.timesteps) is not int or not 2 <= config.timesteps <= MOST_TIMESTEPS:
            raise UserError(f"timesteps: expected a whole number from 2 to {MOST_TIMESTEPS}, found {config.timesteps}")
        if config.name == "linear":
            self.betas = linear_betas(config.timesteps, config.beta_start, config.beta_end)
        elif config.name == "cosine":
            self.betas = cosine_betas(config.timesteps, config.cosine_s)
        else:
            raise UserError(f"schedule: expected 'linear' or 'cosine', found {config.name!r}")
        self.alpha_bar = torch.cumprod(1 - self.betas, dim=0)
        if not self.alpha_bar[-1] >= 1e-12:  # nor is what is no number
            raise UserError(
                f"beta_end, timesteps: of the signal only {float(self.alpha_bar[-1]):.1e} is left at the last timestep, where "
                f"samplers need at least 1e-12; lower beta_end or timesteps"
            )
        self.log_snr = torch.log(self.alpha_bar) - torch.log1p(-self.alpha_bar)

    def __len__(self) -> int:
        return self.config.timesteps

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) = (sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)) for t (B,) int64, shaped (B, 1, 1, 1) as `like`."""
        alpha_bar = self.alpha_bar[t.cpu()].view(-1, 1, 1, 1)
        return alpha_bar.sqrt().to(like), (1 - alpha_bar).sqrt().to(like)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t for clean images x0 (B, C, H, W) in [-1, 1], noise eps of the same shape and t (B,) int64 (DDPM, eq. 4)."""
        alpha, sigma = self.levels(t, x0)
        return alpha * x0 + sigma * eps

    def sampling_timesteps(self, steps: int, spacing: Spacing) -> list[int]:
        """The `steps` timesteps a sampler visits, strictly descending.

        leading   multiples of T // steps, as in the DDIM paper: starts below T - 1, so a little signal is missing
        trailing  equal strides counted back from T - 1 (Lin et al. 2024, table 2)
        logsnr    T - 1, then equal strides in log-SNR (Lu et al. 2022, "DPM-Solver", section 3.4) from `DROWNED` to `CLEAN`,
                  the last of which leads to the clean image

        Raises UserError unless 1 <= steps <= T.
        """
        T = len(self)
        if not 1 <= steps <= T:
            raise UserError(f"sample.steps: expected 1 to {T} (the model's timesteps), found {steps}")
        if spacing == "leading":
            return [i * (T // steps) for i in reversed(range(steps))]
        if spacing == "trailing":
            return [round(T - i * T / steps) - 1 for i in range(steps)]
        if spacing == "logsnr":
            return self._equal_log_snr(steps)
        raise UserError(f"sample.spacing: expected 'leading', 'trailing' or 'logsnr', found {spacing!r}")

    def _equal_log_snr(self, steps: int) -> list[int]:
        start = max(float(self.log_snr[-1]), DROWNED)
        end = min(float(self.log_snr[0]), CLEAN)
        wanted = torch.linspace(start, end, steps, dtype=torch.float64)[:-1]
        nearest = [len(self) - 1, *(self.log_snr[None, :] - wanted[:, None]).abs().argmin(dim=1).tolist()]
        chosen: list[int] = []
        for i, t in enumerate(nearest):  # neighbours may share a nearest timestep: keep them apart, leave room below
            ceiling = chosen[-1] - 1 if chosen else len(self) - 1
            chosen.append(max(min(t, ceiling), steps - 1 - i))
        return chosen
