"""Data that do not fit into memory: stages under a limit that is less than the arrays.

The limit counts what Linux has to keep room for: allocations and private writable mappings, not
files mapped to be read.
"""

import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from src import classifier
from src.common import dataset
from tests.helpers import ROOT
from tests.test_archives import make_idx, png
from tests.test_pipeline import set_params

MIB = 2**20
# For all that is not data, once libraries are there. Training takes four times as much, sometimes
# more than five times. It may take ten times as much, which is still less than the data.
MARGIN = 64 * MIB

# Some work before the limit, so that what libraries set up once is there, too.
LIMITED = """
import importlib, resource, sys
import pandas, torch
stage = importlib.import_module(f"stages.{sys.argv[1]}")
layer = torch.nn.Conv2d(1, 8, 3)
layer(torch.zeros(4, 1, 8, 8)).sum().backward()
status = open("/proc/self/status").read()
now = int(status.partition("VmData:")[2].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (now + int(sys.argv[2]), resource.RLIM_INFINITY))
if "copy" in sys.argv:
    from src.common import dataset
    dataset.load("arrays/dataset.safetensors").images.clone()
stage.main()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's"),
]


@pytest.fixture
def folder(tmp_path):
    """A folder with params.yaml alone."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def limited(folder, stage: str, allowed: int, *more: str) -> subprocess.CompletedProcess:
    """Run a stage that may take `allowed` bytes beyond what the libraries take."""
    alone = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", LIMITED, stage, str(allowed), *more]
    return subprocess.run(
        command, cwd=folder, env=os.environ | alone, capture_output=True, text=True
    )


def test_idx_files_larger_than_memory_become_arrays_and_train_a_model(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (300_000, 48, 48), np.uint8)
    make_idx(
        folder / "data",
        compress=False,
        images=pixels,
        labels=np.arange(300_000) % 10,
        heldout_images=pixels[:100],
        heldout_labels=np.arange(100) % 10,
    )
    small = {"base_channels": 8, "multipliers": [1], "attention_resolutions": []}
    short = {"steps": 2, "sample_interval": 2, "evaluate_interval": 2}
    set_params(folder, {"model": small, "train": short})
    assert (done := limited(folder, "unpack", MARGIN)).returncode == 0, done.stderr
    unpacked = dataset.load(folder / "arrays/dataset.safetensors").images
    assert torch.equal(unpacked[:, 0], torch.from_numpy(pixels))
    assert (done := limited(folder, "train", 10 * MARGIN)).returncode == 0, done.stderr
    assert pixels.nbytes > 10 * MARGIN
    copying = limited(folder, "train", 10 * MARGIN, "copy")
    assert "can't allocate memory" in copying.stderr  # so the limit does limit


def test_a_zip_larger_than_memory_becomes_arrays(folder):
    (folder / "data").mkdir()
    random = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "data/own.zip", "w") as archive:
        for i in range(200):
            blocks = np.kron(
                random.integers(0, 256, (64, 64), np.uint8), np.ones((16, 16), np.uint8)
            )
            archive.writestr(f"{i:03}.png", png(blocks))
    assert (done := limited(folder, "unpack", MARGIN)).returncode == 0, done.stderr
    data = dataset.load(folder / "arrays/dataset.safetensors")
    assert data.images.shape == (180, 1, 1024, 1024)
    assert data.heldout_images.shape == (20, 1, 1024, 1024)


def test_features_larger_than_memory_become_moments(folder):
    images = torch.randint(0, 256, (400_000, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(400_000) % 10
    heldout = images[:200].clone(), labels[:200].clone()
    data = dataset.Dataset("own", "0" * 12, images, labels, *heldout)
    dataset.save(data, folder / "arrays/dataset.safetensors")
    config = classifier.ClassifierConfig(4, 1, 10, "labels", 0.0)
    model = classifier.Classifier(config)
    classifier.save(model, folder / "models/classifier.safetensors", {})
    set_params(folder, {"fid": {"inception": "never", "imagenet": "never"}})
    shutil.copytree(ROOT / "yardstick", folder / "yardstick")
    assert len(images) * classifier.FEATURES * 4 > 3 * MARGIN
    assert (done := limited(folder, "reference", MARGIN)).returncode == 0, done.stderr
