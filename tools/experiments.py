"""`python -m tools.experiments [--metrics ...] [--csv FILE] [--into FILE]`: what each experiment changed, and what came of it.

A table of the experiments that DVC keeps in this repository, read from their commits: parameters and metrics are in git,
so that this takes no lock and no cache, and works inside a stage. `dvc exp show` has everything; this has what differs.
--into puts it between the two marks in a Markdown file.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

METRICS = (
    "fid.fd_digits", "fid.accuracy", "quality.precision", "quality.recall", "quality.broken", "bound.bits_per_dim",
    "train.heldout_loss",
)
MARKS = "<!-- experiments -->\n", "<!-- end of experiments -->"


def git(*command: str) -> str:
    """What git says; nothing where there is no repository."""
    done = subprocess.run(["git", *command], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def refs() -> list[str]:
    """References of finished experiments, refs/exps/<first two digits of the baseline>/<the rest>/<name>, oldest first."""
    found = git("for-each-ref", "--sort=committerdate", "--format=%(refname)", "refs/exps/").split()
    return [ref for ref in found if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/[^/]+", ref)]


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested keys joined by dots."""
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def ran(commit: str, path: str) -> bool:
    """Whether the experiment's own commit changed this file; what it did not run it left as it found it."""
    return bool(git("diff", "--name-only", f"{commit}~1", commit, "--", path).strip())


def table(metrics: tuple[str, ...] = METRICS) -> pd.DataFrame:
    """A row for each experiment: its name, the parameters that are not the same in all of them, and these metrics.

    A metric is missing where the experiment did not run the stage, so that a number of its baseline is never taken for its own.
    """
    rows, parameters = [], []
    for ref in refs():
        parameters.append(flat(yaml.safe_load(git("show", f"{ref}:params.yaml")) or {}))
        row: dict[str, object] = {"experiment": ref.rsplit("/", 1)[1]}
        for metric in metrics:
            name, _, key = metric.partition(".")
            path = f"metrics/{name}.json"
            row[key] = json.loads(git("show", f"{ref}:{path}") or "{}").get(key) if ran(ref, path) else None
        rows.append(row)
    baseline = flat(yaml.safe_load(git("show", "HEAD:params.yaml") or "{}"))
    keys = dict.fromkeys(key for values in parameters for key in values)
    differing = [key for key in keys if any(values.get(key) != baseline.get(key) for values in parameters)]
    frame = pd.DataFrame(rows, columns=["experiment", *(metric.partition(".")[2] for metric in metrics)])
    for at, key in enumerate(differing, start=1):
        frame.insert(at, key, pd.Series([str(values.get(key)) for values in parameters], dtype=object))
    return frame


def shown(value: object) -> str:
    return "" if value is None or value != value else f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(frame: pd.DataFrame) -> str:
    """The table as Markdown, numbers with four digits."""
    lines = ["| " + " | ".join(frame.columns) + " |", "| " + " | ".join("---" for _ in frame.columns) + " |"]
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", nargs="+", default=METRICS, metavar="FILE.KEY", help="such as fid.accuracy")
    parser.add_argument("--csv", type=Path, help="write the table there, too")
    parser.add_argument("--into", type=Path, help=f"Markdown file with {MARKS[0].strip()} and {MARKS[1]}")
    asked = parser.parse_args()
    found = table(tuple(asked.metrics))
    if found.empty:
        print("no experiments in this repository; `dvc exp run -S schedule=linear` makes one", file=sys.stderr)
        return 1
    if asked.csv:
        found.to_csv(asked.csv, index=False, float_format="%.6g")
    if asked.into:
        before, mark, rest = asked.into.read_text(encoding="utf-8").partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        if not mark or not end:
            print(f"{asked.into}: expected the two marks {MARKS[0].strip()} and {MARKS[1]}", file=sys.stderr)
            return 1
        asked.into.write_text(before + mark + markdown(found) + end + after, encoding="utf-8")
    else:
        print(markdown(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
