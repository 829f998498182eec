"""Many images from one model: batches of walks from noise, the class of each image, the settings that fix them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from src import denoiser as denoisers
from src import device
from src.dataset import to_pixels
from src.denoiser import Denoiser
from src.errors import UserError
from src.params import Sample
from src.samplers import ImageNoise, Method, Step, draw_classes, sample
from src.schedule import Spacing


@dataclass(frozen=True)
class Sampler:
    """How to get from noise to an image; with a model, a seed and the image's number it fixes the image."""

    method: Method
    steps: int
    spacing: Spacing
    eta: float = 0.0
    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, settings: Sample, denoiser: Denoiser) -> Sampler:
        """What params.yaml asks for in `sample`, without guidance where the model has no classes."""
        return cls(
            settings.method, settings.steps, settings.spacing, settings.eta, settings.guidance if denoiser.conditional else 1.0,
            settings.guidance_interval,
        )

    def evaluations(self, denoiser: Denoiser) -> int:
        """How often the network sees each image: twice in a guided step."""
        log_snr = denoiser.schedule.log_snr[denoiser.schedule.sampling_timesteps(self.steps, self.spacing)]
        low, high = self.guidance_interval or (-math.inf, math.inf)
        guided = ((log_snr >= low) & (log_snr <= high)).sum() if self.guidance != 1.0 and denoiser.conditional else 0
        return self.steps + int(guided)


def open_model(path: str, precision: Literal["auto", "float32", "bfloat16"]) -> tuple[Denoiser, dict]:
    """A model file's denoiser on the best device, ready to draw in `precision`, and what the file says about it."""
    model, about = denoisers.load(path)
    model = model.to(device.best())
    model.precision = device.precision(precision, device.best())
    return model, about


def walks(
    denoiser: Denoiser, sampler: Sampler, seed: int, count: int, labels: Tensor | None, batch_size: int = 250
) -> Iterator[tuple[range, Iterator[Step]]]:
    """For each batch of images 1 to `count` their numbers and their steps from noise. `labels` (count,) or None."""
    unet, device = denoiser.config.unet, next(denoiser.parameters()).device
    timesteps = denoiser.schedule.sampling_timesteps(sampler.steps, sampler.spacing)
    interval = sampler.guidance_interval or (-math.inf, math.inf)
    for chosen in torch.arange(count).split(batch_size):
        numbers = range(int(chosen[0]) + 1, int(chosen[-1]) + 2)
        noise = ImageNoise(seed, numbers, (unet.image_channels, unet.image_size, unet.image_size), device)
        label = None if labels is None else labels[chosen].to(device)
        yield numbers, sample(denoiser, noise, timesteps, sampler.method, sampler.eta, sampler.guidance, interval, label)


def draw(denoiser: Denoiser, sampler: Sampler, seed: int, count: int, labels: Tensor | None) -> Tensor:
    """The finished images: uint8 (count, C, H, W)."""
    batches = []
    for _, walk in walks(denoiser, sampler, seed, count, labels):
        *_, last = walk
        batches.append(to_pixels(last.x0).cpu())
    return torch.cat(batches)


def choose_labels(classes: list[int] | None, counts: list[int], seed: int, count: int) -> Tensor | None:
    """The class of each image, (count,) int64: drawn like the training data's `counts`, or `classes` over and over.

    None for a model without classes (no `counts`). Raises UserError for classes that the model does not have.
    """
    if not counts:
        if classes is not None:
            raise UserError(f"sample.classes: expected null, since the model was trained without classes; found {classes}")
        return None
    if classes is None:
        return draw_classes(counts, seed, range(1, count + 1))
    if max(classes) >= len(counts):
        raise UserError(f"sample.classes: expected classes from 0 to {len(counts) - 1}, found {max(classes)}")
    return torch.tensor(classes).repeat(-(-count // len(classes)))[:count]
