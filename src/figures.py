"""Arrays to pictures: the figures of the report. Each function returns a matplotlib Figure, for `save`.

Holds no sampling and no measuring: what is drawn here was computed elsewhere.
"""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from src.common.files import replacing
from src.diffusion.schedule import Schedule

COLUMN, PAGE = 3.4, 7.0  # inches: widths of a column and of the text in a paper of two columns, where figures keep their size
BLUE, ORANGE = "#2f5d8a", "#d9822b"
COLOURS = (BLUE, ORANGE, "#4f8a4b", "#9b4f8a", "#7a7a7a", "#b8a12f")

plt.rcParams.update(
    {
        "font.size": 8, "axes.titlesize": 8, "figure.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "svg.hashsalt": "fixed",
        "figure.constrained_layout.use": True,
    }
)


def save(figure: Figure, path: str | Path, dpi: int) -> None:
    """Replace the PNG `path`, with the same bytes each time, and close the figure."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(figure)


def _show(axis: plt.Axes, image: Tensor) -> None:
    """Draw a uint8 image (C, H, W), one pixel a square, without axes."""
    pixels = image.permute(1, 2, 0).numpy()
    axis.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_axis_off()


def _note(figure: Figure, text: str) -> None:
    """The line at the foot of every figure that says whose numbers these are."""
    letters = int(figure.get_figwidth() * 72 / 3.2)  # of 6 points, about half as wide as high
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, letters)]
    figure.supxlabel("\n".join(lines), fontsize=6, color="0.4")


def _close(figure: Figure) -> None:
    """Set images close together: half the usual space between them."""
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)


def _log_values(axis: plt.Axes) -> None:
    """A logarithmic axis of values that is labelled with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="y", which="minor", labelsize=6)


def evenly(count: int, columns: int) -> list[int]:
    """`columns` positions out of `count`, spread evenly, first and last included; repeats where there are fewer."""
    return np.linspace(0, count - 1, columns).round().astype(int).tolist()


def reverse_process(states: Tensor, timesteps: list[int | None], rows: int, columns: int, title: str, note: str) -> Figure:
    """From noise to digit: one image a row, `columns` moments of its way.

    states (S, N, C, H, W) uint8, in the order of sampling, the last the finished images; `timesteps` (S) has their t,
    None for the finished ones.
    """
    chosen, rows = evenly(len(states), columns), min(rows, states.shape[1])
    side = COLUMN / columns
    figure, axes = plt.subplots(rows, columns, figsize=(COLUMN, side * rows + 0.6), squeeze=False)
    _close(figure)
    for j, s in enumerate(chosen):
        axes[0, j].set_title("$x_0$" if timesteps[s] is None else f"$t={timesteps[s]}$", fontsize=7)
        for i in range(rows):
            _show(axes[i, j], states[s, i])
    figure.suptitle(title)
    _note(figure, note)
    return figure


def samples_by_class(images: Tensor, labels: Tensor | None, classes: int, per_class: int, title: str, note: str) -> Figure:
    """The first `per_class` images of each class, a row each; ten plain rows where there are no classes.

    images (N, C, H, W) uint8 in order of their numbers, labels (N,) int64 or None.
    """
    if labels is None:
        rows = [images[i * per_class : (i + 1) * per_class] for i in range(10)]
        names = [""] * 10
    else:
        present = [c for c in range(classes) if (labels == c).any()]
        rows, names = [images[labels == c][:per_class] for c in present], [str(c) for c in present]
    size = (COLUMN, COLUMN / (per_class + 0.6) * len(rows) + 0.6)
    figure, axes = plt.subplots(len(rows), per_class, figsize=size, squeeze=False)
    _close(figure)
    for name, row, line in zip(names, rows, axes, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, row, strict=False):
            _show(axis, image)
        line[0].text(-0.35, 0.5, name, transform=line[0].transAxes, ha="center", va="center")
    figure.suptitle(title)
    _note(figure, note)
    return figure


