"""`python -m benchmarks.minutes`: how good is a training of so many minutes?

It runs no training. It reads the committed run, and the experiments that these commands make:

    dvc exp run --queue -S train.steps=400,800,1500,3000,6000 fid quality
    make queue

Each is a whole training: its learning rate falls to zero. The minutes follow from the speed in
benchmarks/results/processors.json. Writes benchmarks/results/minutes.json and
docs/pictures/minutes.png. `--table` reads no experiments: it prints and draws the
committed result.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from benchmarks import processors
from benchmarks.schedules import at
from benchmarks.tables import HEADINGS, METRICS, score, table
from src.common import reports
from src.plotting import BLUE, COLUMN, ORANGE, save
from src.show.commits import Commit, experiment_refs
from tools.compare import group, parse
from tools.machine import describe

RESULT = Path("benchmarks/results/minutes.json")
PICTURE = Path("docs/pictures/minutes.png")
STEPS = (400, 800, 1500, 3000, 6000)


def measured() -> list[dict]:
    """The metrics of each training, the shortest first."""
    commits = [Commit(ref) for ref in experiment_refs()]
    committed = Commit("HEAD")
    schedule, full = committed.parameters["schedule"], committed.parameters["train"]["steps"]
    rows = []
    for steps in STEPS:
        name = f"schedule={schedule} train.steps={steps} seed=0"
        one = group(name, parse(name), commits)
        rows.append({"steps": steps} | {metric: one.values(metric)[0] for metric in METRICS})
    rows.append({"steps": full} | {metric: at(committed, metric) for metric in METRICS})
    return rows


def step_seconds() -> dict[str, float]:
    """Seconds of a training step on each processor that was measured."""
    return {
        processors.kind(row["machine"]): statistics.median(
            one["training_step"] for one in row["rounds"]
        )
        for row in json.loads(processors.RESULT.read_text())["rows"]
    }


def markdown(result: dict) -> str:
    """The table in docs/results.md."""
    speeds = step_seconds()
    head = ["steps", *(f"minutes, {name}" for name in speeds), *HEADINGS]
    lines = []
    for row in result["rows"]:
        durations = [f"{row['steps'] * seconds / 60:.1f}" for seconds in speeds.values()]
        scores = [score(row, metric) for metric in METRICS]
        lines.append([f"{row['steps']:,}", *durations, *scores])
    return table(head, lines)


def draw(rows: list[dict], real: float) -> None:
    """fd_imagenet over the minutes of both kinds of processors."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2.9))
    values = [row["fid.fd_imagenet"] for row in rows]
    for (name, seconds), colour in zip(step_seconds().items(), (BLUE, ORANGE), strict=True):
        durations = [row["steps"] * seconds / 60 for row in rows]
        axis.loglog(durations, values, "o-", color=colour, label=name, markersize=4)
    axis.axhline(real, color="0.5", linestyle="--", label="real test digits")
    ticks = (1, 2, 5, 10, 20, 50, 100)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    heights = (4, 10, 20, 50, 100)
    axis.set_yticks(heights, [str(height) for height in heights])
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_formatter(NullFormatter())
    axis.set(xlabel="minutes of training on two cores", ylabel="fd_imagenet")
    axis.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1))
    save(figure, PICTURE, 200)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="show the committed result")
    if not parser.parse_args().table:
        reports.write_json(RESULT, {"rows": measured()} | describe("torch"))
    result = json.loads(RESULT.read_text())
    draw(result["rows"], at(Commit("HEAD"), "fid.fd_imagenet_floor_heldout"))
    print(markdown(result))


if __name__ == "__main__":
    main()
