"""Code that the benchmarks share: MNIST or its shape, changed parameters, and our model.

The model is untrained, or trained for a given number of seconds.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from src import classifier, params, provenance
from src.common import dataset, device, reports
from src.common.allocator import keep_freed_memory
from src.common.dataset import Dataset
from src.common.processes import Processes
from src.diffusion.denoiser import Denoiser
from src.diffusion.schedule import ScheduleConfig
from src.measure import frechet, greys, scores, strokes
from src.measure.extractors import IMAGENET, LoadedExtractor
from src.training import setup
from src.training.trainer import Trainer
from stages.inputs import measuring

TIMED, LONG = 20, 30.0  # stop timing after this many steps or seconds


@dataclass(frozen=True)
class Shape:
    """The shape of images and the number of classes. The defaults are MNIST's."""

    image_size: int = 28
    channels: int = 1
    classes: int = 10


def untrained(p: params.Params, data: Dataset | Shape) -> Denoiser:
    """The model with which the stage `train` begins."""
    schedule = ScheduleConfig(p.schedule, p.timesteps, p.beta_start, p.beta_end, p.cosine_s)
    return setup.untrained(p.model, schedule, data, p.seed)


def on_noise(p: params.Params, shape: Shape, processes: Processes | None = None) -> Trainer:
    """A trainer of an untrained model on noise images. Their content does not affect its speed."""
    random = torch.Generator().manual_seed(0)
    size = (2_000, shape.channels, shape.image_size, shape.image_size)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
    labels = torch.randint(0, shape.classes, (len(images),), generator=random)
    return Trainer(untrained(p, shape), images, labels, p.train, p.seed, device.best(), processes)


@dataclass(frozen=True)
class Trained:
    """The averaged model with its guide, the number of images it saw, and its training time."""

    model: Denoiser
    images: int
    seconds: float


def trained(p: params.Params, data: Dataset, seconds: float) -> Trained:
    """Train for as many steps as fit into `seconds`.

    The first steps of another training, whose time does not count, give this number of steps. The
    learning rate warms up over the default's share of them, and falls to zero at the end.
    """
    keep_freed_memory()  # as the stages do
    steps = max(1, round(seconds / seconds_per_step(_trainer(p, data))))
    warmup = round(p.train.warmup_steps * steps / p.train.steps)
    return trained_for(changed(p, {"train": {"steps": steps, "warmup_steps": warmup}}), data)


def trained_for(p: params.Params, data: Dataset) -> Trained:
    """Train for `train.steps` steps."""
    keep_freed_memory()
    settings, steps = p.train, p.train.steps
    run, guide = _trainer(p, data), None
    started = time.perf_counter()
    for step in run.run():
        if step.step == math.ceil(settings.guide_at * steps):
            guide = copy.deepcopy(run.averaged.unet)
    elapsed = time.perf_counter() - started
    run.averaged.guide = guide
    return Trained(run.averaged.eval(), steps * settings.batch_size, elapsed)


def _trainer(p: params.Params, data: Dataset) -> Trainer:
    return Trainer(untrained(p, data), data.images, data.labels, p.train, p.seed, device.best())


def seconds_per_step(trainer: Trainer) -> float:
    """Median seconds of the trainer's first steps, after one step to warm up."""
    steps = trainer.run()
    next(steps)
    times: list[float] = []
    while len(times) < TIMED and sum(times) < LONG:
        started = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - started)
    steps.close()
    return statistics.median(times)


class Judge:
    """Scores digits by the classifier and the moments of a finished run on MNIST."""

    def __init__(self) -> None:
        self.classifier, _ = classifier.load("models/classifier.safetensors")
        self.digits = frechet.load("reference/digits.npz", classifier.FEATURES)
        self.imagenet = frechet.load("reference/imagenet.npz", IMAGENET.dims)
        self.network = LoadedExtractor(IMAGENET)

    def scores(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Distances, accuracy, broken strokes and shares of grey levels of uint8 images."""
        found = {"fd_imagenet": frechet.distance(self.network.moments(pixels), self.imagenet)}
        found |= scores.quick(self.classifier, pixels, labels, self.digits)
        return found | {"broken": strokes.broken(pixels)} | greys.shares(pixels)


def mnist() -> Dataset:
    """The MNIST data of a finished run.

    Raises UserError if the run used other data, or if classifier, moments and features do not
    belong together.
    """
    path = "arrays/dataset.safetensors"
    data = dataset.load(path)
    provenance.expect(f"{path}, its data set", data.name, "MNIST", "`make run DATA=mnist` gets it")
    measuring(data)
    return data


def kept(path: Path, settings: dict) -> list[dict]:
    """The rows of an earlier result with the same settings."""
    before = json.loads(path.read_text()) if path.exists() else {}
    return before["rows"] if before.items() >= settings.items() else []


def precision() -> str:
    """In what params.yaml trains on this machine's CPU: "bfloat16" or "float32"."""
    return device.precision(params.load().train.precision, torch.device("cpu"))


def write_rows(path: Path, rows: list[dict], *keys: str) -> None:
    """Write `rows` to a result file. Its rows with other values of `keys` stay.

    So a file can hold rows of several processors, each measured on its own.
    """

    def key(row: dict) -> tuple:
        return tuple(row[name] for name in keys)

    measured = {key(row) for row in rows}
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    stay = [row for row in before if key(row) not in measured]
    reports.write_json(path, {"rows": sorted(stay + rows, key=key)})


def changed(p: params.Params, changes: dict) -> params.Params:
    """`p` with changed values. `changes` maps keys to values, and sections to dicts.

    Raises ValueError for values that params.yaml does not allow.
    """
    values = p.model_dump()
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    return params.Params.model_validate(values)
