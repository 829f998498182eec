"""What the benchmarks share: MNIST or its shape, parameters with changes, our model, untrained or trained for so many seconds."""

from __future__ import annotations

import copy
import math
import statistics
import time
from dataclasses import dataclass

import torch

from src import params, provenance
from src.allocator import keep_freed_memory
from src.common import dataset
from src.common.dataset import Dataset
from src.diffusion.denoiser import Denoiser
from src.diffusion.schedule import ScheduleConfig
from src.training.trainer import Trainer
from stages import train

TIMED, LONG = 20, 30.0  # steps that are timed, unless these seconds are over before


@dataclass(frozen=True)
class Shape:
    """All that a model knows of its images: they are MNIST's, unless told otherwise."""

    image_size: int = 28
    channels: int = 1
    classes: int = 10


def untrained(p: params.Params, data: Dataset | Shape) -> Denoiser:
    """The model that the stage `train` begins with."""
    schedule = ScheduleConfig(p.schedule, p.timesteps, p.beta_start, p.beta_end, p.cosine_s)
    return train.untrained(p.model, schedule, data, p.seed)


def on_noise(p: params.Params, shape: Shape) -> Trainer:
    """A trainer of an untrained model on images of noise, for what does not depend on what they show."""
    random = torch.Generator().manual_seed(0)
    size = (2_000, shape.channels, shape.image_size, shape.image_size)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
    labels = torch.randint(0, shape.classes, (len(images),), generator=random)
    return Trainer(untrained(p, shape), images, labels, p.train, p.seed, "cpu")


@dataclass(frozen=True)
class Trained:
    """The averaged model, with its guide, how many images it saw, and in how many seconds."""

    model: Denoiser
    images: int
    seconds: float


def trained(p: params.Params, data: Dataset, seconds: float) -> Trained:
    """A training of as many steps as fit into `seconds`, by the time that the first ones of another take, which does not count.

    The learning rate falls to zero within these steps, and rises in the same share of them as by default.
    """
    keep_freed_memory()  # as stages do

    def trainer(settings: params.Train) -> Trainer:
        return Trainer(untrained(p, data), data.images, data.labels, settings, p.seed, "cpu")

    first = trainer(p.train).run()
    next(first)
    took: list[float] = []
    while len(took) < TIMED and sum(took) < LONG:
        started = time.perf_counter()
        next(first)
        took.append(time.perf_counter() - started)
    first.close()
    steps = max(1, round(seconds / statistics.median(took)))
    warmup = round(p.train.warmup_steps * steps / p.train.steps)
    settings = p.train.model_copy(update={"steps": steps, "warmup_steps": warmup})
    run, guide, started = trainer(settings), None, time.perf_counter()
    for step in run.run():
        if step.step == math.ceil(settings.guide_at * steps):
            guide = copy.deepcopy(run.averaged.unet)
    took_all = time.perf_counter() - started
    run.averaged.guide = guide
    return Trained(run.averaged.eval(), steps * settings.batch_size, took_all)


def mnist() -> Dataset:
    """The MNIST of a finished run, whose classifier, moments and features belong together. Raises UserError otherwise."""
    data, real = dataset.load("arrays/dataset.safetensors"), provenance.reference("reference/about.json")
    provenance.expect("arrays/dataset.safetensors, its data set", data.name, "MNIST", "`make run DATA=mnist` gets it")
    provenance.check_measured(
        real, "models/classifier.safetensors", "reference/digits.npz", "arrays/features.safetensors", data
    )
    return data


def changed(p: params.Params, changes: dict) -> params.Params:
    """`p` with other values of some keys; sections are dicts of them. Raises ValueError for what params.yaml may not have."""
    values = p.model_dump()
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    return params.Params.model_validate(values)
