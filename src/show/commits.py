"""Read experiments from git: their parameters, and the results that belong to them.

DVC commits the whole workspace, so the commit of an experiment can also have results of others.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import subprocess
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..common.errors import UserError


def git(*command: str) -> str:
    """The output of a git command; "" if it fails, for example without a repository."""
    process = subprocess.run(
        ["git", *command], capture_output=True, text=True, errors="surrogateescape"
    )
    return process.stdout if process.returncode == 0 else ""


def load_yaml(text: str) -> Any:
    """The value of a YAML text as DVC reads it: YAML 1.2, where 1e-5 is a number.

    yaml12.load does more checks in pure Python, too slowly for the dvc.lock of every experiment.
    """
    return YAML(typ="safe").load(text)


def experiment_refs() -> list[str]:
    """References of finished experiments, oldest first.

    Each is refs/exps/<first 2 digits of the baseline>/<its other 38 digits>/<name>.
    """
    refs = git("for-each-ref", "--sort=committerdate", "--format=%(refname)", "refs/exps/")
    pattern = r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/[^/]+"
    return [ref for ref in refs.split() if re.fullmatch(pattern, ref)]


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """`values` without nesting: keys are joined by dots."""
    leaves: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


@functools.cache
def _md5(blob: str) -> str:
    """The md5 of a git blob's content."""
    content = subprocess.run(["git", "cat-file", "blob", blob], capture_output=True).stdout
    return hashlib.md5(content).hexdigest()


class Commit:
    """A commit. `metric` gives only results that come from its own parameters and code.

    Raises UserError if its params.yaml or dvc.lock cannot be read.
    """

    def __init__(self, name: str):
        self.name = name
        listing = git("ls-tree", "-r", "-z", "--full-tree", name).split("\0")
        entries = (entry.split("\t", 1) for entry in listing if entry)
        self.blobs = {path: about.split()[2] for about, path in entries}
        try:
            self.parameters: dict = load_yaml(self.read("params.yaml")) or {}
            lock = load_yaml(self.read("dvc.lock")) or {}
        except YAMLError as error:
            raise UserError(f"{name}: params.yaml or dvc.lock is not valid YAML: {error}") from None
        self.stages: dict[str, dict] = lock.get("stages", {})
        self.makers: dict[str, str] = {}  # each output's stage
        self.outs: dict[str, str] = {}  # each output's md5
        for stage, entry in self.stages.items():
            for out in entry.get("outs", []):
                self.makers[out["path"]] = stage
                self.outs[out["path"]] = out["md5"]
        self.known: dict[str, bool] = {}

    def read(self, path: str) -> str:
        return git("show", f"{self.name}:{path}")

    def metric(self, path: str, key: str) -> object:
        """The value of `key` in the file `path`; None if it does not belong to this commit."""
        if path not in self.makers or not self._current(self.makers[path]):
            return None
        text = self.read(path)
        return json.loads(text).get(key) if text else None

    def _current(self, stage: str) -> bool:
        """Whether the stage and all stages before it ran with the commit's parameters and code."""
        if stage not in self.known:
            entry = self.stages[stage]
            used = entry.get("params", {}).get("params.yaml", {})
            self.known[stage] = (
                all(self._parameter(key) == value for key, value in used.items())
                and all(self._holds(out["path"], out["md5"]) for out in entry.get("outs", []))
                and all(self._fits(dep["path"], dep["md5"]) for dep in entry.get("deps", []))
            )
        return self.known[stage]

    def _parameter(self, key: str) -> object:
        """The value of a key such as train.steps, or of a whole section such as train."""
        value: object = self.parameters
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def _fits(self, path: str, recorded: str) -> bool:
        """Whether the input of a stage belongs to this commit, and is current itself."""
        folder = path.rpartition("/")[0]  # a stage may have it as one output
        for out in (path, folder):
            if out in self.makers:
                same = out != path or self.outs[out] == recorded
                return self._current(self.makers[out]) and same
        return self._holds(path, recorded)

    def _holds(self, path: str, recorded: str) -> bool:
        """Whether the file or folder in this commit has the recorded md5.

        True if git tracks nothing of it, since there is nothing to compare. False if git tracks
        only a part of a folder.
        """
        if path in self.blobs:
            return _md5(self.blobs[path]) == recorded
        inside = sorted(name for name in self.blobs if name.startswith(f"{path}/"))
        listing = [
            {"md5": _md5(self.blobs[name]), "relpath": name.removeprefix(f"{path}/")}
            for name in inside
        ]
        digest = hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest()
        return not inside or f"{digest}.dir" == recorded
