import json
import re
from pathlib import Path

import pytest
from PIL import Image

from src.common.errors import UserError
from tests.helpers import ROOT, clone_into, commit
from tools import report_diff


@pytest.fixture
def repository(tmp_path, monkeypatch):
    folder = clone_into(tmp_path / "clone")
    monkeypatch.chdir(folder)
    return folder


def change(path: Path, **values: object) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_it_shows_what_changed_since_a_commit_and_nothing_else(repository):
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("schedule: cosine", "schedule: flow  "))
    metrics = json.loads((repository / "metrics/fid.json").read_text())
    (repository / "metrics/fid.json").write_text(json.dumps(metrics | {"fd_digits": 1.5}))
    Image.new("RGB", (5, 5), "red").save(repository / "figures/samples_by_class.png")
    page = report_diff.write("HEAD").read_text()
    parameters = page.partition("## Parameters")[2].partition("##")[0]
    assert re.findall(r"^\| `(.*?)` \|", parameters, re.MULTILINE) == ["schedule"]
    assert "| `schedule` | `cosine` | `flow` |" in page
    [row] = [line for line in page.splitlines() if line.startswith("| `fid.fd_digits`")]
    before, now, floor = row.split(" | ")[-3:]
    assert now == "1.50" and float(before) == pytest.approx(metrics["fd_digits"], abs=0.01)
    assert float(floor.strip("| ")) == pytest.approx(metrics["fd_digits_floor_heldout"], abs=0.01)
    old = repository / "report_diff/samples_by_class_before.png"
    assert old.read_bytes() == (ROOT / "figures/samples_by_class.png").read_bytes()
    assert Image.open(repository / "report_diff/samples_by_class_now.png").size == (5, 5)


def test_without_changes_it_says_so(repository):
    commit(repository)
    page = report_diff.write("HEAD").read_text()
    assert "No parameter differs." in page


@pytest.mark.parametrize("file", ["fid", "quality"])
def test_it_says_that_numbers_of_images_differ(repository, file):
    assert "the scores are of" not in report_diff.write("HEAD").read_text()
    change(repository / f"metrics/{file}.json", images=2500)
    page = report_diff.write("HEAD").read_text()
    assert f"`{file}`: before, the scores are of 10,000 generated images, and now of 2,500." in page
    assert f"`{file}`: Scores are of 2,500 generated images, floors of 10,000 real ones." in page


def test_it_says_that_metrics_are_of_several_data_sets(repository):
    assert "several data sets" not in report_diff.write("HEAD").read_text()
    change(repository / "metrics/data.json", dataset="discs", dataset_fingerprint="0123456789ab")
    page = report_diff.write("HEAD").read_text()
    assert "several data sets: MNIST (before, metrics/" in page
    assert "discs (now, metrics/data.json)" in page


@pytest.mark.parametrize("damage", ["<<<<<<< HEAD", "[1, 2]", "null"])
def test_damaged_metrics_of_either_side_are_named_and_the_last_report_stays(repository, damage):
    report_diff.write("HEAD")
    path = repository / "metrics/fid.json"
    whole = path.read_text()
    path.write_text(damage)
    with pytest.raises(UserError, match="metrics/fid.json: cannot be read .*git checkout"):
        report_diff.write("HEAD")
    commit(repository)
    path.write_text(whole)
    with pytest.raises(UserError, match="metrics/fid.json of commit .* cannot be read .* REV="):
        report_diff.write("HEAD")
    assert (repository / "report_diff/index.md").exists()


def test_an_unknown_revision_is_refused(repository):
    with pytest.raises(UserError, match="REV: 'nowhere' names no commit"):
        report_diff.write("nowhere")
