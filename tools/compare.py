"""`make compare A=schedule=linear B=schedule=cosine`: which of two settings is better?

A and B each stand for all experiments with these values. Such a group may differ in `seed` alone.
If both groups have the same seeds, the differences are taken seed by seed, which removes what a
seed does to both. Otherwise the interval is that of Welch 1947.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
from scipy import stats

from src.common import yaml12
from src.common.errors import UserError
from src.show import experiments
from src.show.commits import Commit, experiment_refs, flat
from src.show.page import MEASURES

METRICS = tuple(name for name in experiments.METRICS if name != "train.heldout_loss")
LEVEL = 0.95  # of the intervals
POWER = 0.8  # share of repetitions that detect a detectable difference


@dataclass(frozen=True)
class Group:
    """Experiments that differ in `seed` alone, by their seeds."""

    name: str
    commits: dict[int, Commit]
    parameters: dict[str, object]  # without seed

    def values(self, metric: str) -> dict[int, float]:
        """The values of a metric such as "fid.accuracy", by seed. Seeds without it are left out."""
        file, _, key = metric.partition(".")
        values = {
            seed: commit.metric(f"metrics/{file}.json", key)
            for seed, commit in self.commits.items()
        }
        return {seed: value for seed, value in values.items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class Difference:
    """The mean of B minus that of A."""

    mean: float
    half: float  # half the width of the interval
    detectable: float  # the difference that twice as many seeds would detect
    paired: bool


def parse(text: str) -> dict[str, object]:
    """Settings such as schedule=linear train.times="focus 0.6 0.62". Raises UserError."""
    settings = {}
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{text!r}: {error}") from None
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise UserError(
                f"{part!r}: expected KEY=VALUE, as in make compare A=schedule=linear "
                f"B=schedule=cosine"
            )
        try:
            settings[key] = yaml12.load(value)
        except ValueError:
            raise UserError(f"{part!r}: the value is not valid YAML; put it in quotes") from None
    if not settings:
        raise UserError("give both, as in make compare A=schedule=linear B=schedule=cosine")
    return settings


def group(name: str, settings: dict[str, object], commits: list[Commit]) -> Group:
    """The experiments among `commits` (oldest first) with these settings.

    Of two experiments with one seed, the newer counts. Raises UserError if there are none, or if
    they differ in more than `seed`.
    """
    found: dict[int, Commit] = {}
    leaves: list[dict[str, object]] = []
    for commit in commits:
        values = flat(commit.parameters)
        if all(values.get(key, ...) == value for key, value in settings.items()):
            found[values.pop("seed")] = commit
            leaves.append(values)
    if not found:
        options = " ".join(f"-S {_quoted(part)}" for part in shlex.split(name))
        raise UserError(
            f"{name}: no experiment has these values. "
            f"`dvc exp run --queue {options} -S seed=1,2,3,4` and `make queue` make some"
        )
    for key in dict.fromkeys(key for values in leaves for key in values):
        options = list(dict.fromkeys(_as_yaml(values.get(key)) for values in leaves))
        if len(options) > 1:
            raise UserError(
                f"{name}: its experiments also differ in {key} ({', '.join(options)}). "
                f"Name one of the values, as in {name} {_quoted(f'{key}={options[0]}')}"
            )
    return Group(name, found, leaves[0])


def _as_yaml(value: object) -> str:
    """A value of params.yaml as its text there: null, true, 2, [1, 2] or words."""
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(setting: str) -> str:
    """For the shell; make puts the whole in single quotes."""
    return f'"{setting}"' if " " in setting else setting


def check_comparable(a: Group, b: Group, named: Set[str]) -> None:
    """Raises UserError if A and B differ in more than the keys `named`, in data or classifier."""
    for key in dict.fromkeys([*a.parameters, *b.parameters]):
        one, other = a.parameters.get(key), b.parameters.get(key)
        if one != other and key not in named:
            raise UserError(
                f"A and B also differ in {key} ({one} and {other}). If that is meant, name it in "
                f"both"
            )
    commits = [*a.commits.values(), *b.commits.values()]
    for what, file, key in (
        ("data set", "data", "dataset_fingerprint"),
        ("classifier", "fid", "classifier"),
    ):
        values = {commit.metric(f"metrics/{file}.json", key) for commit in commits} - {None}
        if len(values) > 1:
            raise UserError(
                f"the experiments do not all have the same {what}, so their values cannot be "
                f"compared. Run them again on one machine, from one commit"
            )


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Difference:
    """The difference between two groups of at least two values each, by seed.

    `detectable` assumes the same standard deviations. For a true difference of that size, an
    interval over twice as many seeds excludes 0 with probability POWER.
    """
    paired = a.keys() == b.keys()
    if paired:
        parts = [np.array([b[seed] - a[seed] for seed in a])]
    else:
        parts = [np.array(list(values.values())) for values in (a, b)]
    mean = float(np.mean(list(b.values())) - np.mean(list(a.values())))
    variances = [float(part.var(ddof=1)) for part in parts]
    counts = [len(part) for part in parts]
    error, freedom = _error(variances, counts)
    later_error, later_freedom = _error(variances, [2 * count for count in counts])
    edge = (1 + LEVEL) / 2
    return Difference(
        mean=mean,
        half=float(stats.t.ppf(edge, freedom)) * error,
        detectable=float(stats.t.ppf([edge, POWER], later_freedom).sum()) * later_error,
        paired=paired,
    )


def _error(variances: list[float], counts: list[int]) -> tuple[float, float]:
    """Standard error of a difference of means, and its degrees of freedom (Welch-Satterthwaite)."""
    squares = [variance / count for variance, count in zip(variances, counts, strict=True)]
    total = sum(squares)
    if total == 0:
        return 0.0, min(counts) - 1
    parts = (square**2 / (count - 1) for square, count in zip(squares, counts, strict=True))
    return math.sqrt(total), total**2 / sum(parts)


def conclusion(metric: str, a: Mapping[int, float], b: Mapping[int, float]) -> str:
    """What the values of one metric, by seed, say about A and B, in one or two sentences."""
    if min(len(a), len(b)) < 2:
        return "too few values; each side needs at least two seeds"
    result = difference(a, b)
    size, half = rounded(abs(result.mean), result.half)
    if result.mean == 0 and result.half == 0:
        return "A and B are equal"
    counts = sorted({len(a), len(b)})
    seeds = f"{' and '.join(map(str, counts))} seeds{' each' if len(counts) == 1 else ''}"
    how = f"{seeds}, {'paired' if result.paired else 'Welch'}"
    if abs(result.mean) <= result.half:
        detectable, _ = rounded(result.detectable, result.detectable)
        return (
            f"cannot be told apart: they differ by {size} +- {half} ({how}). "
            f"{counts[-1]} more seeds each would detect {detectable}"
        )
    higher, lower = ("B", "A") if result.mean > 0 else ("A", "B")
    better = MEASURES[metric].better if metric in MEASURES else ""
    if better == "lower":
        return f"{lower} is better than {higher} by {size} +- {half} ({how})"
    word = "better" if better == "higher" else "higher"
    return f"{higher} is {word} than {lower} by {size} +- {half} ({how})"


def rounded(value: float, error: float) -> tuple[str, str]:
    """Both numbers with as many decimals as show two digits of `error`."""
    decimals = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 6
    return f"{value:.{decimals}f}", f"{error:.{decimals}f}"


def table(measured: dict[str, list[dict[int, float]]]) -> str:
    """Mean and standard deviation of each metric in A and in B, as Markdown."""
    lines = ["| metric | A: mean | A: sd | B: mean | B: sd |", "| --- | --- | --- | --- | --- |"]
    for metric, sides in measured.items():
        cells = []
        for side in sides:
            values = list(side.values())
            cells.append(f"{np.mean(values):.4g}")
            cells.append(f"{np.std(values, ddof=1):.2g}" if len(values) > 1 else "")
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--a", default="", metavar="'KEY=VALUE ...'")
    parser.add_argument("--b", default="", metavar="'KEY=VALUE ...'")
    parser.add_argument("--metrics", nargs="+", default=METRICS, metavar="FILE.KEY")
    arguments = parser.parse_args()
    try:
        settings = parse(arguments.a), parse(arguments.b)
        if settings[0] == settings[1]:
            raise UserError("A and B are the same settings; give two that differ")
        commits = [Commit(ref) for ref in experiment_refs()]
        a = group(arguments.a, settings[0], commits)
        b = group(arguments.b, settings[1], commits)
        check_comparable(a, b, settings[0].keys() & settings[1].keys())
        values = {name: [a.values(name), b.values(name)] for name in arguments.metrics}
        if wrong := [n for n, sides in values.items() if n not in MEASURES and not any(sides)]:
            raise UserError(
                f"--metrics: A and B have no {', '.join(wrong)}. `dvc metrics show` lists all "
                f"metrics"
            )
        measured = {name: sides for name, sides in values.items() if all(sides)}
        if not measured:
            names = ", ".join(arguments.metrics)
            raise UserError(
                f"A and B have no metric in common among {names}; `dvc exp show` lists what ran"
            )
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    for letter, side in (("A", a), ("B", b)):
        seeds = " ".join(map(str, sorted(side.commits)))
        print(f"{letter}: {side.name} (seeds {seeds})")
    print("\n" + table(measured) + "\n")
    for metric, sides in measured.items():
        print(f"{metric}: {conclusion(metric, *sides)}")
    print(f"\n+- is a {LEVEL:.0%} interval. Detect means in {POWER:.0%} of repetitions.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
