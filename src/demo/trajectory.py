"""Draw images and keep all steps of their trajectory, so that the demo can show each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import drawing
from ..common.dataset import to_pixels
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import Sampler

_computing = threading.Lock()


@dataclass(frozen=True)
class Trajectory:
    """S steps of N images.

    Position i of the images is the state before step i. Position S has the finished images.
    """

    timesteps: list[int]  # (S), descending
    log_snr: list[float]  # (S), ascending
    sigma: list[float]  # (S), descending: the noise level
    x_t: Tensor  # (S + 1, N, C, H, W) uint8: the noisy images, then the finished ones
    x0: Tensor  # the same shape: the predicted clean images, then the finished ones

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def nbytes(self) -> int:
        return self.x_t.nbytes + self.x0.nbytes


def _ignore(done: int) -> None:
    pass


def compute(
    denoiser: Denoiser,
    sampler: Sampler,
    seed: int,
    count: int,
    labels: Tensor | None,
    progress: Callable[[int], None] = _ignore,
) -> Trajectory:
    """Draw images 1 to `count`, and call `progress` with the number of steps done.

    `labels` are int64 (count,) or None. Several threads take turns, one step at a time, because
    they would only compete for the same cores.
    """
    steps = drawing.steps(denoiser, sampler, seed, range(1, count + 1), labels)
    timesteps = sampler.timesteps(denoiser.schedule)
    x_t, x0 = [], []
    for i in range(len(timesteps)):
        with _computing:
            step = next(steps)
            x_t.append(to_pixels(step.x_t).cpu())
            x0.append(to_pixels(step.x0).cpu())
        progress(i + 1)
    return Trajectory(
        timesteps,
        denoiser.schedule.log_snr[timesteps].tolist(),
        denoiser.schedule.sigma[timesteps].tolist(),
        torch.stack([*x_t, x0[-1]]),
        torch.stack([*x0, x0[-1]]),
    )
