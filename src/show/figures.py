"""The figures of the report. Each function returns a matplotlib Figure, for `plotting.save`.

They compute nothing: other stages provide the numbers and images.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator
from torch import Tensor

from ..diffusion.schedule import Schedule
from ..plotting import BLUE, COLOURS, COLUMN, ORANGE, PAGE, add_note, show_image

# Columns of numbers in the tables below.
CURVE = ("step", "train_loss", "heldout_loss")
LEVELS = ("t_from", "t_to", "loss")
LONGEST_NAME = 20  # characters of a class that a figure shows
SWEEP = ("evaluations", "images_per_second", "fd_digits", "kid_imagenet", "broken")
FIDELITY = ("log_snr", "steps", "fd_imagenet")
Floor = tuple[float, float]  # mean and standard deviation


def _set_close(figure: Figure) -> None:
    """Leave less space than usual between images."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)  # plotting.py turns it on
    engine.set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)


def _log_values(axis: Axes) -> None:
    """Make the y axis logarithmic, and label it with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="y", which="minor", labelsize=6)


def evenly(count: int, columns: int) -> list[int]:
    """`columns` evenly spread positions from 0 to count - 1, with both ends.

    Positions repeat if `count` is below `columns`.
    """
    return np.linspace(0, count - 1, columns).round().astype(int).tolist()


def reverse_process(
    states: Tensor, timesteps: list[int | None], rows: int, columns: int, note: str
) -> Figure:
    """From noise to image: one image per row, in `columns` states of its trajectory.

    states (S, N, C, H, W) uint8 are in sampling order and end with the finished images.
    `timesteps` (S) has the t of each state, and None for the finished images.
    """
    chosen = evenly(len(states), columns)
    rows = min(rows, states.shape[1])
    side = COLUMN / columns
    figure, axes = plt.subplots(rows, columns, figsize=(COLUMN, side * rows + 0.6), squeeze=False)
    _set_close(figure)
    for j, s in enumerate(chosen):
        name = "$x_0$" if timesteps[s] is None else f"$t={timesteps[s]}$"
        axes[0, j].set_title(name, fontsize=7)
        for i in range(rows):
            show_image(axes[i, j], states[s, i])
    figure.suptitle("The reverse process, from noise to image")
    add_note(figure, note)
    return figure


def samples_by_class(
    images: Tensor, labels: Tensor | None, class_names: list[str], per_class: int, note: str
) -> Figure:
    """The first `per_class` images of each class, one row per class; ten rows without classes.

    images (N, C, H, W) uint8 in the order of their numbers, labels (N,) int64 or None.
    """
    if labels is None:
        rows = [images[i * per_class : (i + 1) * per_class] for i in range(10)]
        names = [""] * 10
    else:
        present = [c for c in range(len(class_names)) if (labels == c).any()]
        rows = [images[labels == c][:per_class] for c in present]
        names = [class_names[c] for c in present]
    size = (COLUMN, COLUMN / (per_class + 0.6) * len(rows) + 0.6)
    figure, axes = plt.subplots(len(rows), per_class, figsize=size, squeeze=False)
    _set_close(figure)
    for name, row, line in zip(names, rows, axes, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, row, strict=False):
            show_image(axis, image)
        beside = {"x": -0.35, "ha": "center"} if len(name) <= 2 else {"x": -0.1, "ha": "right"}
        shown = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        line[0].text(
            y=0.5, s=shown, transform=line[0].transAxes, va="center", parse_math=False, **beside
        )
    kind = "images" if labels is None else "images by class"
    figure.suptitle(f"Generated {kind}, not selected")
    add_note(figure, note)
    return figure


def learning_curve(curve: pd.DataFrame, loss_name: str, timesteps: int, note: str) -> Figure:
    """Training and held-out loss over optimiser steps, and held-out loss by noise level.

    `curve` has columns step, train_loss, heldout_loss and heldout_level_0, _1 ..., least noise
    first.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.5))
    left.plot(
        curve["step"], curve["train_loss"], color=BLUE, label="training (mean since last row)"
    )
    left.plot(
        curve["step"], curve["heldout_loss"], color=ORANGE, label="held-out, averaged weights"
    )
    left.set(ylabel=f"mean squared error of {loss_name}", title="Learning curve")
    levels = [name for name in curve.columns if name.startswith("heldout_level_")]
    for i, name in enumerate(levels):
        start, end = (-(-k * timesteps // len(levels)) for k in (i, i + 1))
        colour = plt.get_cmap("viridis")(0.95 * i / max(len(levels) - 1, 1))
        right.plot(
            curve["step"], curve[name], color=colour, linewidth=1, label=f"$t$ {start} to {end - 1}"
        )
    right.set(title="Held-out, by noise level")
    for axis in (left, right):
        axis.set_xlabel("optimiser step")
        _log_values(axis)
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    left.legend(fontsize=7)
    right.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    add_note(figure, note)
    return figure


def loss_by_noise_level(levels: pd.DataFrame, loss_name: str, note: str) -> Figure:
    """Held-out loss of the finished model by noise level; columns t_from, t_to, loss."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2.3))
    middle = (levels["t_from"] + levels["t_to"]) / 2
    width = levels["t_to"] - levels["t_from"]
    axis.bar(middle, levels["loss"], width=0.9 * width, color=BLUE)
    axis.set(
        xlabel="timestep $t$ (0: clean, right: noise)",
        ylabel=f"mean squared error of {loss_name}",
        title="Held-out loss by noise level",
    )
    add_note(figure, note)
    return figure


def quality_over_steps(sweep: pd.DataFrame, floors: dict[str, Floor | None], note: str) -> Figure:
    """Two distances, time and broken strokes over network evaluations.

    `sweep` has columns sampler, evaluations, images_per_second, fd_digits, kid_imagenet, broken.
    `floors` has mean and standard deviation of both distances for as many real held-out images;
    None if there are too few. Distances that were not measured leave an empty panel.
    """
    figure, axes = plt.subplots(2, 2, figsize=(PAGE, 4.6), sharex=True)
    panels = dict(zip(("fd_digits", "kid_imagenet", "seconds", "broken"), axes.flat, strict=True))
    sweep = sweep.assign(seconds=1000 / sweep["images_per_second"], broken=100 * sweep["broken"])
    colours = itertools.cycle(COLOURS)
    for name, rows in sweep.groupby("sampler", sort=False):
        style = {"color": next(colours), "label": name, "marker": "o", "markersize": 3.5}
        for column, axis in panels.items():
            axis.plot(rows["evaluations"], rows[column], **style)
    for metric, floor in floors.items():
        if floor:
            _draw_floor(panels[metric], *floor)
        if sweep[metric].gt(0).all():
            _log_values(panels[metric])
            low, high = panels[metric].get_ylim()
            if high > 10 * low:  # fewer labels
                panels[metric].yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for axis in panels.values():
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    for axis in axes[1]:
        axis.set_xlabel("network evaluations per image")
    panels["fd_digits"].set(ylabel="fd_digits", title="Distance in the classifier's features")
    panels["kid_imagenet"].set(ylabel="kid_imagenet", title="Distance in ImageNet features")
    panels["seconds"].set(ylabel="seconds per 1,000 images", title="Time")
    panels["broken"].set(ylabel="images in pieces, %", title="Broken strokes")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=7, ncols=3, loc="outside upper center")
    add_note(figure, note)
    return figure


def fidelity_by_noise_level(levels: pd.DataFrame, real: float | None, note: str) -> Figure:
    """fd_imagenet of real images that were noised and denoised, over the log-SNR between.

    `levels` has columns log_snr, steps, fd_imagenet. `real` is the value of the same images before;
    None, like the column, if it was not measured.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 2.5))
    positions = range(len(levels))
    axis.bar(positions, levels["fd_imagenet"], color=BLUE, width=0.6)
    if real is None:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center")
    else:
        axis.axhline(real, color=ORANGE, label=f"the same real images: {real:.1f}")
        axis.legend(fontsize=7, loc="upper left")
        axis.set_ylim(0, 1.25 * max(real, levels["fd_imagenet"].max()))
        for x, value in zip(positions, levels["fd_imagenet"], strict=True):
            axis.text(x, value, f"{value:.1f}", ha="center", va="bottom", fontsize=7)
    pairs = zip(levels["log_snr"], levels["steps"], strict=True)
    axis.set_xticks(positions, [f"{level:.1f}\n{steps:.0f}" for level, steps in pairs])
    axis.set(
        xlabel="log-SNR from which the sampler\ndenoises, and its steps from there",
        ylabel="fd_imagenet",
        title="Fidelity by noise level",
    )
    axis.grid(visible=False, axis="x")
    add_note(figure, note)
    return figure


def _draw_floor(axis: Axes, mean: float, deviation: float) -> None:
    label = "as many real held-out images"
    axis.axhline(mean, color="0.5", linestyle="--", linewidth=1, label=label)
    axis.axhspan(mean - deviation, mean + deviation, color="0.5", alpha=0.15, linewidth=0)


def schedules(by_name: dict[str, Schedule], used: str, note: str) -> Figure:
    """The noise schedules: alpha, sigma and log-SNR over t / T. Marks the one that is `used`."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.5))
    for (name, schedule), colour in zip(by_name.items(), COLOURS, strict=False):
        label = f"{name} (used)" if name == used else name
        time = np.arange(len(schedule)) / len(schedule)
        for axis, table in zip(
            axes, (schedule.alpha, schedule.sigma, schedule.log_snr), strict=True
        ):
            axis.plot(time, table.numpy(), color=colour, label=label)
    axes[0].set(title=r"Signal $\alpha_t$")
    axes[1].set(title=r"Noise $\sigma_t$")
    axes[2].set(title=r"Log-SNR $\log\,\alpha_t^2 / \sigma_t^2$")
    for axis in axes:
        axis.set_xlabel("$t / T$")
    axes[2].legend()
    add_note(figure, note)
    return figure