def learning_curve(curve: pd.DataFrame, loss_name: str, timesteps: int, note: str) -> Figure:
    """Training and held-out loss over optimiser steps, and the held-out loss in each range of t.

    Columns step, train_loss, heldout_loss and heldout_level_0, _1 ..., from the least noise to the most.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.5))
    left.plot(curve["step"], curve["train_loss"], color=BLUE, label="training (mean since last row)")
    left.plot(curve["step"], curve["heldout_loss"], color=ORANGE, label="held-out, averaged weights")
    left.set(ylabel=f"mean squared error of {loss_name}", title="Learning curve")
    levels = [name for name in curve.columns if name.startswith("heldout_level_")]
    for i, name in enumerate(levels):
        start, end = (-(-k * timesteps // len(levels)) for k in (i, i + 1))
        colour = plt.get_cmap("viridis")(0.95 * i / max(len(levels) - 1, 1))
        right.plot(curve["step"], curve[name], color=colour, linewidth=1, label=f"$t$ {start} to {end - 1}")
    right.set(title="Held-out, by noise level")
    for axis in (left, right):
        axis.set_xlabel("optimiser step")
        _log_values(axis)
        axis.yaxis.set_minor_locator(plt.LogLocator(subs=(2, 5)))
    left.legend(fontsize=7)
    right.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    _note(figure, note)
    return figure


def loss_by_noise_level(levels: pd.DataFrame, loss_name: str, note: str) -> Figure:
    """Held-out loss of the finished model in ranges of t; columns t_from, t_to, loss."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2.3))
    middle, width = (levels["t_from"] + levels["t_to"]) / 2, levels["t_to"] - levels["t_from"]
    axis.bar(middle, levels["loss"], width=0.9 * width, color=BLUE)
    axis.set(
        xlabel="timestep $t$ (0: clean, right: noise)", ylabel=f"mean squared error of {loss_name}",
        title="Held-out loss by noise level",
    )
    _note(figure, note)
    return figure


def quality_over_steps(sweep: pd.DataFrame, floor: tuple[float, float] | None, note: str) -> Figure:
    """Distance over network evaluations and over time, and broken strokes.

    Columns sampler, evaluations, images_per_second, fd_digits, broken; `floor` is mean and standard deviation of the distance
    of as many real held-out images, where there are enough.
    """
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.8))
    for (name, rows), colour in zip(sweep.groupby("sampler", sort=False), itertools.cycle(COLOURS), strict=False):
        style = {"color": colour, "label": name, "marker": "o", "markersize": 3.5}
        axes[0].plot(rows["evaluations"], rows["fd_digits"], **style)
        axes[1].plot(1000 / rows["images_per_second"], rows["fd_digits"], **style)
        axes[2].plot(rows["evaluations"], 100 * rows["broken"], **style)
    for axis in axes:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    for axis in axes[:2]:
        if floor:
            mean, deviation = floor
            axis.axhline(mean, color="0.5", linestyle="--", linewidth=1, label="as many real held-out images")
            axis.axhspan(mean - deviation, mean + deviation, color="0.5", alpha=0.15, linewidth=0)
        _log_values(axis)
    axes[0].set(xlabel="network evaluations per image", ylabel="fd_digits", title="Quality over evaluations")
    axes[1].set(xlabel="seconds per 1,000 images", ylabel="fd_digits", title="Quality over time")
    axes[2].set(xlabel="network evaluations per image", ylabel="images in pieces, %", title="Broken strokes")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, ncols=3, loc="outside upper center")
    _note(figure, note)
    return figure


def closest_pairs(generated: Tensor, real: Tensor, distances: list[float], note: str, columns: int = 8) -> Figure:
    """Generated images (N, C, H, W) uint8, each above the training image nearest to it, with their distance.

    Shows training images: not for publication where those are not.
    """
    rows = -(-len(generated) // columns)
    figure, axes = plt.subplots(2 * rows, columns, figsize=(0.62 * columns, 1.42 * rows + 0.7), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, distance in enumerate(distances):
        row, column = 2 * (i // columns), i % columns
        _show(axes[row, column], generated[i])
        _show(axes[row + 1, column], real[i])
        axes[row, column].set_title(f"{distance:.2f}", fontsize=7)
    figure.suptitle("Generated (above) and nearest training image (below)")
    _note(figure, note)
    return figure


def schedules(by_name: dict[str, Schedule], used: str, note: str) -> Figure:
    """The noise schedules side by side: what is left of the image, and log-SNR, over t / T."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.5))
    for name, schedule in by_name.items():
        colour = {"linear": BLUE, "cosine": ORANGE}[name]
        label = f"{name} (used)" if name == used else name
        time = np.arange(len(schedule)) / len(schedule)
        left.plot(time, schedule.alpha_bar.numpy(), color=colour, label=label)
        right.plot(time, schedule.log_snr.numpy(), color=colour, label=label)
    left.set(xlabel="$t / T$", ylabel=r"$\bar\alpha_t$ (share of signal power)", title="Signal that remains")
    right.set(xlabel="$t / T$", ylabel=r"$\log\,\bar\alpha_t / (1-\bar\alpha_t)$ (nats)", title="Log signal-to-noise ratio")
    left.legend()
    _note(figure, note)
    return figure
