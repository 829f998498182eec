"""Many images from one model: their noise, their classes, and batches of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from threading import Event

import torch
from torch import Tensor

from .common.dataset import to_pixels
from .common.errors import UserError, user_errors
from .common.randomness import ImageNoise, generator
from .diffusion.denoiser import Denoiser
from .diffusion.samplers import Sampler, Step, sample


def fitted(sampler: Sampler, denoiser: Denoiser) -> Sampler:
    """`sampler`, without class guidance if the model has no classes."""
    return sampler if denoiser.conditional else replace(sampler, guidance=1.0)


def steps(
    denoiser: Denoiser, sampler: Sampler, seed: int, numbers: range, labels: Tensor | None
) -> Iterator[Step]:
    """The steps from noise of the images with these `numbers`, counted from 1.

    `labels` (count,) int64 are those of all images, or None. Raises UserError for classes that the
    model does not have, for too few labels, for class guidance without labels, and for settings
    that the model was not trained for.
    """
    unet, device = denoiser.config.unet, next(denoiser.parameters()).device
    shape = (unet.image_channels, unet.image_size, unet.image_size)
    noise = ImageNoise(seed, numbers, shape, device)
    label = None if labels is None else labels[numbers[0] - 1 : numbers[-1]].to(device)
    if label is None and denoiser.conditional and sampler.guidance != 1:
        raise UserError(
            f"guidance is {sampler.guidance} but there are no labels; "
            f"pass labels, or set guidance to 1"
        )
    if label is not None and denoiser.conditional:
        if len(label) != len(numbers):
            raise UserError(
                f"labels: expected one for each image up to number {numbers[-1]}, "
                f"found {len(label) + numbers[0] - 1}"
            )
        if not bool(((label >= 0) & (label < unet.classes)).all()):
            raise UserError(
                f"labels: expected classes from 0 to {unet.classes - 1}, "
                f"found {int(label.min())} to {int(label.max())}"
            )
    with user_errors("sample."):
        return sample(denoiser, noise, sampler, label)


@dataclass(frozen=True)
class Batch:
    """Finished images, uint8 (B, C, H, W), the first of which has the number `first`."""

    first: int
    images: Tensor
    trajectory: Tensor | None  # uint8 (steps + 1, K, C, H, W): x_t of the first K, then the image


def parts(count: int, batch_size: int) -> list[range]:
    """Numbers of images, from 1 to `count`, in batches."""
    starts = range(1, count + 1, batch_size)
    return [range(start, min(start + batch_size, count + 1)) for start in starts]


def batches(
    denoiser: Denoiser,
    sampler: Sampler,
    seed: int,
    labels: Tensor | None,
    parts: list[range],
    trajectories: int = 0,
) -> Iterator[Batch]:
    """Images with the numbers in `parts`, a batch for each.

    The trajectory is kept of images 1 to `trajectories`. On CPUs each core draws batches of its
    own: small feature maps are too little work to share, and no image depends on the number of
    cores.
    """
    stopped = Event()

    def finish(numbers: range) -> Batch | None:
        kept = max(0, min(trajectories - numbers[0] + 1, len(numbers)))
        states = []
        for step in steps(denoiser, sampler, seed, numbers, labels):
            if stopped.is_set():
                return None
            if kept:
                states.append(to_pixels(step.x_t[:kept]).cpu())
        images = to_pixels(step.x0).cpu()
        trajectory = torch.stack([*states, images[:kept]]) if kept else None
        return Batch(numbers[0], images, trajectory)

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
        torch.set_num_threads(cores)  # a part of that setting is one for all threads


def draw(
    denoiser: Denoiser,
    sampler: Sampler,
    seed: int,
    count: int,
    labels: Tensor | None,
    batch_size: int = 250,
) -> Tensor:
    """The finished images 1 to `count`: uint8 (count, C, H, W)."""
    drawn = batches(denoiser, sampler, seed, labels, parts(count, batch_size))
    return torch.cat([batch.images for batch in drawn])


def draw_classes(counts: list[int], seed: int, numbers: range) -> Tensor:
    """A class for each image, as often as `counts` say: (B,) int64, following from (seed, k).

    Classes are spread evenly, not drawn one by one. Multiples of the golden ratio, from a random
    start, fill [0, 1) evenly however many are taken (Kuipers and Niederreiter 1974, "Uniform
    Distribution of Sequences", section 2.3), and each class has its share of [0, 1). So each share
    is right to a few images, where chance would be wrong by about the root of their number.
    """
    start = torch.rand((), dtype=torch.float64, generator=generator(seed, "class"))
    points = (start + torch.tensor(numbers, dtype=torch.float64) * (math.sqrt(5) - 1) / 2) % 1
    edges = torch.tensor(counts).cumsum(dim=0).double() / sum(counts)
    return torch.searchsorted(edges, points, right=True)


def choose_labels(
    classes: list[int] | None, counts: list[int], seed: int, count: int
) -> Tensor | None:
    """The class of each image, (count,) int64: `classes` over and over, or as often as `counts`.

    `counts` are the images of each class in the training data. Returns None for a model without
    classes (no `counts`). Raises UserError for classes that the model does not have.
    """
    if not counts:
        if classes is not None:
            raise UserError(
                f"sample.classes: expected null, since the model was trained without classes; "
                f"found {classes}"
            )
        return None
    if classes is None:
        return draw_classes(counts, seed, range(1, count + 1))
    if max(classes) >= len(counts):
        raise UserError(
            f"sample.classes: expected classes from 0 to {len(counts) - 1}, found {max(classes)}"
        )
    return torch.tensor(classes).repeat(-(-count // len(classes)))[:count]
