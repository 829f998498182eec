"""The table of the experiments in this repository.

It reads parameters and metrics from the experiments' commits. So it works inside a stage, without
DVC's lock and cache. `dvc exp show` shows everything; this table shows only what differs.
"""

from __future__ import annotations

import json

import pandas as pd

from .commits import Commit, experiment_refs, flat, git, load_yaml

METRICS = (
    "fid.fd_imagenet",
    "fid.fd_digits",
    "fid.accuracy",
    "quality.precision",
    "quality.recall",
    "quality.broken",
    "bound.bits_per_dim",
    "train.heldout_loss",
)


def table(metrics: tuple[str, ...] = METRICS) -> pd.DataFrame:
    """One row per experiment: its name, the parameters that differ, and `metrics`.

    A parameter has a column if any experiment's value differs from the last commit. These columns
    sort the rows. The data set has a column if the experiments use different ones. A metric is
    missing if its stage did not run with the experiment's parameters: another experiment may have
    left the number in the commit.
    """
    rows, parameters = [], []
    for ref in experiment_refs():
        commit = Commit(ref)
        parameters.append(flat(commit.parameters))
        row: dict[str, object] = {
            "experiment": ref.rsplit("/", 1)[1],
            "data": commit.metric("metrics/data.json", "dataset"),
        }
        for metric, heading in headings(metrics).items():
            name, _, key = metric.partition(".")
            row[heading] = commit.metric(f"metrics/{name}.json", key)
        rows.append(row)
    frame = pd.DataFrame(rows, columns=["experiment", "data", *headings(metrics).values()])
    if frame["data"].nunique(dropna=False) < 2:
        frame = frame.drop(columns="data")
    differing = _differing(parameters)
    for position, key in enumerate(differing, start=1):
        cells = [str(values[key]) if key in values else None for values in parameters]
        frame.insert(position, key, pd.Series(cells, dtype=object))
    order = sorted(range(len(frame)), key=lambda row: _sort_key(parameters[row], differing))
    return frame.iloc[order].reset_index(drop=True)


def _differing(parameters: list[dict[str, object]]) -> list[str]:
    """The keys with a value, in any experiment, that differs from the last commit."""
    baseline = flat(load_yaml(git("show", "HEAD:params.yaml") or "{}"))
    keys = dict.fromkeys(key for values in parameters for key in values)
    return [
        key
        for key in keys
        if any(values.get(key, ...) != baseline.get(key, ...) for values in parameters)
    ]


def _sort_key(values: dict[str, object], keys: list[str]) -> list[tuple]:
    """Sort key of a row: numbers by value, then everything else by its text."""
    cells = [values.get(key) for key in keys]
    return [(0, cell, "") if isinstance(cell, int | float) else (1, 0, str(cell)) for cell in cells]


def headings(metrics: tuple[str, ...]) -> dict[str, str]:
    """The heading of each metric: its key, or file.key if two metrics have the same key."""
    keys = [metric.partition(".")[2] for metric in metrics]
    return {
        metric: key if keys.count(key) == 1 else metric
        for metric, key in zip(metrics, keys, strict=True)
    }


def unknown(metrics: tuple[str, ...]) -> list[str]:
    """The metrics that the last commit does not have."""
    missing = []
    for metric in metrics:
        name, _, key = metric.partition(".")
        text = git("show", f"HEAD:metrics/{name}.json")
        if not text or key not in json.loads(text):
            missing.append(metric)
    return missing


def shown(value: object) -> str:
    """The text of a cell: numbers with four digits, "" for a missing value."""
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(frame: pd.DataFrame, metrics: tuple[str, ...] = METRICS) -> str:
    """The table as Markdown. A line below it has the parameters that are equal in all rows."""
    kept = {"experiment", *headings(metrics).values()}
    same = []
    if len(frame) > 1:
        others = [name for name in frame.columns if name not in kept]
        same = [name for name in others if frame[name].nunique(dropna=False) == 1]
    below = ", ".join(f"`{name}` {frame[name].iloc[0]}" for name in same)
    frame = frame.drop(columns=same)
    lines = ["| " + " | ".join(frame.columns) + " |"]
    lines.append("| " + " | ".join("---" for _ in frame.columns) + " |")
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines) + "\n" + (f"\nIn all of them: {below}.\n" if below else "")
