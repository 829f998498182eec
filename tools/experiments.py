"""`python -m tools.experiments [--metrics ...] [--csv FILE] [--into FILE]`: what each experiment changed, and what came of it.

A table of the experiments that DVC keeps in this repository, read from their commits: parameters and metrics are in git,
so that this takes no lock and no cache, and works inside a stage. `dvc exp show` has everything; this has what differs.
--into puts it between the two marks in a Markdown file.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from src.common.files import replacing

METRICS = (
    "fid.fd_digits", "fid.accuracy", "quality.precision", "quality.recall", "quality.broken", "bound.bits_per_dim",
    "train.heldout_loss",
)
MARKS = "<!-- experiments -->\n", "<!-- end of experiments -->"


def git(*command: str) -> str:
    """What git says; nothing where there is no repository."""
    done = subprocess.run(["git", *command], capture_output=True, text=True, errors="surrogateescape")
    return done.stdout if done.returncode == 0 else ""


def refs() -> list[str]:
    """References of finished experiments, refs/exps/<first two digits of the baseline>/<the rest>/<name>."""
    found = git("for-each-ref", "--sort=committerdate", "--format=%(refname)", "refs/exps/").split()
    return [ref for ref in found if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/[^/]+", ref)]


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested keys joined by dots."""
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@functools.cache
def md5(blob: str) -> str:
    """Of the content that git has under this name."""
    return hashlib.md5(subprocess.run(["git", "cat-file", "blob", blob], capture_output=True).stdout).hexdigest()


class Commit:
    """Whether the results in a commit are of its own parameters and code: an experiment's commit also has what lay in the
    workspace, results of others included."""

    def __init__(self, name: str):
        self.name = name
        entries = (entry.split("\t", 1) for entry in git("ls-tree", "-r", "-z", "--full-tree", name).split("\0") if entry)
        self.blobs = {path: about.split()[2] for about, path in entries}
        stages = (yaml.safe_load(self.read("dvc.lock")) or {}).get("stages", {})
        self.parameters = flat(yaml.safe_load(self.read("params.yaml")) or {})
        self.stages: dict[str, dict] = stages
        self.makers = {out["path"]: stage for stage in stages for out in stages[stage].get("outs", [])}
        self.outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
        self.known: dict[str, bool] = {}

    def read(self, path: str) -> str:
        return git("show", f"{self.name}:{path}")

    def holds(self, path: str, recorded: str) -> bool:
        """Whether the commit's own file or folder is the recorded one. What git does not keep at all cannot contradict; a folder
        of which it keeps but a part is another one."""
        if path in self.blobs:
            return md5(self.blobs[path]) == recorded
        inside = sorted(name for name in self.blobs if name.startswith(f"{path}/"))
        listing = [{"md5": md5(self.blobs[name]), "relpath": name.removeprefix(f"{path}/")} for name in inside]
        return not inside or hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir" == recorded

    def current(self, stage: str) -> bool:
        """Whether the stage, and all before it, ran with the parameters, code and inputs that the commit has."""
        if stage not in self.known:
            lock = self.stages[stage]
            used = lock.get("params", {}).get("params.yaml", {})
            self.known[stage] = (
                all(self.parameters.get(key) == value for key, value in used.items())
                and all(self.holds(out["path"], out["md5"]) for out in lock.get("outs", []))
                and all(self.fits(dep["path"], dep["md5"]) for dep in lock.get("deps", []))
            )
        return self.known[stage]

    def fits(self, path: str, recorded: str) -> bool:
        """Whether an input of a stage is what the commit has, and current itself."""
        for out in (path, path.rpartition("/")[0]):  # a file, or one in a folder that a stage makes as a whole
            if out in self.makers:
                return self.current(self.makers[out]) and (out != path or self.outs[out] == recorded)
        return self.holds(path, recorded)

    def metric(self, path: str, key: str) -> object:
        """The value, or None where it is not of this commit."""
        if path not in self.makers or not self.current(self.makers[path]):
            return None
        text = self.read(path)
        return json.loads(text).get(key) if text else None


