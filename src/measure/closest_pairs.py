"""The figure of generated images above their nearest training images."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from ..plotting import add_note, show_image


def closest_pairs(
    generated: Tensor, real: Tensor, distances: list[float], note: str, columns: int = 8
) -> Figure:
    """Draw each `generated` image above its nearest `real` image, with their distance.

    Both are uint8 (N, C, H, W). The figure shows training images: publish it only if you may
    publish those.
    """
    rows = -(-len(generated) // columns)
    size = (0.62 * columns, 1.42 * rows + 0.7)
    figure, axes = plt.subplots(2 * rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, distance in enumerate(distances):
        row, column = 2 * (i // columns), i % columns
        show_image(axes[row, column], generated[i])
        show_image(axes[row + 1, column], real[i])
        axes[row, column].set_title(f"{distance:.2f}", fontsize=7)
    figure.suptitle("Generated (above) and nearest training image (below)")
    add_note(figure, note)
    return figure
