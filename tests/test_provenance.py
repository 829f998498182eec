"""Files that stages write and other stages read: damaged ones end in a message that names them."""

from __future__ import annotations

import json

import pytest
import torch

from src import provenance
from src.common.errors import UserError
from src.common.files import save_tensors
from stages.report import METRICS
from tests.helpers import ROOT

ABOUT = {
    "dataset": "shapes",
    "dataset_fingerprint": "123456789abc",
    "images": 40,
    "yardstick": None,
    "classifier": "a",
    "moments": "b",
    "features": "c",
    "floors": {
        "heldout": {"images": 10, "fd_digits": 1.5},
        "train": {"images": 20, "fd_digits": 1},
    },
}
SCORES = dict.fromkeys(provenance.HeldoutFloors.__annotations__, 1.0) | {"images": 10}
del SCORES["class_shares"]
FLOORS = {
    "features": "a",
    "neighbours": 3,
    "seed": 0,
    "heldout": SCORES,
    "train": {"images": 20, "broken": 0.1, "cas": 0.9},
}


@pytest.mark.parametrize("path, kind", METRICS.items())
def test_the_committed_metrics_have_the_types_that_other_stages_expect(path, kind):
    assert provenance.read(ROOT / path, kind) == json.loads((ROOT / path).read_text())


@pytest.mark.parametrize(
    "values, kind, complaint",
    [
        ([], provenance.ReferenceAbout, "should be an object"),
        (ABOUT | {"floors": None}, provenance.ReferenceAbout, "floors: "),
        (ABOUT | {"floors": {"heldout": {}}}, provenance.ReferenceAbout, "floors.heldout.images"),
        (ABOUT | {"classifier": 7}, provenance.ReferenceAbout, "classifier: "),
        (ABOUT | {"images": "40"}, provenance.ReferenceAbout, "images: "),
        (FLOORS | {"heldout": 5}, provenance.Floors, "heldout: "),
        (FLOORS | {"heldout": SCORES | {"near": None}}, provenance.Floors, "heldout.near: "),
        (
            FLOORS | {"heldout": SCORES | {"class_shares": ["a"]}},
            provenance.Floors,
            "heldout.class_shares.0: ",
        ),
        (FLOORS | {"train": {"images": 20}}, provenance.Floors, "train.broken: missing"),
        (FLOORS | {"train": {"broken": float("nan")}}, provenance.Floors, "not JSON compliant"),
    ],
)
def test_a_file_with_a_wrong_type_is_refused_by_its_key(tmp_path, values, kind, complaint):
    (path := tmp_path / "values.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"values\.json: .*{complaint}.*dvc repro"):
        provenance.read(path, kind)


def test_whole_files_are_read(tmp_path):
    path = tmp_path / "values.json"
    for values, kind in ((ABOUT, provenance.ReferenceAbout), (FLOORS, provenance.Floors)):
        path.write_text(json.dumps(values))
        assert provenance.read(path, kind) == values


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "step,loss\n1,high\n", '"step,loss\n1'])
def test_a_table_without_its_columns_of_numbers_is_refused(tmp_path, text):
    (path := tmp_path / "curve.csv").write_text(text)
    with pytest.raises(UserError, match=r"curve\.csv: .*dvc repro"):
        provenance.table(path, ("step", "loss"))
    path.write_text("step,loss\n1,0.5\n2,\n")
    assert provenance.table(path, ("step", "loss"))["step"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": torch.zeros(3, 2, 1, 8, 8, dtype=torch.uint8)},
        {"states": torch.zeros(3, 2, 1, 8, 8)},
        {"states": torch.zeros(3, 2, 8, 8, dtype=torch.uint8)},
        {"states": torch.zeros(2, 2, 1, 8, 8, dtype=torch.uint8)},
    ],
)
def test_a_trajectory_of_another_shape_is_refused(tmp_path, tensors):
    save_tensors(path := tmp_path / "trajectory.safetensors", tensors)
    with pytest.raises(UserError, match=r"trajectory\.safetensors: expected `states`.*dvc repro"):
        provenance.trajectory(path, steps=2)
    save_tensors(path, {"states": torch.zeros(3, 2, 1, 8, 8, dtype=torch.uint8)})
    assert provenance.trajectory(path, steps=2).shape == (3, 2, 1, 8, 8)