def table(metrics: tuple[str, ...] = METRICS) -> pd.DataFrame:
    """A row for each experiment: its name, the parameters in which any differs from the last commit, and these metrics. Sorted
    by these parameters.

    The data set has a column where it is not the same for all. A metric is missing where its stage has not run with the
    experiment's parameters, so that no number of another is taken for its own.
    """
    rows, parameters = [], []
    for ref in refs():
        commit = Commit(ref)
        parameters.append(commit.parameters)
        row: dict[str, object] = {"experiment": ref.rsplit("/", 1)[1], "data": commit.metric("metrics/data.json", "dataset")}
        for metric, heading in headings(metrics).items():
            name, _, key = metric.partition(".")
            row[heading] = commit.metric(f"metrics/{name}.json", key)
        rows.append(row)
    baseline = flat(yaml.safe_load(git("show", "HEAD:params.yaml") or "{}"))
    keys = dict.fromkeys(key for values in parameters for key in values)
    differing = [key for key in keys if any(values.get(key, ...) != baseline.get(key, ...) for values in parameters)]
    frame = pd.DataFrame(rows, columns=["experiment", "data", *headings(metrics).values()])
    if frame["data"].nunique(dropna=False) < 2:
        frame = frame.drop(columns="data")
    for at, key in enumerate(differing, start=1):
        cells = [str(values[key]) if key in values else None for values in parameters]
        frame.insert(at, key, pd.Series(cells, dtype=object))

    def place(row: int) -> list:
        found = [parameters[row].get(key) for key in differing]
        return [(0, value, "") if isinstance(value, int | float) else (1, 0, str(value)) for value in found]

    return frame.iloc[sorted(range(len(frame)), key=place)].reset_index(drop=True)


def headings(metrics: tuple[str, ...]) -> dict[str, str]:
    """Each metric's name without its file, unless two would then have the same."""
    keys = [metric.partition(".")[2] for metric in metrics]
    return {metric: key if keys.count(key) == 1 else metric for metric, key in zip(metrics, keys, strict=True)}


def unknown(metrics: tuple[str, ...]) -> list[str]:
    """Those that the last commit does not have."""
    files = {metric: git("show", f"HEAD:metrics/{metric.partition('.')[0]}.json") for metric in metrics}
    return [metric for metric, text in files.items() if not text or metric.partition(".")[2] not in json.loads(text)]


def shown(value: object) -> str:
    return "" if value is None or value != value else f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(frame: pd.DataFrame, metrics: tuple[str, ...] = METRICS) -> str:
    """The table as Markdown, numbers with four digits. Parameters that are the same in all rows are told once, below."""
    kept = {"experiment", *headings(metrics).values()}
    same = [name for name in frame.columns if name not in kept and len(frame) > 1 and frame[name].nunique(dropna=False) == 1]
    below = f"\nIn all of them: {', '.join(f'`{name}` {frame[name].iloc[0]}' for name in same)}.\n" if same else ""
    frame = frame.drop(columns=same)
    lines = ["| " + " | ".join(frame.columns) + " |", "| " + " | ".join("---" for _ in frame.columns) + " |"]
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines) + "\n" + below


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", nargs="+", default=METRICS, metavar="FILE.KEY", help="such as fid.accuracy")
    parser.add_argument("--csv", type=Path, help="write the table there, too")
    parser.add_argument("--into", type=Path, help=f"Markdown file with {MARKS[0].strip()} and {MARKS[1]}")
    asked = parser.parse_args()
    if asked.metrics != METRICS and (odd := unknown(tuple(asked.metrics))):
        print(f"--metrics: the last commit has no {', '.join(odd)}; `dvc metrics show` names all", file=sys.stderr)
        return 1
    found = table(tuple(asked.metrics))
    if found.empty:
        print("no experiments in this repository; `dvc exp run -S schedule=linear` makes one", file=sys.stderr)
        return 1
    if asked.csv:
        found.to_csv(asked.csv, index=False, float_format="%.6g")
    if asked.into:
        page = asked.into.read_text(encoding="utf-8") if asked.into.exists() else ""
        before, mark, rest = page.partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        if not mark or not end:
            print(f"{asked.into}: expected the two marks {MARKS[0].strip()} and {MARKS[1]}", file=sys.stderr)
            return 1
        with replacing(asked.into) as temporary:
            temporary.write_text(before + mark + markdown(found, tuple(asked.metrics)) + end + after, encoding="utf-8")
    else:
        print(markdown(found, tuple(asked.metrics)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
