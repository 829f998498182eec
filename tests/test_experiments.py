"""The table of experiments says what was changed and what came of it, and never what an experiment did not measure."""

import hashlib
import json
import subprocess

import pandas as pd
import pytest
import yaml

from tests.conftest import clone_into
from tools import experiments


def git(*command: str) -> str:
    return subprocess.run(["git", *command], check=True, capture_output=True, text=True).stdout.strip()


STAGES = {  # name: (parameters, metrics file, inputs)
    "fid": (["schedule", "sample.steps"], "metrics/fid.json", ["code.py"]),
    "quality": (["sample.count"], "metrics/quality.json", ["code.py", "folder", "metrics/fid.json"]),
    "bound": (["schedule"], "metrics/bound.json", ["code.py"]),
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A commit with results of three stages, and experiments on it as DVC keeps them: commits under refs/exps/."""
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

    def ran(*stages: str, **metrics: float) -> None:
        """As if DVC had run these stages in the workspace."""
        for stage in stages:
            keys, out, inputs = STAGES[stage]
            (tmp_path / out).write_text(json.dumps(metrics))
            used = experiments.flat(values)
            lock["stages"][stage] = {
                "params": {"params.yaml": {key: used[key] for key in keys}},
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
        """A commit of all that lies in the workspace, which stays as it is, as with `dvc exp run`."""
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
    """As DVC has it, of a folder too: `test_a_commit_holds_what_its_lock_records` compares with its own."""
    if path.is_dir():
        listing = [{"md5": md5(file), "relpath": file.name} for file in sorted(path.iterdir())]
        return hashlib.md5(json.dumps(listing).encode()).hexdigest() + ".dir"
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_changed_parameters_and_metrics_stand_in_a_row_each_its_own(repository):
    found = experiments.table(("fid.fd_digits", "fid.accuracy", "quality.precision", "bound.bits_per_dim"))
    assert list(found.columns) == [
        "experiment", "schedule", "sample.steps", "fd_digits", "accuracy", "precision", "bits_per_dim"
    ]
    rows = {row[0]: list(row[1:]) for row in found.astype(object).where(found.notna(), None).itertuples(index=False)}
    assert rows["straight"] == ["linear", "16", 4.25, 0.98, 0.8, 2.75]
    assert rows["fewer"] == ["linear", "8", 5.5, None, None, 2.75]  # bits do not depend on steps; precision on the images does
    assert rows["same"] == ["cosine", "8", 3.0, 0.99, None, None]
    assert rows["unrun"] == ["cosine", "8", None, None, None, None]


def test_other_code_in_a_folder_makes_what_used_it_stale(repository):
    base = git("rev-parse", "HEAD")
    git("checkout", "--quiet", f"refs/exps/{base[:2]}/{base[2:]}/straight")
    (repository / "folder" / "code.py").write_text("other\n")
    git("commit", "--quiet", "--all", "--message", "other code")
    git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/edited", "HEAD")
    found = experiments.table(("fid.fd_digits", "quality.precision", "bound.bits_per_dim")).set_index("experiment")
    assert found.loc["straight", ["fd_digits", "precision", "bits_per_dim"]].tolist() == [4.25, 0.8, 2.75]
    assert found.loc["edited", ["fd_digits", "bits_per_dim"]].tolist() == [4.25, 2.75]
    assert pd.isna(found.loc["edited", "precision"])


def test_a_commit_holds_what_its_lock_records(tmp_path, monkeypatch):
    """The committed dvc.lock, which DVC wrote: of all that is in git the very bytes, folders included."""
    monkeypatch.chdir(clone_into(tmp_path / "clone"))
    commit = experiments.Commit("HEAD")
    recorded = {dep["path"]: dep["md5"] for stage in commit.stages.values() for dep in stage["deps"]}
    kept = {path: md5 for path, md5 in recorded.items() if git("ls-files", path)}
    assert {"src/common", "src/figures.py", "statistics"} <= set(kept)
    for path, md5 in kept.items():
        assert commit.holds(path, md5) and not commit.holds(path, md5[1:] + md5[0]), path


def test_the_table_goes_between_its_marks(repository, monkeypatch):
    (repository / "page.md").write_text("before\n<!-- experiments -->\nold\n<!-- end of experiments -->\nafter\n")
    monkeypatch.setattr("sys.argv", ["experiments", "--metrics", "fid.fd_digits", "--into", "page.md", "--csv", "table.csv"])
    assert experiments.main() == 0
    lines = (repository / "page.md").read_text().splitlines()
    assert lines[:3] == ["before", "<!-- experiments -->", "| experiment | schedule | sample.steps | fd_digits |"]
    assert lines[4:] == [
        "| same | cosine | 8 | 3 |", "| unrun | cosine | 8 |  |", "| fewer | linear | 8 | 5.5 |",
        "| straight | linear | 16 | 4.25 |", "<!-- end of experiments -->", "after",
    ]
    assert pd.read_csv(repository / "table.csv")["fd_digits"].tolist()[2:] == [5.5, 4.25]


def test_what_is_the_same_in_all_rows_is_told_once():
    frame = pd.DataFrame({"experiment": ["a", "b"], "seed": ["1", "1"], "sample.steps": ["8", "9"], "fd_digits": [2.0, 2.0]})
    assert experiments.markdown(frame, ("fid.fd_digits",)).splitlines() == [
        "| experiment | sample.steps | fd_digits |", "| --- | --- | --- |", "| a | 8 | 2 |", "| b | 9 | 2 |", "",
        "In all of them: `seed` 1.",
    ]


def test_a_page_without_marks_is_left_alone(repository, monkeypatch, capsys):
    (repository / "page.md").write_text("no marks\n")
    monkeypatch.setattr("sys.argv", ["experiments", "--into", "page.md"])
    assert experiments.main() == 1 and "page.md: expected the two marks" in capsys.readouterr().err
    assert (repository / "page.md").read_text() == "no marks\n"


def test_without_experiments_it_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["experiments"])
    assert experiments.main() == 1 and "dvc exp run" in capsys.readouterr().err


def test_metrics_that_there_are_not_are_named(repository, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["experiments", "--metrics", "fid.fd_digits", "fid.fd_digit", "fid", "fig.fd_digits"])
    assert experiments.main() == 1
    assert "the last commit has no fid.fd_digit, fid, fig.fd_digits" in capsys.readouterr().err


def test_metrics_of_one_name_keep_that_of_their_files(repository):
    (repository / "metrics" / "other.json").write_text("{}")
    found = experiments.table(("fid.fd_digits", "bound.fd_digits", "quality.precision"))
    assert list(found.columns)[-3:] == ["fid.fd_digits", "bound.fd_digits", "precision"]
    assert found["fid.fd_digits"].notna().any() and found["bound.fd_digits"].isna().all()


def test_experiments_on_other_data_say_so(repository, monkeypatch):
    metric = experiments.Commit.metric
    monkeypatch.setattr(experiments.Commit, "metric", lambda self, path, key: (
        ("digits" if "same" in self.name else "MNIST") if path == "metrics/data.json" else metric(self, path, key)
    ))
    found = experiments.table(("fid.fd_digits",)).set_index("experiment")
    assert found["data"].to_dict() == {"same": "digits", "unrun": "MNIST", "fewer": "MNIST", "straight": "MNIST"}
