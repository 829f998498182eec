"""The report shows numbers in their units with floors, names what is missing, escapes markup."""

import json
import re
from operator import itemgetter

import numpy as np
import pytest
from PIL import Image

from src import provenance
from src.show import page
from tests.helpers import ROOT

METRICS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "metrics").glob("*.json")}


def row(name: str, metrics: dict) -> dict:
    """The row of the measure `name`."""
    (row,) = [row for row in page.measures(metrics) if row["name"] == name]
    return row


def test_a_measure_is_shown_with_its_floors_and_its_spread():
    metrics = {
        "fid": {
            "fd_digits": 3.014,
            "fd_digits_floor_heldout": 2.4761,
            "fd_digits_floor_train": 0.69,
            "accuracy": 0.99,
            "fid": None,
        },
        "spread": {
            "fd_digits_mean": 3.166,
            "fd_digits_sd": 0.3683,
            "accuracy_mean": 0.9905,
            "accuracy_sd": None,
        },
        "classifier": {"heldout_accuracy": 0.9956},
        "bound": {"bits_per_dim": 2.0672, "bits_per_dim_standard_error": 0.0652},
    }
    cells = itemgetter("value", "spread", "heldout", "train")
    assert cells(row("fid.fd_digits", metrics)) == ("3.01", "3.17 ± 0.37", "2.48", "0.69")
    assert cells(row("fid.accuracy", metrics)) == ("99.00 %", "", "99.56 %", "")
    assert row("bound.bits_per_dim", metrics)["value"] == "2.067 ± 0.065"
    assert (
        row("fid.fid", metrics)["value"]
        == row("quality.recall", metrics)["value"]
        == "not measured"
    )
    del metrics["fid"]["accuracy"]  # images without labels: the classifier learned rotations
    assert cells(row("fid.accuracy", metrics)) == ("not measured", "", "", "")


def test_scores_of_other_numbers_of_images_come_with_a_sentence():
    assert provenance.unequal(10_000, 10_000) == ""
    assert "the generated ones seem worse" in provenance.unequal(2_500, 10_000)
    assert "the real ones seem worse" in provenance.unequal(10_000, 180)


@pytest.mark.parametrize("name", page.MEASURES)
def test_every_measure_is_one_of_the_pipelines(name):
    file, _, key = name.partition(".")
    assert key in METRICS[file]


def test_what_is_shown_is_text_and_pictures_are_the_files(tmp_path):
    for name in {name for line in page.PICTURES for name, _ in line}:
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / f"{name}.png")
    evil = "<script>alert(1)</script>"
    experiments = {"columns": ["experiment", "fd_digits"], "rows": [[evil, "3.0"]], "parameters": 1}
    parameters = {"seed": evil, "train": {"lr": evil}}
    html = page.render(evil, evil, [("data", evil)], METRICS, tmp_path, parameters, experiments)
    assert "<script" not in html and html.count("&lt;script&gt;") == 7
    sources = {page.source(path) for path in tmp_path.iterdir()}
    assert sources == set(re.findall('src="([^"]+)"', html))
    without = page.render("t", "l", [], METRICS, tmp_path, {}, None)
    assert "<h2>Experiments</h2>" in html and "<h2>Experiments</h2>" not in without
