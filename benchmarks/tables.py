"""Tables of the docs, in Markdown, and the metrics that several of them show."""

from __future__ import annotations

from collections.abc import Iterable

METRICS = ("fid.fd_imagenet", "fid.fd_digits", "fid.accuracy", "quality.broken")
HEADINGS = [f"`{metric.partition('.')[2]}`" for metric in METRICS]
PERCENT = ("fid.accuracy", "quality.broken")


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """The lines of a table; `rows` have a cell for each of `head`."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score(values: dict, metric: str, decimals: int = 1) -> str:
    """The cell of one of METRICS; empty if `values` lacks it."""
    if metric not in values:
        return ""
    if metric in PERCENT:
        return f"{100 * values[metric]:.{decimals}f} %"
    return f"{values[metric]:.{decimals}f}"


def duration(seconds: float) -> str:
    """The time, such as 90 s, 5 min or 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
