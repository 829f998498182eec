"""All steps of one walk from noise to images, kept: what the demo leafs through."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from src.common.dataset import to_pixels
from src.diffusion.denoiser import Denoiser
from src.drawing import Sampler, walk

_computing = threading.Lock()


@dataclass(frozen=True)
class Trajectory:
    """S steps of N images. Position i is before step i; position S, where nothing is noisy any more, after the last."""

    timesteps: list[int]  # (S), descending
    log_snr: list[float]  # (S), ascending
    x_t: Tensor  # (S + 1, N, C, H, W) uint8: the noisy images, at last the finished ones
    x0: Tensor  # alike: the clean images that the network expected behind them

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def nbytes(self) -> int:
        return self.x_t.nbytes + self.x0.nbytes


def compute(
    denoiser: Denoiser, sampler: Sampler, seed: int, count: int, labels: Tensor | None,
    progress: Callable[[int], None] = lambda done: None,
) -> Trajectory:
    """Walk images 1 to `count` from noise, calling `progress` with the number of steps done.

    Walks of several threads take turns, step by step: together they would only wait for each other's cores.
    """
    timesteps = denoiser.schedule.sampling_timesteps(sampler.steps, sampler.spacing)
    steps = walk(denoiser, sampler, seed, range(1, count + 1), labels)
    x_t, x0 = [], []
    for i in range(len(timesteps)):
        with _computing:
            step = next(steps)
            x_t.append(to_pixels(step.x_t).cpu())
            x0.append(to_pixels(step.x0).cpu())
        progress(i + 1)
    log_snr = denoiser.schedule.log_snr[timesteps].tolist()
    return Trajectory(timesteps, log_snr, torch.stack([*x_t, x0[-1]]), torch.stack([*x0, x0[-1]]))
