"""The project as a library: its wheel, and its notebook."""

import json
import sys
import zipfile

import matplotlib
import pytest

from tests.helpers import ROOT, run

pytestmark = pytest.mark.slow

# A script that has the wheel alone.
SCRIPT = """
import sys, torch
from noisette import drawing, model_file
from noisette.diffusion import Sampler
from noisette.score import Instrument, read

labels = torch.arange(20) % 10
model, _ = model_file.open_model(sys.argv[1], "float32")
digits = drawing.draw(model, Sampler("ddim", 4, "trailing"), seed=0, count=20, labels=labels)
torch.save(digits, "digits.pt")
scores = Instrument().measure(digits, labels)
assert scores["accuracy"].value > 0.5 and scores["fd_imagenet"].value > 0, scores
assert not {"dvc", "src", "tools"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The committed model, from the remote inside the repository."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    run("dvc", "get", ".", "models/model.safetensors", "--out", str(path), cwd=ROOT)
    return path


def test_the_wheel_draws_and_scores_without_dvc(tmp_path, model):
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=ROOT)
    (wheel,) = tmp_path.glob("noisette-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"noisette"}
    (tmp_path / "work").mkdir()
    command = (sys.executable, "-c", SCRIPT, str(model))
    run(*command, cwd=tmp_path / "work", PYTHONPATH=str(tmp_path / "site"))
    assert (tmp_path / "work/digits.pt").exists()


def test_the_notebook_runs(tmp_path, model, monkeypatch, capsys):
    notebook = json.loads((ROOT / "notebooks/digits.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    for name in ("src", "yardstick", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/model.safetensors").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    matplotlib.use("Agg")
    values: dict = {}
    for cell in cells:
        exec(cell, values)
    assert values["digits"].shape == (50, 1, 28, 28)
    assert "accuracy" in capsys.readouterr().out
