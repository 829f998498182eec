"""Shared by the tests: tiny models, commands, and clones of this repository."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import torch

from src import archives
from src.common.dataset import Dataset
from src.diffusion.denoiser import Denoiser, DenoiserConfig
from src.diffusion.schedule import ScheduleConfig
from src.diffusion.unet import UNetConfig
from src.params import Unpack
from tools.fuzz import UNPACK

ROOT = Path(__file__).parent.parent
IDX_FILES = {
    "images": "train-images-idx3-ubyte",
    "labels": "train-labels-idx1-ubyte",
    "heldout_images": "t10k-images-idx3-ubyte",
    "heldout_labels": "t10k-labels-idx1-ubyte",
}


def unpack_settings(**changes) -> Unpack:
    return Unpack(**dict(UNPACK) | changes)


def read_archive(folder: Path, **changes) -> Dataset:
    """The data set in a folder, read with other settings than half of it held out."""
    return archives.read(folder, unpack_settings(**changes))[0]


def fetch_mnist(folder: Path) -> Path:
    folder.mkdir()
    mirror = os.environ["MNIST_MIRROR"]
    for stem in IDX_FILES.values():
        if "://" in mirror:
            urllib.request.urlretrieve(f"{mirror}/{stem}.gz", folder / f"{stem}.gz")
        else:
            (folder / f"{stem}.gz").write_bytes((Path(mirror) / f"{stem}.gz").read_bytes())
    return folder


def schedule_config(name: str = "cosine", timesteps: int = 1000) -> ScheduleConfig:
    return ScheduleConfig(name, timesteps, 1e-4, 0.02, 0.008)


def unet_config(**changes) -> UNetConfig:
    small = dict(
        image_size=8,
        image_channels=1,
        classes=10,
        patch_size=2,
        base_channels=8,
        multipliers=(1, 2),
        res_blocks=1,
        attention_resolutions=(2,),
        heads=2,
        dropout=0.0,
        time_width=16,
    )
    return UNetConfig(**small | changes)


def denoiser(
    prediction: str = "v",
    schedule: str = "cosine",
    label_dropout: float = 0.1,
    margin: float = 0.0,
    **unet,
) -> Denoiser:
    """A small denoiser whose output depends on all its inputs: fresh ones start at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = DenoiserConfig(
            unet_config(**unet), schedule_config(schedule), prediction, label_dropout, margin
        )
        model = Denoiser(config)
        for weights in model.parameters():
            if not weights.any():
                torch.nn.init.normal_(weights, std=0.1)
    return model.eval()


def run(
    *command: str, cwd: Path, check: bool = True, **environment: str
) -> subprocess.CompletedProcess:
    """Run a command to its end. Raises AssertionError with its output unless it succeeds.

    The output goes through files: a process that the command leaves behind keeps a pipe open.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        returncode = subprocess.run(
            command, cwd=cwd, env=os.environ | environment, stdout=out, stderr=error, timeout=1200
        ).returncode
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read())
    done = subprocess.CompletedProcess(command, returncode, *texts)
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done


def wait_for_checkpoint(folder: Path, training: subprocess.Popen) -> None:
    """Return once `training` has saved a checkpoint in `folder`. Raises AssertionError if not."""
    end = time.monotonic() + 900
    while not list(folder.glob(".scratch/train/*.pt")):
        assert training.poll() is None, "the training ended before its first checkpoint"
        assert time.monotonic() < end, "no checkpoint within 15 minutes"
        time.sleep(0.02)


def clone_into(folder: Path) -> Path:
    """A new repository with the files of this working tree, except those that git ignores."""
    folder.mkdir(parents=True)
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, run(*command, cwd=ROOT).stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    run("git", "init", "--quiet", cwd=folder)
    run("git", "config", "user.name", "Test", cwd=folder)
    run("git", "config", "user.email", "test@example.org", cwd=folder)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--allow-empty", "--message", "state", cwd=folder)
