"""`python -m benchmarks.growth [--rounds 5]`: how the cost of training and of sampling grows.

From the network of params.yaml, on MNIST's sizes, one thing is changed at a time: model width, side of the images (with attention
at the coarsest level, as in the default), batch, threads, and of sampling steps and count of images. Each setting is timed for a
few training steps and for one draw of images, settings taking turns; medians over the rounds. Operations are counted by torch,
those of a training step as three times its forward pass. Fitted is y = c x^a: `a` is the slope of a straight line through the
logarithms.

Writes benchmarks/results/growth.json and docs/pictures/growth.png. With --projects it only counts the operations of what
docs/cost.md is about, and prints what they would come to at the rates measured before.
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
from matplotlib.ticker import LogLocator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe
from benchmarks.own import Shape, changed, on_noise, untrained
from src import drawing, figures, params
from src.allocator import keep_freed_memory
from src.common import reports

RESULT, PICTURE = Path("benchmarks/results/growth.json"), Path("docs/pictures/growth.png")
CLASSES = Shape().classes


@dataclass
class Setting:
    """One point of the figure, and what was measured there."""

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


@dataclass
class Project:
    """Something larger: a network in our parameters, how many images there are, are seen in training, and are drawn.

    None stands for what params.yaml says. `rates` says which point of the figure each is taken to be as fast as.
    """

    name: str
    side: int
    channels: int
    model: dict
    images: float
    seen: float | None
    drawn: float | None
    rates: dict[str, tuple[str, int]]


DEFAULT_RATES = {"train": ("batch", 128), "sample": ("images", 2000)}
WIDE_RATES = {"train": ("model width", 128), "sample": ("model width", 128)}
EDM = {"patch_size": 1, "base_channels": 128, "multipliers": [1, 2, 2, 2], "res_blocks": 4, "attention_resolutions": [16]}
PROJECTS = [
    Project("the default: MNIST", 28, 1, {}, 6e4, None, None, DEFAULT_RATES),
    Project("faces of 64x64, network as of EDM", 64, 3, EDM, 7e4, 2e8, 50_000, WIDE_RATES),
    Project("the same with patches of 2x2", 64, 3, EDM | {"patch_size": 2}, 7e4, 2e8, 50_000, WIDE_RATES),
    Project("a billion digits, each seen once, as many drawn", 28, 1, {}, 1e9, 1e9, 1e9, DEFAULT_RATES),
]
GPU_TFLOPS = 100  # assumed, of a GPU at such a network: a tenth of what an H100's data sheet names


def projected(p: params.Params) -> list[dict]:
    """Parameters, operations and bytes of the projects, and the hours that they would take at rates measured or assumed."""
    points, default = json.loads(RESULT.read_text())["points"], untrained(p, Shape())
    evaluations = drawing.Sampler.of(p.sample, default).evaluations(default)
    rows = []
    for project in PROJECTS:
        unet = untrained(changed(p, {"model": project.model}), Shape(project.side, project.channels)).unet
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            unet(torch.zeros(1, project.channels, project.side, project.side), torch.zeros(1, dtype=torch.long))
        weights, gflop = sum(weight.numel() for weight in unet.parameters()), counter.get_total_flops() / 1e9
        seen, drawn = project.seen or p.train.steps * p.train.batch_size, project.drawn or p.sample.count
        work, rate = {"train": 3 * gflop * seen, "sample": gflop * evaluations * drawn}, {}
        for what, (axis, x) in project.rates.items():
            point = next(point for point in points if (point["axis"], point["x"]) == (axis, x))
            rate[what] = point["gflop"][what] / point["seconds"][what]
        rows.append({
            "project": project.name, "parameters": weights, "gflop_per_evaluation": gflop,
            "train_pflop": work["train"] / 1e6, "sample_pflop": work["sample"] / 1e6,
            "train_hours_here": work["train"] / rate["train"] / 3600, "sample_hours_here": work["sample"] / rate["sample"] / 3600,
            "train_hours_on_the_assumed_gpu": work["train"] / 1e3 / GPU_TFLOPS / 3600,
            "sample_hours_on_the_assumed_gpu": work["sample"] / 1e3 / GPU_TFLOPS / 3600,
            "checkpoint_mb": 6 * 4 * weights / 1e6,
            "arrays_gb": project.images * project.channels * project.side**2 / 1e9,
        })
    return rows


class Work:
    """A model of one setting, in training and in sampling."""

    def __init__(self, setting: Setting, p: params.Params):
        self.setting, self.p = setting, p
        model = {"base_channels": setting.width, "attention_resolutions": [setting.side // 4]}
        p = changed(p, {"model": model, "train": {"batch_size": setting.batch}})
        self.trainer = on_noise(p, Shape(setting.side))
        self.steps = self.trainer.run()
        self.sampler = drawing.Sampler("dpmsolver++", setting.steps, "logsnr")

    def train(self) -> None:
        next(self.steps)

    def sample(self) -> None:
        count = self.setting.images
        batch = min(self.p.sample.batch_size, count // 2)  # a batch for each core
        numbers = drawing.parts(count, batch)
        for _ in drawing.batches(self.trainer.averaged, self.sampler, 0, torch.arange(count) % CLASSES, numbers):
            pass

    def evaluate(self) -> None:
        with torch.inference_mode():
            self.trainer.averaged.predict_x0(torch.randn(8, 1, self.setting.side, self.setting.side), 500, torch.arange(8))

    def measure(self) -> None:
        torch.set_num_threads(self.setting.threads)
        for name, repeats in (("train", 3), ("sample", 1)):
            work = getattr(self, name)
            work()  # warms up
            started = time.perf_counter()
            for _ in range(repeats):
                work()
            self.setting.seconds[name].append((time.perf_counter() - started) / repeats)

    def count(self) -> None:
        """Operations of a training step, but for the optimiser's, and of all evaluations of a draw."""
        with FlopCounterMode(display=False) as counter:
            self.evaluate()
        one = counter.get_total_flops() / 8 / 1e9
        self.setting.gflop = {"train": 3 * one * self.setting.batch, "sample": one * self.setting.steps * self.setting.images}


