"""Processes that share a run, on one machine and on two: they do what one process does."""

from __future__ import annotations

import io
import os
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

from src import model_file
from src.common.errors import UserError
from src.common.processes import Processes
from src.training.checkpoint import DIGEST_BYTES
from src.training.trainer import Trainer
from tests.helpers import ROOT, denoiser, run, wait_for_checkpoint
from tests.test_pipeline import SMALL, set_params
from tools import get_data, namespaces

TWO = ("torchrun", "--nproc-per-node", "2", "-m")
FULL = {"train": SMALL["train"] | {"batch_size": 128, "precision": "float32"}}


def test_one_process_gets_back_what_it_gives():
    alone, gradient = Processes(), torch.tensor([1.0, 2.0])
    alone.average([gradient])
    alone.wait()
    assert alone.first and gradient.tolist() == [1.0, 2.0]
    assert alone.largest(7) == 7 and alone.gathered("x") == ["x"]
    assert torch.equal(alone.share({"x": gradient})["x"], gradient)


def test_a_batch_that_cannot_be_shared_equally_is_refused_by_its_key(params):
    three = Processes()
    three.count = 3
    settings = params.train.model_copy(update={"batch_size": 120, "accumulation": 4})
    images = torch.zeros(50, 1, 8, 8, dtype=torch.uint8)
    labels = torch.zeros(50, dtype=torch.int64)
    Trainer(denoiser(), images, labels, settings, 0, "cpu", three)
    odd = settings.model_copy(update={"batch_size": 128})
    complaint = (
        r"train.batch_size: .* multiple of 12 \(train.accumulation .* 3 processes\), got 128"
    )
    with pytest.raises(UserError, match=complaint):
        Trainer(denoiser(), images, labels, odd, 0, "cpu", three)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder with the stages' code, in which one process has trained on the embedded digits."""
    folder = tmp_path_factory.mktemp("processes") / "begun"
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    set_params(folder, SMALL | FULL)
    get_data.write_digits(folder / "data" / get_data.DIGITS)
    for stage in ("unpack", "train"):
        run(sys.executable, "-m", "stages", stage, cwd=folder)
    return folder


@pytest.fixture
def folder(begun, tmp_path) -> Path:
    return shutil.copytree(begun, tmp_path / "folder")


def curve(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "plots/learning_curve.csv")


@pytest.mark.slow
def test_two_processes_train_and_sample_as_one(folder):
    model, images = folder / "models/model.safetensors", folder / "generated_images"
    run(sys.executable, "-m", "stages", "sample", cwd=folder)
    expected_curve, expected_model = curve(folder), model.read_bytes()
    expected_weights = model_file.load(model)[0].state_dict()

    run(*TWO, "stages", "train", cwd=folder)
    for name in ("train_loss", "heldout_loss", "lr"):
        expected = expected_curve[name].tolist()
        assert curve(folder)[name].tolist() == pytest.approx(expected, rel=1e-4)
    for name, weights in model_file.load(model)[0].state_dict().items():
        torch.testing.assert_close(weights, expected_weights[name], rtol=1e-2, atol=1e-3)

    model.write_bytes(expected_model)
    pixels = {path.name: path.read_bytes() for path in images.iterdir()}
    outputs = [folder / "generated/manifest.json", folder / "generated/trajectory.safetensors"]
    expected_outputs = [path.read_bytes() for path in outputs]
    shutil.rmtree(images)
    run(*TWO, "stages", "sample", cwd=folder)
    assert {path.name: path.read_bytes() for path in images.iterdir()} == pixels
    assert [path.read_bytes() for path in outputs] == expected_outputs
    log = (folder / ".scratch/stages.jsonl").read_text()
    stages = re.findall('"stage": "([a-z]+)"', log)
    # One line each, by the first process.
    assert stages == ["unpack", "train", "sample", "train", "sample"]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_any_number_go_on(folder):
    losses = curve(folder)["train_loss"].tolist()
    (folder / "dying.py").write_text(DYING)
    killed = run(*TWO, "dying", cwd=folder, check=False)
    assert killed.returncode != 0 and len(list((folder / ".scratch/train").glob("*.pt"))) == 1
    resumed = run(sys.executable, "-m", "stages", "train", cwd=folder)
    assert "resuming after step 20" in resumed.stdout
    assert curve(folder)["train_loss"].tolist() == pytest.approx(losses, rel=1e-4)


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
def test_a_signal_ends_all_processes_after_the_same_step(folder):
    long = {"steps": 5000, "max_epochs": 1e6, "checkpoint_interval": 5, "evaluate_interval": 5000}
    set_params(folder, {"train": long})
    command = [sys.executable, "-c", STARTED, *TWO, "stages", "train"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(folder, process)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=900)[1]
    step = re.search(r"interrupted, saved after step (\d+)", errors)
    assert step and process.returncode != 0, errors
    state = next(folder.glob(".scratch/train/*.pt")).read_bytes()[DIGEST_BYTES:]
    assert torch.load(io.BytesIO(state), weights_only=True)["trainer"]["step"] == int(step[1])


STARTED = """
import os, signal, sys
# A shell that starts the tests in the background makes them ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execvp(sys.argv[1], sys.argv[1:])
"""


PATIENCE = 60  # seconds within which a machine must notice that the other is gone


@pytest.fixture(scope="module")
def machines():
    with namespaces.connected() as pair:
        if pair is None:
            pytest.skip("wants Linux, root and the command ip, for network namespaces")
        yield pair


@pytest.fixture
def expected(machines, folder) -> dict[str, bytes]:
    """What two processes on one machine make."""
    for stage in ("train", "sample"):
        run(*TWO, "stages", stage, cwd=folder, OMP_NUM_THREADS="1")
    found = files(folder)
    for name in ("generated_images", ".scratch", "models"):
        shutil.rmtree(folder / name)
    return found


def files(root: Path) -> dict[str, bytes]:
    paths = [root / "models/model.safetensors", *(root / "generated_images").iterdir()]
    return {path.name: path.read_bytes() for path in paths}


def together(machines: namespaces.Machines, stage: str, cwd: Path) -> list[str]:
    """Run a stage on both machines to its end; what each printed."""
    both = namespaces.torchrun(machines, "stages", stage, cwd=cwd)
    outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    return outputs


@pytest.mark.slow
def test_two_machines_make_what_two_processes_make_and_outlive_a_death(folder, expected, machines):
    set_params(folder, {"train": {"checkpoint_interval": 5}})
    both = namespaces.torchrun(machines, "stages", "train", cwd=folder)
    wait_for_checkpoint(folder, both[0])
    for pid in machines[1].processes():
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    output = both[0].communicate(timeout=PATIENCE)[0]
    both[1].wait()
    assert time.monotonic() - killed < PATIENCE and both[0].returncode != 0
    assert "another process of this run has ended or cannot be reached" in output
    assert "resuming after step" in together(machines, "train", folder)[0]
    together(machines, "sample", folder)
    assert files(folder) == expected
