"""All steps of a trajectory from noise to images, kept: what the demo leafs through."""

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

    Position i is before step i; position S, where no noise is left, after the last.
    """

    timesteps: list[int]  # (S), descending
    log_snr: list[float]  # (S), ascending
    sigma: list[float]  # (S), descending: the noise level
    x_t: Tensor  # (S + 1, N, C, H, W) uint8: the noisy images, at last the finished ones
    x0: Tensor  # likewise: the clean images that the network predicts

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
    """Draw images 1 to `count`, calling `progress` with the number of steps done.

    Trajectories of several threads take turns, step by step: together they would only wait for
    each other's cores.
    """
    steps = drawing.steps(denoiser, sampler, seed, range(1, count + 1), labels)
    timesteps = denoiser.schedule.sampling_timesteps(sampler.steps, sampler.spacing)
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
