"""What a training run has to show so far, beside its weights: learning curve, best model, previews. Part of a checkpoint."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from src.common.files import replacing
from src.diffusion.denoiser import Denoiser
from src.training.trainer import Step


@dataclass
class Progress:
    """`vars()` of it are the state to save; `Progress(**state)` goes on from there, with no row repeated or missing."""

    curve: list[dict] = field(default_factory=list)  # rows of the learning curve
    losses: list[float] = field(default_factory=list)  # of the steps since its last row
    levels: Tensor | None = None  # held-out loss by noise level, at its last row
    best: dict | None = None  # step, levels and weights of the row with the lowest held-out loss
    previews: dict[str, Tensor] = field(default_factory=dict)  # files drawn on the way, as bytes
    guide: dict[str, Tensor] | None = None  # the averaged network early on, for autoguidance
    pending: dict | None = None  # the last step, while nobody has looked at it: its row or preview may be due

    def took(self, step: Step) -> None:
        self.losses.append(step.loss)
        self.pending = asdict(step)

    def evaluated(self, step: Step, levels: Tensor, averaged: Denoiser) -> None:
        """One more row of the curve, of the weights `averaged`, whose held-out loss by noise level is `levels`."""
        loss = float(levels.mean())
        row = {"step": step.step, "train_loss": sum(self.losses) / len(self.losses), "heldout_loss": loss, "lr": step.lr}
        self.curve.append(row | {f"heldout_level_{i}": float(level) for i, level in enumerate(levels)})
        self.levels, self.losses = levels, []
        if self.best is None or levels.mean() < self.best["levels"].mean():
            self.best = {"step": step.step, "levels": levels, "weights": copy.deepcopy(averaged.unet.state_dict())}

    def looked(self) -> None:
        """All that is due after the last step is done."""
        self.pending = None

    def drew(self, path: Path) -> None:
        """Remember the file, since DVC clears its folder before a stage starts again."""
        self.previews[path.name] = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)

    def restore_previews(self, folder: Path) -> None:
        for name, content in self.previews.items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content.numpy().tobytes())
