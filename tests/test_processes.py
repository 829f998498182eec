"""Several processes on one machine, as `launcher` starts them: they do what one does, and end together."""

from __future__ import annotations

import io
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from src.common.errors import UserError
from src.diffusion import denoiser
from src.training.checkpoint import SUM
from src.training.processes import Processes
from src.training.trainer import Trainer
from tests.conftest import ROOT, run
from tests.conftest import denoiser as small_denoiser
from tests.test_pipeline import SMALL, set_params
from tools import get_data

TWO = ("torchrun", "--nproc-per-node", "2", "-m")
FULL = {"train": SMALL["train"] | {"batch_size": 128, "precision": "float32"}}


def test_one_process_says_what_it_hears():
    alone, gradient = Processes(), torch.tensor([1.0, 2.0])
    alone.average([gradient])
    alone.wait()
    assert alone.first and gradient.tolist() == [1.0, 2.0] and alone.largest(7) == 7 and alone.gathered("x") == ["x"]
    assert torch.equal(alone.mine({"x": gradient})["x"], gradient)


def test_a_batch_that_cannot_be_shared_equally_is_refused_by_its_key(params):
    three = Processes()
    three.count = 3
    settings = params.train.model_copy(update={"batch_size": 120, "accumulation": 4})
    images, labels = torch.zeros(50, 1, 8, 8, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64)
    Trainer(small_denoiser(), images, labels, settings, 0, "cpu", three)
    with pytest.raises(UserError, match=r"train.batch_size \(128\) must be .* train.accumulation times the 3 processes: 12"):
        Trainer(small_denoiser(), images, labels, settings.model_copy(update={"batch_size": 128}), 0, "cpu", three)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder with the stages' code, the arrays of the embedded digits and little training to do."""
    folder = tmp_path_factory.mktemp("processes") / "begun"
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    set_params(folder, SMALL | FULL)
    get_data.write_digits(folder / "data" / get_data.DIGITS)
    run(sys.executable, "-m", "stages", "unpack", cwd=folder)
    return folder


@pytest.fixture
def folder(begun, tmp_path) -> Path:
    return shutil.copytree(begun, tmp_path / "folder")


def curve(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "plots/learning_curve.csv")


@pytest.mark.slow
def test_two_processes_train_and_sample_as_one(folder):
    for stage in ("train", "sample"):
        run(sys.executable, "-m", "stages", stage, cwd=folder)
    losses, names = curve(folder), sorted(path.name for path in (folder / "generated_images").iterdir())
    model = (folder / "models/model.safetensors").read_bytes()
    weights = denoiser.load(folder / "models/model.safetensors")[0].state_dict()

    run(*TWO, "stages", "train", cwd=folder)
    for name in ("train_loss", "heldout_loss", "lr"):
        assert curve(folder)[name].tolist() == pytest.approx(losses[name].tolist(), rel=1e-4)
    for name, value in denoiser.load(folder / "models/model.safetensors")[0].state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-2, atol=1e-3)

    (folder / "models/model.safetensors").write_bytes(model)
    pixels = {name: (folder / "generated_images" / name).read_bytes() for name in names}
    manifest, way = ((folder / "generated" / name).read_bytes() for name in ("manifest.json", "trajectory.safetensors"))
    shutil.rmtree(folder / "generated_images")
    run(*TWO, "stages", "sample", cwd=folder)
    assert {path.name: path.read_bytes() for path in (folder / "generated_images").iterdir()} == pixels
    assert (folder / "generated/manifest.json").read_bytes() == manifest
    assert (folder / "generated/trajectory.safetensors").read_bytes() == way
    stages = re.findall('"stage": "([a-z]+)"', (folder / ".scratch/stages.jsonl").read_text())
    assert stages == ["unpack", "train", "sample", "train", "sample"]  # one line each, by the first process


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_any_number_go_on(folder):
    run(sys.executable, "-m", "stages", "train", cwd=folder)
    losses = curve(folder)["train_loss"].tolist()
    (folder / "dying.py").write_text(DYING)
    done = run(*TWO, "dying", cwd=folder, check=False)
    assert done.returncode != 0 and len(list((folder / ".scratch/train").glob("*.pt"))) == 1
    done = run(sys.executable, "-m", "stages", "train", cwd=folder)
    assert "resuming after step 20" in done.stdout and curve(folder)["train_loss"].tolist() == pytest.approx(losses, rel=1e-4)


DYING = """
import os, signal, sys
from src.training import trainer
from stages.__main__ import main
take = trainer.Trainer._take
def dying(self, batch):
    if self.step == 24 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, batch)
trainer.Trainer._take = dying
sys.argv = ["stages", "train"]
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes_after_the_same_step(folder, number):
    set_params(folder, {"train": {"steps": 5000, "checkpoint_interval": 5, "evaluate_interval": 5000, "max_epochs": 1e6}})
    process = subprocess.Popen(
        [sys.executable, "-c", STARTED, *TWO, "stages", "train"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not list(folder.glob(".scratch/train/*.pt")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    step = re.search(r"interrupted, saved after step (\d+)", said)
    assert step and process.returncode != 0, said
    saved = next(folder.glob(".scratch/train/*.pt")).read_bytes()[SUM:]
    assert torch.load(io.BytesIO(saved), weights_only=True)["trainer"]["step"] == int(step[1])


STARTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
os.execvp(sys.argv[1], sys.argv[1:])
"""
