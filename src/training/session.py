"""One training run: steps, evaluation, previews, checkpoints and interruption."""

from __future__ import annotations

import copy
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from .. import model_file
from ..common import artifact, device, reports
from ..common.allocator import return_freed_memory
from ..common.dataset import Dataset
from ..common.errors import UserError
from ..common.files import replacing
from ..params import Train
from . import interruption
from .checkpoint import Checkpoint
from .heldout import level_edges, loss_by_noise_level
from .interruption import Interruption
from .outlook import Outlook
from .preview import preview
from .progress import Progress
from .trainer import Step, Trainer


@dataclass(frozen=True)
class Outputs:
    """The paths that a run writes."""

    model: Path
    last: Path
    previews: Path  # a folder
    curve: Path
    levels: Path
    metrics: Path


@dataclass
class Session:
    """Run `trainer` and write `outputs`.

    Every process has its own session and calls the same methods. Only the first process writes.
    `settings` are those of params.yaml; `trainer.settings` may have fewer steps.
    """

    trainer: Trainer
    data: Dataset
    settings: Train
    seed: int
    data_digest: str
    outputs: Outputs
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        model = self.trainer.denoiser
        key = [
            self.seed,
            self.settings.model_dump(),
            repr(model.config),
            self.data_digest,
            device.name(self.trainer.device),
            model.precision,
        ]
        self.processes = self.trainer.processes
        self.checkpoint = Checkpoint("train", key, self.processes.count)
        self.steps = self.trainer.settings.steps
        self.guide_step = math.ceil(self.settings.guide_at * self.steps)

    def run(self) -> None:
        """Resume if there is a checkpoint, take the remaining steps, and write the results.

        After SIGINT or SIGTERM, save a checkpoint and exit.
        """
        self._resume()
        with interruption.noted() as interrupted:
            if self.progress.pending:
                self._after(Step(**self.progress.pending), interrupted)
            self._take_steps(interrupted)
        if self.processes.first:
            self._finish()

    def _resume(self) -> None:
        self.outputs.previews.mkdir(exist_ok=True)
        if saved := self.checkpoint.load():
            self.trainer.load_state_dict(saved.pop("trainer"))
            self.progress = Progress(**saved)
            if self.processes.first:
                self.progress.restore_previews(self.outputs.previews)
                print(f"train: resuming after step {self.trainer.step}")
        state = f"{self.trainer.step} {self.data.fingerprint}"
        if len(set(self.processes.gathered(state))) > 1:
            raise UserError(
                f"the processes do not see the same data and checkpoint. "
                f"All of them must share {self.checkpoint.path.parent}"
            )

    def _take_steps(self, interrupted: Interruption) -> None:
        bar = tqdm(
            self.trainer.run(),
            desc="train",
            unit="step",
            initial=self.trainer.step,
            total=self.steps,
            disable=not self.processes.first,
        )
        outlook = Outlook(self.trainer)
        for step in bar:
            self.progress.add_step(step)
            postfix = {"loss": f"{step.loss:.4f}"}
            if rate := bar.format_dict["rate"]:  # None until the first display
                postfix["images/s"] = f"{rate * self.settings.batch_size:.0f}"
            bar.set_postfix(postfix, refresh=False)
            if (message := outlook.after_step()) and self.processes.first:
                bar.write(message)
            self._leave_if(interrupted, step)
            self._after(step, interrupted)
            if self._due(step, self.settings.checkpoint_interval) and self.processes.first:
                self._save()

    def _after(self, step: Step, interrupted: Interruption) -> None:
        """Do everything that is due after a step. It may take seconds."""
        if step.step == self.guide_step:
            self.progress.guide = copy.deepcopy(self.trainer.averaged.unet.state_dict())
        evaluate = self._due(step, self.settings.evaluate_interval)
        draw = self._due(step, self.settings.sample_interval)
        if evaluate or draw:
            return_freed_memory()  # the copies' threads keep theirs, which these cannot use
        if evaluate and self.processes.first:
            self._evaluate(step)
        if draw and self.processes.first:
            self._preview(step)
        self.progress.settle()
        if evaluate or draw:
            self._leave_if(interrupted, step)

    def _due(self, step: Step, interval: int) -> bool:
        return step.step % interval == 0 or step.step == self.steps

    def _evaluate(self, step: Step) -> None:
        """Measure the held-out loss and add a row to the learning curve."""
        averaged, data = self.trainer.averaged, self.data
        levels = loss_by_noise_level(averaged, data.heldout_images, data.heldout_labels, self.seed)
        self.progress.add_row(step, levels, averaged)
        reports.write_csv(self.outputs.curve, self.progress.curve)

    def _preview(self, step: Step) -> None:
        path = self.outputs.previews / f"step_{step.step:06d}.png"
        with replacing(path) as temporary:
            preview(self.trainer.averaged, self.seed).save(temporary, "PNG")
        self.progress.keep_preview(path)

    def _save(self) -> None:
        self.checkpoint.save(vars(self.progress) | {"trainer": self.trainer.state_dict()})

    def _leave_if(self, interrupted: Interruption, step: Step) -> None:
        """If any process was interrupted, save a checkpoint and exit.

        An evaluation or preview that is still due runs after the resume.
        """
        number = self.processes.largest(interrupted.signal or 0)
        if not number:
            return
        interrupted.step_ended()
        started = time.monotonic()
        if self.processes.first:
            self._save()
            seconds = time.monotonic() - started
            print(
                f"\ntrain: interrupted, saved after step {step.step} in {seconds:.1f} s; "
                f"`dvc repro` continues from there",
                file=sys.stderr,
            )
        self.processes.wait()
        sys.exit(128 + number)

    def _finish(self) -> None:
        """Write both models, curve, levels and metrics, and remove the checkpoint."""
        progress, averaged = self.progress, self.trainer.averaged
        assert progress.best is not None and progress.levels is not None  # set at the last step
        best = progress.best
        reports.write_csv(self.outputs.curve, progress.curve)
        if progress.guide:
            averaged.guide = copy.deepcopy(averaged.unet)
            averaged.guide.load_state_dict(progress.guide)
        about = self._about(self.trainer.step, progress.levels)
        model_file.save(averaged, self.outputs.last, about)
        averaged.unet.load_state_dict(best["weights"])
        model_file.save(averaged, self.outputs.model, self._about(best["step"], best["levels"]))
        self._write_levels(best["levels"])
        model = self.trainer.denoiser
        metrics = self.data.describe() | {
            "model": artifact.digest(self.outputs.model),
            "parameters": sum(weights.numel() for weights in model.unet.parameters()),
            "precision": model.precision,
            "steps": self.trainer.step,
            "best_step": best["step"],
            "heldout_loss": float(best["levels"].mean()),
        }
        reports.write_json(self.outputs.metrics, metrics)
        self.checkpoint.remove()

    def _about(self, step: int, levels: Tensor) -> dict:
        """Facts for the header of a model file: data set, classes, step, held-out loss."""
        classes: dict = {"class_counts": self.data.class_counts()}
        if self.data.named:
            classes["class_names"] = self.data.names
        return self.data.describe() | classes | {"step": step, "heldout_loss": float(levels.mean())}

    def _write_levels(self, levels: Tensor) -> None:
        edges = level_edges(len(levels), len(self.trainer.denoiser.schedule))
        rows = [
            {"t_from": start, "t_to": end, "loss": float(loss)}
            for start, end, loss in zip(edges[:-1], edges[1:], levels, strict=True)
        ]
        reports.write_csv(self.outputs.levels, rows)