def exponent(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def picture(points: list[dict], exponents: dict[str, dict[str, float]]) -> figures.Figure:
    figure, grid = figures.plt.subplots(2, 3, figsize=(figures.PAGE, 4.4))
    for axis, name in zip(grid.flat, exponents, strict=True):
        mine = [point for point in points if point["axis"] == name]
        for what, colour in (("train", figures.BLUE), ("sample", figures.ORANGE)):
            if what in exponents[name]:
                label = f"{'a training step' if what == 'train' else 'drawing'}: $x^{{{exponents[name][what]:.2f}}}$"
                y = [point["seconds"][what] for point in mine]
                axis.plot([point["x"] for point in mine], y, marker="o", markersize=3.5, color=colour, label=label)
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        axis.set_xticks([point["x"] for point in mine], [f"{point['x']:,}" for point in mine])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="y", which="minor", labelsize=5)
        axis.legend(fontsize=6)
    figure.supxlabel("medians of rounds that took turns; the network of params.yaml, 28x28, but for what is named", fontsize=6)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--projects", action="store_true")
    asked = parser.parse_args()
    if asked.projects:
        print(pd.DataFrame(projected(params.load())).T.to_string())
        return
    keep_freed_memory()  # as stages do
    rounds, about = asked.rounds, describe("torch")
    p, threads = params.load(), torch.get_num_threads()
    works = [Work(setting, p) for setting in SETTINGS]
    for work in works:
        work.count()
    for i in range(rounds):
        for work in works:
            work.measure()
        print(f"round {i + 1} of {rounds}", flush=True)
    torch.set_num_threads(threads)

    axes: dict[str, list[Setting]] = {}
    for setting in SETTINGS:
        axes.setdefault(setting.axis, []).append(setting)
    exponents: dict[str, dict[str, float]] = {}
    for name, settings in axes.items():
        for what in {"sampling steps": ["sample"], "images": ["sample"], "batch": ["train"]}.get(name, ["train", "sample"]):
            x = [setting.x for setting in settings]
            exponents.setdefault(name, {})[what] = exponent(x, [statistics.median(s.seconds[what]) for s in settings])
    points = [
        vars(s) | {"seconds": {what: statistics.median(s.seconds[what]) for what in exponents[s.axis]}} for s in SETTINGS
    ]
    found = {"exponents": exponents, "points": points, "rounds": rounds} | about
    reports.write_json(RESULT, found)
    print(json.dumps(exponents, indent=2))
    figures.save(picture(points, exponents), PICTURE, 200)


if __name__ == "__main__":
    main()
