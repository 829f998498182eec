"""The table of experiments has what each changed and measured, and nothing else."""

import copy
import functools
import hashlib
import json
import subprocess

import pandas as pd
import pytest
import yaml

from src.show import experiments
from src.show.commits import Commit
from tests.helpers import clone_into
from tools import experiments as command


def git(*command: str) -> str:
    return subprocess.run(
        ["git", *command], check=True, capture_output=True, text=True
    ).stdout.strip()


STAGES = {  # name: (keys or sections of parameters, metrics file, inputs)
    "fid": (["schedule", "sample"], "metrics/fid.json", ["code.py"]),
    "quality": (
        ["sample.count"],
        "metrics/quality.json",
        ["code.py", "folder", "metrics/fid.json"],
    ),
    "bound": (["schedule"], "metrics/bound.json", ["code.py"]),
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A commit with results of three stages, and experiments on it as DVC keeps them.

    Those are commits under refs/exps/.
    """
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    git("config", "user.name", "Test")
    git("config", "user.email", "test@example.org")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "code.py").write_text("pass\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "code.py").write_text("pass\n")
    (tmp_path / "folder" / "a.py").write_text("")
    values = {"schedule": "cosine", "sample": {"steps": 16, "count": 9}}
    lock: dict = {"stages": {}}

    def value(key: str) -> object:
        return functools.reduce(dict.__getitem__, key.split("."), values)

    def ran(*stages: str, **metrics: float) -> None:
        """As if DVC had run these stages in the workspace."""
        for stage in stages:
            keys, out, inputs = STAGES[stage]
            (tmp_path / out).write_text(json.dumps(metrics))
            lock["stages"][stage] = {
                "params": {"params.yaml": copy.deepcopy({key: value(key) for key in keys})},
                "deps": [{"path": path, "md5": md5(tmp_path / path)} for path in inputs],
                "outs": [{"path": out, "md5": md5(tmp_path / out)}],
            }

    def commit() -> str:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
        git("add", "--all")
        git("commit", "--quiet", "--message", "state")
        return git("rev-parse", "HEAD")

    def experiment(name: str, base: str) -> None:
        """Commit the workspace, which stays as it is, as `dvc exp run` does."""
        git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", commit())
        git("reset", "--quiet", "--soft", base)

    ran("fid", fd_digits=3.0, accuracy=0.99)
    ran("quality", precision=0.9)
    ran("bound", bits_per_dim=2.5)
    base = commit()
    values["schedule"] = "linear"
    ran("fid", fd_digits=4.25, accuracy=0.98)
    ran("quality", precision=0.8)
    ran("bound", bits_per_dim=2.75)
    experiment("straight", base)
    values["sample"]["steps"] = 8
    ran("fid", fd_digits=5.5)
    experiment("fewer", base)  # in a workspace that still has precision and bits of `straight`
    values["schedule"] = "cosine"
    ran("fid", fd_digits=3.0, accuracy=0.99)  # it happens to come out as at first
    experiment("same", base)
    (tmp_path / "code.py").write_text("other\n")
    experiment("unrun", base)
    git("reset", "--quiet", "--hard", base)
    git("update-ref", "refs/exps/exec/EXEC_HEAD", base)  # DVC's own, no experiment
    return tmp_path


def md5(path) -> str:
    """As DVC has it, for a folder too.

    `test_a_commit_holds_what_its_lock_records` compares with its own.
    """
    if path.is_dir():
        listing = [{"md5": md5(file), "relpath": file.name} for file in sorted(path.iterdir())]
        return hashlib.md5(json.dumps(listing).encode()).hexdigest() + ".dir"
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_changed_parameters_and_metrics_stand_in_a_row_each_its_own(repository):
    names = ("fid.fd_digits", "fid.accuracy", "quality.precision", "bound.bits_per_dim")
    table = experiments.table(names)
    assert list(table.columns) == [
        "experiment",
        "schedule",
        "sample.steps",
        "fd_digits",
        "accuracy",
        "precision",
        "bits_per_dim",
    ]
    cells = table.astype(object).where(table.notna(), None)
    rows = {row[0]: list(row[1:]) for row in cells.itertuples(index=False)}
    assert rows["straight"] == ["linear", "16", 4.25, 0.98, 0.8, 2.75]
    # Bits do not depend on steps; precision depends on the images.
    assert rows["fewer"] == ["linear", "8", 5.5, None, None, 2.75]
    assert rows["same"] == ["cosine", "8", 3.0, 0.99, None, None]
    assert rows["unrun"] == ["cosine", "8", None, None, None, None]


def test_other_code_in_a_folder_makes_what_used_it_stale(repository):
    base = git("rev-parse", "HEAD")
    git("checkout", "--quiet", f"refs/exps/{base[:2]}/{base[2:]}/straight")
    (repository / "folder" / "code.py").write_text("other\n")
    git("commit", "--quiet", "--all", "--message", "other code")
    git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/edited", "HEAD")
    table = experiments.table(("fid.fd_digits", "quality.precision", "bound.bits_per_dim"))
    table = table.set_index("experiment")
    kept = table.loc["straight", ["fd_digits", "precision", "bits_per_dim"]]
    assert kept.tolist() == [4.25, 0.8, 2.75]
    assert table.loc["edited", ["fd_digits", "bits_per_dim"]].tolist() == [4.25, 2.75]
    assert pd.isna(table.loc["edited", "precision"])


def test_a_commit_holds_what_its_lock_records(tmp_path, monkeypatch):
    """DVC wrote the committed dvc.lock: its md5s of files and folders in git are ours."""
    monkeypatch.chdir(clone_into(tmp_path / "clone"))
    commit = Commit("HEAD")
    dependencies = [dep for stage in commit.stages.values() for dep in stage["deps"]]
    recorded = {dep["path"]: dep["md5"] for dep in dependencies}
    kept = {path: md5 for path, md5 in recorded.items() if git("ls-files", path)}
    assert {"src/common", "src/show", "src/images.py", "statistics"} <= set(kept)
    for path, md5 in kept.items():
        assert commit._holds(path, md5) and not commit._holds(path, md5[1:] + md5[0]), path


def test_the_table_is_printed_and_written_as_csv(repository, monkeypatch, capsys):
    options = ["--metrics", "fid.fd_digits", "--csv", "table.csv"]
    monkeypatch.setattr("sys.argv", ["experiments", *options])
    assert command.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| experiment | schedule | sample.steps | fd_digits |"
    assert lines[2:] == [
        "| same | cosine | 8 | 3 |",
        "| unrun | cosine | 8 |  |",
        "| fewer | linear | 8 | 5.5 |",
        "| straight | linear | 16 | 4.25 |",
    ]
    assert pd.read_csv(repository / "table.csv")["fd_digits"].tolist()[2:] == [5.5, 4.25]


def test_what_is_the_same_in_all_rows_is_said_once():
    columns = {"experiment": ["a", "b"], "seed": ["1", "1"], "sample.steps": ["8", "9"]}
    frame = pd.DataFrame(columns | {"fd_digits": [2.0, 2.0]})
    assert experiments.markdown(frame, ("fid.fd_digits",)).splitlines() == [
        "| experiment | sample.steps | fd_digits |",
        "| --- | --- | --- |",
        "| a | 8 | 2 |",
        "| b | 9 | 2 |",
        "",
        "In all of them: `seed` 1.",
    ]


def test_without_experiments_it_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["experiments"])
    assert command.main() == 1 and "dvc exp run" in capsys.readouterr().err


def test_unknown_metrics_are_named(repository, monkeypatch, capsys):
    names = ["fid.fd_digits", "fid.fd_digit", "fid", "fig.fd_digits"]
    monkeypatch.setattr("sys.argv", ["experiments", "--metrics", *names])
    assert command.main() == 1
    assert "the last commit has no fid.fd_digit, fid, fig.fd_digits" in capsys.readouterr().err


def test_metrics_of_one_name_keep_that_of_their_files(repository):
    (repository / "metrics" / "other.json").write_text("{}")
    table = experiments.table(("fid.fd_digits", "bound.fd_digits", "quality.precision"))
    assert list(table.columns)[-3:] == ["fid.fd_digits", "bound.fd_digits", "precision"]
    assert table["fid.fd_digits"].notna().any() and table["bound.fd_digits"].isna().all()


def test_experiments_on_other_data_say_so(repository, monkeypatch):
    metric = Commit.metric

    def with_data(self: Commit, path: str, key: str) -> object:
        if path == "metrics/data.json":
            return "digits" if "same" in self.name else "MNIST"
        return metric(self, path, key)

    monkeypatch.setattr(Commit, "metric", with_data)
    data = experiments.table(("fid.fd_digits",)).set_index("experiment")["data"].to_dict()
    assert data.pop("same") == "digits"
    assert data == dict.fromkeys(("unrun", "fewer", "straight"), "MNIST")
