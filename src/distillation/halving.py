"""Progressive distillation: a student takes one DDIM step where its teacher takes two.

Source: Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models",
algorithm 2. The first teacher is the trained model with its guidance, so students need none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import Sampler
from ..diffusion.schedule import Schedule, lookup

CLEAN = -1  # stands for the time after the last step, where x_t is x0
# The error of x0 is weighted by the SNR within these limits. The lower one is the paper's
# "truncated SNR"; the upper one keeps nearly clean images from deciding the loss.
MIN_WEIGHT, MAX_WEIGHT = 1.0, 20.0


def ddim_step(schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s from x_t and x0 (B, C, H, W) by DDIM. t and s are (B,) int64; s may be CLEAN."""
    alpha_t, sigma_t = schedule.levels(t, x_t)
    alpha_s, sigma_s = _levels_or_clean(schedule, s, x_t)
    return alpha_s * x0 + sigma_s / sigma_t * (x_t - alpha_t * x0)


def x0_of_step(schedule: Schedule, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x0 with which DDIM goes from x_t to x_s: `ddim_step` solved for x0."""
    alpha_t, sigma_t = schedule.levels(t, x_t)
    alpha_s, sigma_s = _levels_or_clean(schedule, s, x_t)
    ratio = sigma_s / sigma_t
    return (x_s - ratio * x_t) / (alpha_s - ratio * alpha_t)


def _levels_or_clean(schedule: Schedule, s: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha = torch.cat([schedule.alpha, torch.ones(1, dtype=torch.float64)])
    sigma = torch.cat([schedule.sigma, torch.zeros(1, dtype=torch.float64)])
    return lookup(alpha, s, like), lookup(sigma, s, like)  # CLEAN is the last position


class Teacher(nn.Module):
    """A denoiser with the guidance of its sampler. Predicts clipped x0 for mixed timesteps."""

    def __init__(self, denoiser: Denoiser, sampler: Sampler):
        super().__init__()
        self.denoiser, self.sampler = denoiser.requires_grad_(False), sampler

    @torch.no_grad()
    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        log_snrs = self.denoiser.schedule.log_snr[t.cpu()].tolist()
        weights = [self.sampler.guidance_at(log_snr) for log_snr in log_snrs]
        x0 = torch.empty_like(x_t)
        for pair in set(weights):  # images with equal guidance at once
            chosen = torch.tensor([i for i, other in enumerate(weights) if other == pair])
            chosen = chosen.to(x_t.device)
            labels = None if label is None else label[chosen]
            x0[chosen] = self.denoiser.predict_x0(x_t[chosen], t[chosen], labels, *pair)
        return self.denoiser.clip(x0)  # as samplers do


class Halving(nn.Module):
    """The loss of a student that draws in `steps` steps; its teacher takes twice as many.

    A batch has images x0, noise eps, timesteps t and maybe a label, as in training. Each image
    belongs to the student's step that contains its t.
    """

    def __init__(self, student: Denoiser, teacher: Teacher, steps: int):
        super().__init__()
        self.denoiser, self.teacher, self.steps = student, teacher, steps
        grid = student.schedule.sampling_timesteps(2 * steps, "trailing")
        self.grid = torch.tensor([*grid, CLEAN])

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The weighted and the plain squared error of x0: means over the batch."""
        label, schedule = batch.get("label"), self.denoiser.schedule
        # The step from t to s; the teacher stops halfway, at m.
        step = self.steps - 1 - batch["t"].cpu() * self.steps // len(schedule)
        t, m, s = (self.grid[2 * step + i].to(batch["t"]) for i in range(3))
        x0 = batch["x0"].contiguous(memory_format=torch.channels_last)
        x_t = schedule.add_noise(self.denoiser.encode(x0), batch["eps"], t)
        x_m = ddim_step(schedule, x_t, self.teacher(x_t, t, label), t, m)
        x_s = ddim_step(schedule, x_m, self.teacher(x_m, m, label), m, s)
        target = x0_of_step(schedule, x_t, x_s, t, s)
        error = (self.denoiser.predict_x0(x_t, t, label) - target).square().mean(dim=(1, 2, 3))
        weight = schedule.log_snr[t.cpu()].exp().clamp(MIN_WEIGHT, MAX_WEIGHT).to(error)
        return (weight * error).mean(), error.mean()
