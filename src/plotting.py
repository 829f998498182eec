"""The style that all matplotlib figures share, and how to save them with equal bytes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .common.files import replacing

# Widths in inches of one column and of the whole text in a two-column paper.
COLUMN, PAGE = 3.4, 7.0
BLUE, ORANGE = "#2f5d8a", "#d9822b"
COLOURS = (BLUE, ORANGE, "#4f8a4b", "#9b4f8a", "#7a7a7a", "#b8a12f")

plt.rcParams.update(
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "figure.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "svg.hashsalt": "fixed",
        "figure.constrained_layout.use": True,
    }
)


def save(figure: Figure, path: str | Path, dpi: int) -> None:
    """Write the figure to the PNG `path` and close it. Equal figures give equal bytes."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(figure)


def show_image(axis: Axes, image: Tensor) -> None:
    """Draw a uint8 image (C, H, W) without axes. Each pixel is a square."""
    pixels = image.permute(1, 2, 0).numpy()
    if pixels.shape[-1] == 1:
        pixels = pixels.squeeze(-1)
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_axis_off()


def add_note(figure: Figure, text: str) -> None:
    """Write `text` at the foot of the figure: data set, model and settings."""
    letters = int(figure.get_figwidth() * 72 / 3.2)  # a letter of 6 points is 3.2 points wide
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, letters)]
    figure.supxlabel("\n".join(lines), fontsize=6, color="0.4", parse_math=False)
