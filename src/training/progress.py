"""The results of a training run so far: learning curve, best model, previews.

A checkpoint holds them together with the state of the trainer.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..common.files import replacing
from ..diffusion.denoiser import Denoiser
from .trainer import Step


@dataclass
class Progress:
    """`vars(progress)` is the state to save; `Progress(**state)` restores it."""

    curve: list[dict] = field(default_factory=list)  # rows of the learning curve
    losses: list[float] = field(default_factory=list)  # of each step since the last row
    levels: Tensor | None = None  # held-out loss by noise level in the last row
    best: dict | None = None  # step, levels and weights of the row with the lowest held-out loss
    previews: dict[str, Tensor] = field(default_factory=dict)  # file names and their bytes
    guide: dict[str, Tensor] | None = None  # early averaged weights, for autoguidance
    pending: dict | None = None  # the last step, until its row and preview are done

    def add_step(self, step: Step) -> None:
        self.losses.append(step.loss)
        self.pending = asdict(step)

    def add_row(self, step: Step, levels: Tensor, averaged: Denoiser) -> None:
        """Add a row to the curve, and keep the weights of `averaged` if their loss is the lowest.

        `levels` is the held-out loss of `averaged` by noise level.
        """
        loss = float(levels.mean())
        row = {
            "step": step.step,
            "train_loss": sum(self.losses) / len(self.losses),
            "heldout_loss": loss,
            "lr": step.lr,
        }
        by_level = {f"heldout_level_{i}": float(level) for i, level in enumerate(levels)}
        self.curve.append(row | by_level)
        self.levels, self.losses = levels, []
        if self.best is None or levels.mean() < self.best["levels"].mean():
            weights = copy.deepcopy(averaged.unet.state_dict())
            self.best = {"step": step.step, "levels": levels, "weights": weights}

    def settle(self) -> None:
        """Record that the row and the preview of the last step are done."""
        self.pending = None

    def keep_preview(self, path: Path) -> None:
        """Keep the bytes of the file: DVC empties its folder before it restarts a stage."""
        self.previews[path.name] = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)

    def restore_previews(self, folder: Path) -> None:
        for name, content in self.previews.items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content.numpy().tobytes())
