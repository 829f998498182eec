"""`python -m benchmarks.schedules`: which schedule is better, over four training seeds?

It runs no training. It reads the experiments that these commands make:

    dvc exp run --queue -S schedule=linear,cosine,flow -S seed=1,2,3,4 -S train.steps=1500 \\
        fid quality
    dvc exp run --queue -S schedule=flow fid quality
    make queue

Writes benchmarks/results/schedules.json: each metric by seed, what `make compare` concludes, and
the metrics of two trainings at full length: that of flow, and the committed run.
`--table` prints the committed result, as in docs/results.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path

from benchmarks.tables import HEADINGS, METRICS, PERCENT, score, table
from src.common import reports
from src.show.commits import Commit, experiment_refs
from tools.compare import check_comparable, conclusion, group, parse
from tools.machine import describe

RESULT = Path("benchmarks/results/schedules.json")
SCHEDULES = ("linear", "cosine", "flow")
STEPS = 1500
FLOW_AT_FULL_LENGTH = "schedule=flow train.steps=10000 seed=0"


def at(commit: Commit, metric: str) -> float:
    """The value of a metric such as "fid.accuracy" at a commit."""
    file, _, key = metric.partition(".")
    value = commit.metric(f"metrics/{file}.json", key)
    assert isinstance(value, float), f"{metric} is not measured at {commit.name}"
    return value


def measured() -> dict:
    """Values by schedule, metric and seed, and conclusions by pair of schedules and metric."""
    commits = [Commit(ref) for ref in experiment_refs()]
    groups = []
    for schedule in SCHEDULES:
        name = f"schedule={schedule} train.steps={STEPS}"
        groups.append(group(name, parse(name), commits))
    values = {
        schedule: {metric: one.values(metric) for metric in METRICS}
        for schedule, one in zip(SCHEDULES, groups, strict=True)
    }
    conclusions = {}
    for (first, a), (second, b) in itertools.combinations(zip(SCHEDULES, groups, strict=True), 2):
        check_comparable(a, b, {"schedule"})
        for metric in METRICS:
            text = conclusion(metric, values[first][metric], values[second][metric])
            words = {"A": first, "B": second}
            text = " ".join(words.get(word, word) for word in text.split())
            conclusions[f"{first}, {second}: {metric}"] = text
    flow = group(FLOW_AT_FULL_LENGTH, parse(FLOW_AT_FULL_LENGTH), commits)
    committed = Commit("HEAD")
    full = {
        str(committed.parameters["schedule"]): {m: at(committed, m) for m in METRICS},
        "flow": {metric: flow.values(metric)[0] for metric in METRICS},
    }
    return {
        "train_steps": STEPS,
        "values": values,
        "conclusions": conclusions,
        "at_full_length": full,
    }


def full_markdown(result: dict) -> str:
    """The table in docs/results.md of the trainings at full length."""
    lines = [
        [schedule, *(score(values, metric, 2) for metric in METRICS)]
        for schedule, values in result["at_full_length"].items()
    ]
    return table(["schedule", *HEADINGS], lines)


def markdown(result: dict) -> str:
    """The table in docs/results.md, and a list of the conclusions."""
    lines = []
    for schedule, by_metric in result["values"].items():
        cells = [schedule]
        for metric in METRICS:
            seeds = list(by_metric[metric].values())
            mean, deviation = statistics.mean(seeds), statistics.stdev(seeds)
            if metric in PERCENT:
                cells.append(f"{100 * mean:.2f} +- {100 * deviation:.2f} %")
            else:
                cells.append(f"{mean:.1f} +- {deviation:.1f}")
        lines.append(cells)
    clear = "".join(
        f"- {pair.partition(': ')[2].partition('.')[2]}: {text}.\n"
        for pair, text in result["conclusions"].items()
        if "cannot be told apart" not in text
    )
    clear += "- These seeds show no other difference. Here +- is a 95 % interval.\n"
    return f"{table(['schedule', *HEADINGS], lines)}\n{clear}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="print the committed result")
    if not parser.parse_args().table:
        reports.write_json(RESULT, measured() | describe("torch"))
    result = json.loads(RESULT.read_text())
    print(markdown(result))
    print(full_markdown(result))


if __name__ == "__main__":
    main()
