"""src/diffusion can be copied out of this project and used alone."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import get_args

import pytest
import torch

from src.diffusion import (
    Denoiser,
    DenoiserConfig,
    Method,
    Sampler,
    Schedule,
    UNet,
    sample,
)
from tests.helpers import ROOT, denoiser, schedule_config, unet_config

CORE = ROOT / "src" / "diffusion"
FILES = sorted(CORE.rglob("*.py"))


def nodes(kind: type) -> Iterator[tuple[str, ast.AST]]:
    """All nodes of a kind in the folder, each with its place."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield f"{path.relative_to(CORE)}:{node.lineno}", node


def test_the_core_imports_torch_the_standard_library_and_itself_alone():
    allowed = {"torch", *sys.stdlib_module_names}
    imported = [(place, alias.name) for place, node in nodes(ast.Import) for alias in node.names]
    for place, node in nodes(ast.ImportFrom):
        if node.level:  # ".x" of a file in the folder itself; deeper files may go up more dots
            outermost = len(place.split("/"))
            assert node.level <= outermost, f"{place} leaves the folder"
        else:
            imported.append((place, node.module))
    assert len(imported) > 5
    assert [entry for entry in imported if entry[1].split(".")[0] not in allowed] == []


def test_the_core_raises_value_errors_alone():
    raised = list(nodes(ast.Raise))
    assert len(raised) > 5
    others = [
        place
        for place, node in raised
        if not (isinstance(node.exc, ast.Call) and getattr(node.exc.func, "id", "") == "ValueError")
    ]
    assert others == []


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Sampler("plms", 5, "trailing"),
        lambda: Sampler("ddim", 5, "trailing", eta=1.5),
        lambda: Schedule(schedule_config("cubic")),
        lambda: Schedule(schedule_config(timesteps=1)),
        lambda: Schedule(schedule_config()).sampling_timesteps(0, "trailing"),
        lambda: UNet(unet_config(image_size=30)),
        lambda: Denoiser(
            DenoiserConfig(unet_config(heads=3), schedule_config(), "v", label_dropout=0.1)
        ),
        lambda: DenoiserConfig(unet_config(), schedule_config(), "y", label_dropout=0.1),
        lambda: sample(
            denoiser(), lambda: torch.zeros(1), Sampler("ddim", 5, "trailing", autoguidance=2.0)
        ),
    ],
)
def test_a_mistake_raises_a_plain_value_error(mistake):
    with pytest.raises(ValueError, match=r"^[a-z_, ]+: .*") as caught:
        mistake()
    assert type(caught.value) is ValueError


@pytest.mark.slow
def test_a_copy_of_the_folder_works_alone_under_another_name(tmp_path):
    shutil.copytree(CORE, tmp_path / "noise", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(get_args(Method))


ALONE = """
import sys
from typing import get_args
sys.path.insert(0, sys.argv[1])
import torch
from noise import Denoiser, DenoiserConfig, Method, Sampler, ScheduleConfig, UNetConfig, sample

schedule = ScheduleConfig("cosine", 100, 1e-4, 0.02, 0.008)
unet = UNetConfig(
    image_size=8, image_channels=1, classes=10, patch_size=2, base_channels=8, multipliers=(1, 2),
    res_blocks=1, attention_resolutions=(2,), heads=2, dropout=0.0, time_width=16,
)
denoiser = Denoiser(DenoiserConfig(unet, schedule, "v", label_dropout=0.1))
images, label = torch.rand(4, 1, 8, 8) * 2 - 1, torch.arange(4)
loss = denoiser.loss(images, torch.randn(4, 1, 8, 8), torch.tensor([0, 30, 60, 99]), label)
loss.mean().backward()
assert loss.shape == (4,) and loss.isfinite().all()
for method in get_args(Method):
    sampler = Sampler(method, steps=5, spacing="logsnr", guidance=2.0)
    *_, last = sample(denoiser.eval(), lambda: torch.randn(4, 1, 8, 8), sampler, label)
    assert last.x0.shape == (4, 1, 8, 8) and last.x0.abs().max() <= 1
    print(method)
assert "src" not in sys.modules
"""
