"""`python -m benchmarks.growth [--rounds 5] [--projects]`: how training and sampling costs grow.

Starts from the network of params.yaml on MNIST's sizes and changes one thing at a time: model
width, side of the images (with attention at the coarsest level, as in the default), batch, threads,
sampling steps, and count of images. Times each setting for a few training steps and one draw of
images; settings take turns; medians over the rounds. torch counts the operations; a training step
counts as three forward passes. The fit is y = c x^a: `a` is the slope of a straight line through
the logarithms.

Writes benchmarks/results/growth.json and docs/pictures/growth.png. With --projects it only counts
the operations of the projects of docs/cost.md, and prints their cost at the rates of growth.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.own import Shape, changed, on_noise, untrained
from src import drawing, params, plotting
from src.common import reports
from src.common.allocator import keep_freed_memory
from src.diffusion.samplers import Sampler
from src.diffusion.unet import UNet
from tools.machine import describe

RESULT, PICTURE = Path("benchmarks/results/growth.json"), Path("docs/pictures/growth.png")
CLASSES = Shape().classes
NOTE = "medians of rounds that took turns; the network of params.yaml, 28x28, but for what is named"


@dataclass
class Setting:
    """One point of the figure, and its measurements."""

    axis: str
    x: int
    width: int = 32
    side: int = 28
    batch: int = 128
    threads: int = 2
    steps: int = 4
    images: int = 500
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"train": [], "sample": []})
    gflop: dict[str, float] = field(default_factory=dict)


SETTINGS = [
    *(Setting("model width", x, width=x, images=250) for x in (16, 32, 64, 128)),
    *(Setting("side of the image", x, side=x, batch=32, images=64) for x in (28, 56, 112)),
    *(Setting("batch", x, batch=x) for x in (32, 64, 128, 256, 512)),
    *(Setting("threads", x, threads=x) for x in (1, 2)),
    *(Setting("sampling steps", x, steps=x) for x in (4, 8, 16)),
    *(Setting("images", x, images=x) for x in (250, 500, 1000, 2000)),
]
# What grows along an axis, where it is not both.
GROWING = {"sampling steps": ["sample"], "images": ["sample"], "batch": ["train"]}


@dataclass
class Project:
    """Something larger: a network in our parameters, and numbers of images.

    None stands for the value of params.yaml. `rates` names the point of the figure that each kind
    of work is taken to be as fast as.
    """

    name: str
    side: int
    channels: int
    model: dict
    images: float  # in the data set
    seen: float | None  # in training
    drawn: float | None
    rates: dict[str, tuple[str, int]]


DEFAULT_RATES = {"train": ("batch", 128), "sample": ("images", 2000)}
WIDE_RATES = {"train": ("model width", 128), "sample": ("model width", 128)}
EDM = {
    "patch_size": 1,
    "base_channels": 128,
    "multipliers": [1, 2, 2, 2],
    "res_blocks": 4,
    "attention_resolutions": [16],
}
EDM_PATCHES = EDM | {"patch_size": 2}
BILLION = "a billion digits, each seen once, as many drawn"
PROJECTS = [
    Project("the default: MNIST", 28, 1, {}, 6e4, None, None, DEFAULT_RATES),
    Project("faces of 64x64, network as of EDM", 64, 3, EDM, 7e4, 2e8, 50_000, WIDE_RATES),
    Project("the same with patches of 2x2", 64, 3, EDM_PATCHES, 7e4, 2e8, 50_000, WIDE_RATES),
    Project(BILLION, 28, 1, {}, 1e9, 1e9, 1e9, DEFAULT_RATES),
]
# Assumed, of a GPU at such a network: a tenth of what an H100's data sheet names.
GPU_TFLOPS = 100


def projected(p: params.Params) -> list[dict]:
    """Parameters, operations, bytes and hours of the projects.

    The hours are at the rates of RESULT, and of the assumed GPU.
    """
    points = json.loads(RESULT.read_text())["points"]
    default = untrained(p, Shape())
    evaluations = drawing.fitted(p.sample.sampler, default).evaluations(default)
    return [project_costs(project, p, points, evaluations) for project in PROJECTS]


def project_costs(project: Project, p: params.Params, points: list[dict], evaluations: int) -> dict:
    """A project's costs, with so many network `evaluations` for an image that it draws."""
    shape = Shape(project.side, project.channels)
    unet = untrained(changed(p, {"model": project.model}), shape).unet
    weights = sum(weight.numel() for weight in unet.parameters())
    gflop = gflop_per_evaluation(unet, shape)
    seen = project.seen or p.train.steps * p.train.batch_size
    drawn = project.drawn or p.sample.count
    work = {"train": 3 * gflop * seen, "sample": gflop * evaluations * drawn}
    rate = {}
    for kind, (axis, x) in project.rates.items():
        point = next(point for point in points if (point["axis"], point["x"]) == (axis, x))
        rate[kind] = point["gflop"][kind] / point["seconds"][kind]
    return {
        "project": project.name,
        "parameters": weights,
        "gflop_per_evaluation": gflop,
        "train_pflop": work["train"] / 1e6,
        "sample_pflop": work["sample"] / 1e6,
        "train_hours_here": work["train"] / rate["train"] / 3600,
        "sample_hours_here": work["sample"] / rate["sample"] / 3600,
        "train_hours_on_the_assumed_gpu": work["train"] / 1e3 / GPU_TFLOPS / 3600,
        "sample_hours_on_the_assumed_gpu": work["sample"] / 1e3 / GPU_TFLOPS / 3600,
        "checkpoint_mb": 6 * 4 * weights / 1e6,
        "arrays_gb": project.images * project.channels * project.side**2 / 1e9,
    }


