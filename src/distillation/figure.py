"""The figure of quality over network evaluations, for students and their teacher."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..plotting import BLUE, ORANGE, PAGE, add_note

PANELS = {
    "fd_imagenet": "Distance in ImageNet features",
    "fd_digits": "Distance in the classifier's features",
    "broken": "Images in pieces, %",
    "accuracy": "Not recognised as their class, %",
}


def quality_over_evaluations(rows: pd.DataFrame, note: str) -> Figure:
    """`rows` has columns model (student or teacher), evaluations, and one for each panel.

    A metric that was not measured is None, and its panel stays empty.
    """
    figure, axes = plt.subplots(2, 2, figsize=(PAGE, 4.4), sharex=True)
    percent = {"broken": 100.0, "accuracy": -100.0}
    for (metric, title), axis in zip(PANELS.items(), axes.flat, strict=True):
        shift = 100.0 if metric == "accuracy" else 0.0
        factor = percent.get(metric, 1.0)
        for (model, group), colour in zip(rows.groupby("model"), (ORANGE, BLUE), strict=False):
            values = shift + factor * group[metric].astype(float)
            axis.plot(group["evaluations"], values, "o-", color=colour, label=model, markersize=4)
        axis.set(title=title, xscale="log", yscale="linear" if metric in percent else "log")
        evaluations = sorted(set(rows["evaluations"]))
        axis.set_xticks(evaluations, [str(count) for count in evaluations])
        axis.xaxis.set_minor_formatter(NullFormatter())
        if metric in percent:
            axis.set_ylim(bottom=0)
        else:
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter("{x:g}")
    for axis in axes[1]:
        axis.set_xlabel("network evaluations per image")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    add_note(figure, note)
    return figure
