"""The table of experiments says what was changed and what came of it, and never what an experiment did not measure."""

import json
import subprocess

import pandas as pd
import pytest
import yaml

from tools import experiments


def git(*command: str) -> str:
    return subprocess.run(["git", *command], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A commit, and two experiments on it as DVC keeps them: commits under refs/exps/."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    git("config", "user.name", "Test")
    git("config", "user.email", "test@example.org")
    (tmp_path / "metrics").mkdir()

    def state(schedule: str, steps: int, **metrics: dict) -> str:
        (tmp_path / "params.yaml").write_text(
            yaml.safe_dump({"schedule": schedule, "sample": {"steps": steps, "count": 9}}, sort_keys=False)
        )
        for name, values in metrics.items():
            (tmp_path / "metrics" / f"{name}.json").write_text(json.dumps(values))
        git("add", "--all")
        git("commit", "--quiet", "--message", "state")
        return git("rev-parse", "HEAD")

    base = state("cosine", 16, fid={"fd_digits": 3.0, "accuracy": 0.99}, bound={"bits_per_dim": 2.5})
    for name, args in {
        "straight": ("linear", 16, {"fid": {"fd_digits": 4.25, "accuracy": 0.98}, "bound": {"bits_per_dim": 2.75}}),
        "fewer": ("cosine", 8, {"fid": {"fd_digits": 5.5, "accuracy": None}}),
    }.items():
        commit = state(args[0], args[1], **args[2])
        git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", commit)
        git("reset", "--quiet", "--hard", base)
    git("update-ref", "refs/exps/exec/EXEC_HEAD", base)  # DVC's own, no experiment
    return tmp_path


def test_changed_parameters_and_metrics_stand_in_a_row(repository):
    found = experiments.table(("fid.fd_digits", "fid.accuracy", "bound.bits_per_dim"))
    assert list(found.columns) == ["experiment", "schedule", "sample.steps", "fd_digits", "accuracy", "bits_per_dim"]
    rows = {row[0]: list(row[1:]) for row in found.astype(object).where(found.notna(), None).itertuples(index=False)}
    assert rows["straight"] == ["linear", "16", 4.25, 0.98, 2.75]
    assert rows["fewer"] == ["cosine", "8", 5.5, None, None]  # it did not run `bound`: its baseline's 2.5 is not its own


def test_the_table_goes_between_its_marks(repository, monkeypatch):
    (repository / "page.md").write_text("before\n<!-- experiments -->\nold\n<!-- end of experiments -->\nafter\n")
    monkeypatch.setattr("sys.argv", ["experiments", "--metrics", "fid.fd_digits", "--into", "page.md", "--csv", "table.csv"])
    assert experiments.main() == 0
    lines = (repository / "page.md").read_text().splitlines()
    assert lines[:3] == ["before", "<!-- experiments -->", "| experiment | schedule | sample.steps | fd_digits |"]
    assert lines[4:] == [
        "| straight | linear | 16 | 4.25 |", "| fewer | cosine | 8 | 5.5 |", "<!-- end of experiments -->", "after",
    ]
    assert pd.read_csv(repository / "table.csv")["fd_digits"].tolist() == [4.25, 5.5]


def test_a_page_without_marks_is_left_alone(repository, monkeypatch, capsys):
    (repository / "page.md").write_text("no marks\n")
    monkeypatch.setattr("sys.argv", ["experiments", "--into", "page.md"])
    assert experiments.main() == 1 and "page.md: expected the two marks" in capsys.readouterr().err
    assert (repository / "page.md").read_text() == "no marks\n"


def test_without_experiments_it_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["experiments"])
    assert experiments.main() == 1 and "dvc exp run" in capsys.readouterr().err