def gflop_per_evaluation(unet: UNet, shape: Shape) -> float:
    image = torch.zeros(1, shape.channels, shape.image_size, shape.image_size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        unet(image, torch.zeros(1, dtype=torch.long))
    return counter.get_total_flops() / 1e9


class Work:
    """A model of one setting, in training and in sampling."""

    def __init__(self, setting: Setting, p: params.Params):
        self.setting, self.p = setting, p
        model = {"base_channels": setting.width, "attention_resolutions": [setting.side // 4]}
        p = changed(p, {"model": model, "train": {"batch_size": setting.batch}})
        self.trainer = on_noise(p, Shape(setting.side))
        self.steps = self.trainer.run()
        self.sampler = Sampler("dpmsolver++", setting.steps, "logsnr")

    def train(self) -> None:
        next(self.steps)

    def sample(self) -> None:
        count = self.setting.images
        batch = min(self.p.sample.batch_size, count // 2)  # a batch for each core
        labels, parts = torch.arange(count) % CLASSES, drawing.parts(count, batch)
        for _ in drawing.batches(self.trainer.averaged, self.sampler, 0, labels, parts):
            pass

    def evaluate(self) -> None:
        images = torch.randn(8, 1, self.setting.side, self.setting.side)
        with torch.inference_mode():
            self.trainer.averaged.predict_x0(images, 500, torch.arange(8))

    def measure(self) -> None:
        """Time training steps and a draw once more."""
        torch.set_num_threads(self.setting.threads)
        for kind, repeats in (("train", 3), ("sample", 1)):
            work = getattr(self, kind)
            work()  # warms up
            started = time.perf_counter()
            for _ in range(repeats):
                work()
            self.setting.seconds[kind].append((time.perf_counter() - started) / repeats)

    def count(self) -> None:
        """Count the operations of a training step and of all evaluations of a draw.

        Leaves out the optimiser's.
        """
        with FlopCounterMode(display=False) as counter:
            self.evaluate()
        one = counter.get_total_flops() / 8 / 1e9
        setting = self.setting
        setting.gflop = {
            "train": 3 * one * setting.batch,
            "sample": one * setting.steps * setting.images,
        }


def exponent(x: list[float], y: list[float]) -> float:
    """The slope of the line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fit(settings: list[Setting]) -> dict[str, dict[str, float]]:
    """Exponents of the median times, for each axis and kind of work that grows along it."""
    axes: dict[str, list[Setting]] = {}
    for setting in settings:
        axes.setdefault(setting.axis, []).append(setting)
    exponents: dict[str, dict[str, float]] = {}
    for name, of_axis in axes.items():
        x = [setting.x for setting in of_axis]
        for kind in GROWING.get(name, ["train", "sample"]):
            seconds = [statistics.median(setting.seconds[kind]) for setting in of_axis]
            exponents.setdefault(name, {})[kind] = exponent(x, seconds)
    return exponents


def picture(points: list[dict], exponents: dict[str, dict[str, float]]) -> Figure:
    """A panel for each axis."""
    figure, grid = plt.subplots(2, 3, figsize=(plotting.PAGE, 4.4))
    for axis, name in zip(grid.flat, exponents, strict=True):
        of_axis = [point for point in points if point["axis"] == name]
        draw_panel(axis, name, of_axis, exponents[name])
    figure.supxlabel(NOTE, fontsize=6)
    return figure


def draw_panel(axis: Axes, name: str, points: list[dict], exponents: dict[str, float]) -> None:
    kinds = (("train", "a training step", plotting.BLUE), ("sample", "drawing", plotting.ORANGE))
    for kind, title, colour in kinds:
        if kind in exponents:
            label = f"{title}: $x^{{{exponents[kind]:.2f}}}$"
            x, y = zip(*((point["x"], point["seconds"][kind]) for point in points), strict=True)
            axis.plot(x, y, marker="o", markersize=3.5, color=colour, label=label)
    axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
    axis.set_xticks([point["x"] for point in points], [f"{point['x']:,}" for point in points])
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="y", which="minor", labelsize=5)
    axis.legend(fontsize=6)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--projects", action="store_true")
    arguments = parser.parse_args()
    if arguments.projects:
        print(pd.DataFrame(projected(params.load())).T.to_string())
        return
    keep_freed_memory()  # as stages do
    about, p, threads = describe("torch"), params.load(), torch.get_num_threads()
    works = [Work(setting, p) for setting in SETTINGS]
    for work in works:
        work.count()
    for i in range(arguments.rounds):
        for work in works:
            work.measure()
        print(f"round {i + 1} of {arguments.rounds}", flush=True)
    torch.set_num_threads(threads)
    exponents = fit(SETTINGS)
    points = []
    for setting in SETTINGS:
        kinds = exponents[setting.axis]
        medians = {kind: statistics.median(setting.seconds[kind]) for kind in kinds}
        points.append(vars(setting) | {"seconds": medians})
    result = {"exponents": exponents, "points": points, "rounds": arguments.rounds} | about
    reports.write_json(RESULT, result)
    print(json.dumps(exponents, indent=2))
    plotting.save(picture(points, exponents), PICTURE, 200)


if __name__ == "__main__":
    main()
