"""Draw many images from one model: choose their classes and their noise, and draw batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from threading import Event
from typing import TypeVar, cast

import torch
from torch import Tensor

from .common.allocator import return_freed_memory
from .common.dataset import names_of_classes, to_pixels
from .common.errors import UserError, user_errors
from .common.randomness import ImageNoise, generator
from .diffusion.denoiser import Denoiser
from .diffusion.samplers import Sampler, Step, sample

T = TypeVar("T")


def fitted(sampler: Sampler, denoiser: Denoiser) -> Sampler:
    """`sampler`, without class guidance if the model has no classes."""
    return sampler if denoiser.conditional else replace(sampler, guidance=1.0)


def steps(
    denoiser: Denoiser, sampler: Sampler, seed: int, numbers: range, labels: Tensor | None
) -> Iterator[Step]:
    """The sampler's steps for the images with these `numbers`, counted from 1.

    `labels` (count,) int64 has the classes of all images, or is None. Raises UserError if there
    are too few labels, or none for class guidance. Raises it also if the model lacks these classes
    or was not trained for the sampler.
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
    """Finished images, uint8 (B, C, H, W), numbered from `first`."""

    first: int
    images: Tensor
    # uint8 (steps + 1, K, C, H, W): x_t of the first K images at each step, then their x0.
    trajectory: Tensor | None


def parts(count: int, batch_size: int) -> list[range]:
    """Split the image numbers 1 to `count` into batches."""
    starts = range(1, count + 1, batch_size)
    return [range(start, min(start + batch_size, count + 1)) for start in starts]


def batches(
    denoiser: Denoiser,
    sampler: Sampler,
    seed: int,
    labels: Tensor | None,
    ranges: list[range],
    trajectories: int = 0,
) -> Iterator[Batch]:
    """Draw a batch of images for each of these ranges of image numbers.

    Images 1 to `trajectories` keep their trajectories.
    """

    def finish(numbers: range, stopped: Event) -> Batch | None:
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

    return on_all_cores(finish, ranges, denoiser)


def on_all_cores(
    finish: Callable[[range, Event], T | None], ranges: list[range], denoiser: Denoiser
) -> Iterator[T]:
    """Yield the result of `finish` for each range. It gets an event that asks it to stop.

    On CPUs each core computes whole ranges: the work on small feature maps is too little to share
    among cores. So no image depends on the number of cores.
    """
    stopped = Event()

    def finish_range(numbers: range) -> T:
        return cast(T, finish(numbers, stopped))  # None only after the caller has stopped

    if next(denoiser.parameters()).device.type != "cpu":
        yield from map(finish_range, ranges)
        return
    cores = torch.get_num_threads()
    try:
        with ThreadPool(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield from pool.imap(finish_range, ranges)
            finally:  # Python aborts if threads still compute when it ends
                stopped.set()
                pool.close()
                pool.join()
    finally:
        torch.set_num_threads(cores)  # the pool's setting also changed one of the process
        return_freed_memory()


def draw(
    denoiser: Denoiser,
    sampler: Sampler,
    seed: int,
    count: int,
    labels: Tensor | None,
    batch_size: int = 250,
) -> Tensor:
    """Draw the images 1 to `count`: uint8 (count, C, H, W)."""
    drawn = batches(denoiser, sampler, seed, labels, parts(count, batch_size))
    return torch.cat([batch.images for batch in drawn])


def draw_classes(counts: list[int], seed: int, numbers: range) -> Tensor:
    """Choose a class for each of the images `numbers`, in proportion to `counts`: (B,) int64.

    The class of image k depends only on (counts, seed, k). Each class owns its share of [0, 1).
    Image k has the class that owns the point (start + k (sqrt(5) - 1) / 2) mod 1, with a random
    start. Multiples of the golden ratio fill [0, 1) evenly for any number of images (Kuipers and
    Niederreiter 1974, "Uniform Distribution of Sequences", section 2.3). So the number of images of
    each class is right to within a few. Independent choices would miss it by about its square root.
    """
    start = torch.rand((), dtype=torch.float64, generator=generator(seed, "class"))
    points = (start + torch.tensor(numbers, dtype=torch.float64) * (math.sqrt(5) - 1) / 2) % 1
    edges = torch.tensor(counts).cumsum(dim=0).double() / sum(counts)
    return torch.searchsorted(edges, points, right=True)


def choose_labels(
    classes: list[int | str] | None,
    counts: list[int],
    seed: int,
    count: int,
    names: list[str] | None = None,
) -> Tensor | None:
    """The class of each image, (count,) int64: `classes` repeated, else in proportion to `counts`.

    `counts` has the number of training images of each class, `names` their names if they have any.
    Returns None for a model without classes (no `counts`). Raises UserError for classes that the
    model does not have.
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
    named = names_of_classes(names, len(counts))
    chosen = torch.tensor([_number(name, named) for name in classes])
    return chosen.repeat(-(-count // len(classes)))[:count]


def labels_for(
    denoiser: Denoiser, about: dict, classes: list[int | str] | None, seed: int, count: int
) -> Tensor | None:
    """`choose_labels` for a model; `about` is what its file says about it."""
    counts = about["class_counts"] if denoiser.conditional else []
    return choose_labels(classes, counts, seed, count, about.get("class_names"))


def _number(wanted: int | str, names: list[str]) -> int:
    """The number of a class. A number in params.yaml is a name first. Raises UserError."""
    if str(wanted) in names:
        return names.index(str(wanted))
    if isinstance(wanted, int) and wanted < len(names):
        return wanted
    shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
    raise UserError(
        f"sample.classes: expected classes among {shown} or from 0 to {len(names) - 1}, "
        f"found {wanted}"
    )
