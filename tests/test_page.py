"""The report shows each number in its unit beside its floors, says what is missing, and takes no markup from what it shows."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from src import page
from tests.conftest import ROOT

METRICS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "metrics").glob("*.json")}


def row(name: str, metrics: dict) -> dict:
    (found,) = [row for row in page.measures(metrics) if row["name"] == name]
    return found


def test_a_measure_stands_beside_its_floors_and_its_spread():
    metrics = {
        "fid": {
            "fd_digits": 3.014, "fd_digits_floor_heldout": 2.4761, "fd_digits_floor_train": 0.69, "accuracy": 0.99, "fid": None
        },
        "spread": {"fd_digits_mean": 3.166, "fd_digits_sd": 0.3683, "accuracy_mean": 0.9905, "accuracy_sd": None},
        "classifier": {"heldout_accuracy": 0.9956}, "bound": {"bits_per_dim": 2.0672, "bits_per_dim_standard_error": 0.0652},
    }
    found = row("fid.fd_digits", metrics)
    assert [found[key] for key in ("value", "spread", "heldout", "train")] == ["3.01", "3.17 ± 0.37", "2.48", "0.69"]
    found = row("fid.accuracy", metrics)
    assert [found[key] for key in ("value", "spread", "heldout", "train")] == ["99.00 %", "", "99.56 %", ""]
    assert row("bound.bits_per_dim", metrics)["value"] == "2.067 ± 0.065"
    assert row("fid.fid", metrics)["value"] == row("quality.recall", metrics)["value"] == "not measured"


@pytest.mark.parametrize("name", page.MEASURES)
def test_every_measure_is_one_of_the_pipelines(name):
    file, _, key = name.partition(".")
    assert key in METRICS[file]


def test_what_is_shown_is_text_and_pictures_are_the_files(tmp_path):
    for name in {name for line in page.PICTURES for name, _ in line}:
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / f"{name}.png")
    evil = "<script>alert(1)</script>"
    experiments = {"columns": ["experiment", "fd_digits"], "rows": [[evil, "3.0"]], "parameters": 1}
    found = page.render(evil, evil, [("data", evil)], METRICS, tmp_path, {"seed": evil, "train": {"lr": evil}}, experiments)
    assert "<script" not in found and found.count("&lt;script&gt;") == 7
    assert {page.source(path) for path in tmp_path.iterdir()} == set(re.findall('src="([^"]+)"', found))
    without = page.render("t", "l", [], METRICS, tmp_path, {}, None)
    assert "<h2>Experiments</h2>" in found and "<h2>Experiments</h2>" not in without
