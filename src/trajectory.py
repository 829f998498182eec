"""All steps of one walk from noise to images, kept: what the demo leafs through, and what an animation is made of."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from src.dataset import to_pixels
from src.denoiser import Denoiser
from src.drawing import Sampler, walk
from src.preview import tile

HELD, ANIMATED, LAST = 400, 120, 1600  # milliseconds that an animation shows noise, a step on the way, and the images
MOST_FRAMES = 40
GREYS = 32  # of an animation: noise does not compress, and nobody sees the difference

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


def png(images: Tensor, columns: int, scale: int) -> bytes:
    """A PNG of uint8 images (N, C, H, W), row by row, each pixel enlarged to scale x scale."""
    buffer = io.BytesIO()
    tile(images, columns, scale).save(buffer, "PNG")
    return buffer.getvalue()


def gif(states: Tensor, columns: int, scale: int) -> bytes:
    """An animation, for ever, through uint8 states (S, N, C, H, W) of N images, each pixel enlarged to scale x scale.

    Of many states it shows some, evenly spread, first and last included.
    """
    shown = torch.linspace(0, len(states) - 1, min(len(states), MOST_FRAMES)).round().long()
    frames = [tile(states[i], columns, scale) for i in shown]
    if states.shape[2] == 1:
        palette = Image.new("P", (1, 1))
        palette.putpalette([level for grey in range(GREYS) for level in [round(grey * 255 / (GREYS - 1))] * 3])
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    else:
        frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    times = [HELD, *[ANIMATED] * (len(frames) - 2), LAST][-len(frames):]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)
    return buffer.getvalue()
