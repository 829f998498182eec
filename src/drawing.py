"""Many images from one model: batches of walks from noise, the class of each image, the settings that fix them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Event
from typing import Literal

import torch
from torch import Tensor

from src.common import device
from src.common.dataset import to_pixels
from src.common.errors import UserError
from src.common.randomness import generator
from src.diffusion import denoiser as denoisers
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import EVERYWHERE, ImageNoise, Method, Step, sample
from src.diffusion.schedule import Spacing
from src.params import Sample


@dataclass(frozen=True)
class Sampler:
    """How to get from noise to an image; with a model, a seed and the image's number it fixes the image."""

    method: Method
    steps: int
    spacing: Spacing
    eta: float = 0.0
    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    autoguidance: float = 1.0
    autoguidance_interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, settings: Sample, denoiser: Denoiser) -> Sampler:
        """What params.yaml asks for in `sample`, without guidance where the model has no classes."""
        return cls(
            settings.method, settings.steps, settings.spacing, settings.eta, settings.guidance if denoiser.conditional else 1.0,
            settings.guidance_interval, settings.autoguidance, settings.autoguidance_interval,
        )

    def evaluations(self, denoiser: Denoiser) -> int:
        """How often a network sees each image: once a step, and once more for each kind of guidance that acts there."""
        log_snr = denoiser.schedule.log_snr[denoiser.schedule.sampling_timesteps(self.steps, self.spacing)]

        def within(interval: tuple[float, float] | None) -> int:
            low, high = interval or EVERYWHERE
            return int(((log_snr >= low) & (log_snr <= high)).sum())

        by_class = within(self.guidance_interval) if self.guidance != 1.0 and denoiser.conditional else 0
        return self.steps + by_class + (within(self.autoguidance_interval) if self.autoguidance != 1.0 else 0)


def open_model(path: str | Path, precision: Literal["auto", "float32", "bfloat16"]) -> tuple[Denoiser, dict]:
    """A model file's denoiser on the best device, ready to draw in `precision`, and what the file says about it."""
    model, about = denoisers.load(path)
    model = model.to(device.best())
    model.precision = device.precision(precision, device.best())
    return model, about


def walk(denoiser: Denoiser, sampler: Sampler, seed: int, numbers: range, labels: Tensor | None) -> Iterator[Step]:
    """The steps from noise of the images with these `numbers`, counted from 1. `labels` (count,) int64 of all images, or None.

    Raises UserError for classes that the model does not have, for too few labels, and for class guidance without.
    """
    unet, device = denoiser.config.unet, next(denoiser.parameters()).device
    noise = ImageNoise(seed, numbers, (unet.image_channels, unet.image_size, unet.image_size), device)
    label = None if labels is None else labels[numbers[0] - 1 : numbers[-1]].to(device)
    if label is None and denoiser.conditional and sampler.guidance != 1:
        raise UserError(f"labels: found none, but a guidance of {sampler.guidance} by class; give labels, or a guidance of 1")
    if label is not None and denoiser.conditional:
        if len(label) != len(numbers):
            raise UserError(f"labels: expected one for each image up to number {numbers[-1]}, found {len(labels)}")
        if not bool(((label >= 0) & (label < unet.classes)).all()):
            found = f"{int(label.min())} to {int(label.max())}"
            raise UserError(f"labels: expected classes from 0 to {unet.classes - 1}, found {found}")
    return sample(
        denoiser, noise, denoiser.schedule.sampling_timesteps(sampler.steps, sampler.spacing), sampler.method, sampler.eta,
        sampler.guidance, sampler.guidance_interval or EVERYWHERE, sampler.autoguidance,
        sampler.autoguidance_interval or EVERYWHERE, label,
    )


@dataclass(frozen=True)
class Batch:
    """Finished images, uint8 (B, C, H, W), the first of which has the number `first`."""

    first: int
    images: Tensor
    way: Tensor | None  # uint8 (steps + 1, K, C, H, W): every x_t of the first K, then the image


def parts(count: int, batch_size: int) -> list[range]:
    """Numbers of images, from 1 to `count`, in batches."""
    return [range(start, min(start + batch_size, count + 1)) for start in range(1, count + 1, batch_size)]


def batches(
    denoiser: Denoiser, sampler: Sampler, seed: int, labels: Tensor | None, parts: list[range], ways: int = 0
) -> Iterator[Batch]:
    """Images with the numbers in `parts`, a batch for each; the way is kept of images 1 to `ways`.

    On CPUs each core draws batches of its own: small feature maps are too little work to share, and no image depends on
    the number of cores.
    """
    stopped = Event()

    def finish(numbers: range) -> Batch | None:
        kept = max(0, min(ways - numbers[0] + 1, len(numbers)))
        states = []
        for step in walk(denoiser, sampler, seed, numbers, labels):
            if stopped.is_set():
                return None
            if kept:
                states.append(to_pixels(step.x_t[:kept]).cpu())
        images = to_pixels(step.x0).cpu()
        return Batch(numbers[0], images, torch.stack([*states, images[:kept]]) if kept else None)

    if next(denoiser.parameters()).device.type != "cpu":
        yield from map(finish, parts)
        return
    cores = torch.get_num_threads()
    try:
        with ThreadPool(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield from pool.imap(finish, parts)
            finally:  # threads that still compute when Python ends would abort it
                stopped.set()
                pool.close()
                pool.join()
    finally:
        torch.set_num_threads(cores)  # parts of which are one for all threads


def draw(
    denoiser: Denoiser, sampler: Sampler, seed: int, count: int, labels: Tensor | None, batch_size: int = 250
) -> Tensor:
    """The finished images: uint8 (count, C, H, W)."""
    return torch.cat([batch.images for batch in batches(denoiser, sampler, seed, labels, parts(count, batch_size))])


def draw_classes(counts: list[int], seed: int, numbers: range) -> Tensor:
    """A class for each image, as often as `counts` say: (B,) int64, following from (seed, k).

    Spread evenly rather than drawn one by one: multiples of the golden ratio, from a start that is random, fill [0, 1) evenly
    however many are taken (Kuipers and Niederreiter 1974, "Uniform Distribution of Sequences", section 2.3), and each class has
    its share of [0, 1). So each share is right to a few images, where chance would be wrong by about the root of their number.
    """
    start = torch.rand((), dtype=torch.float64, generator=generator(seed, "class"))
    points = (start + torch.tensor(numbers, dtype=torch.float64) * (math.sqrt(5) - 1) / 2) % 1
    edges = torch.tensor(counts).cumsum(dim=0).double() / sum(counts)
    return torch.searchsorted(edges, points, right=True)


def choose_labels(classes: list[int] | None, counts: list[int], seed: int, count: int) -> Tensor | None:
    """The class of each image, (count,) int64: as often as in the training data's `counts`, or `classes` over and over.

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
