"""Train students one after another, each by the one before it, with checkpoints."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from ..common.dataset import Dataset
from ..common.errors import UserError
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import Sampler
from ..params import Distill, Train
from ..training import interruption
from ..training.checkpoint import Checkpoint
from ..training.trainer import Trainer
from .adversarial import AdversarialTrainer
from .halving import Halving, Teacher
from .students import student_of


class Phase(NamedTuple):
    """The training of a student: by halving the steps of the one before, or adversarial."""

    steps: int
    adversarial: bool


def student_settings(train: Train, settings: Distill) -> Train:
    """`train` for a student: another number of steps, lower rates, uniform times and weighting."""
    changes = {
        "steps": settings.steps,
        "lr": settings.lr * train.lr,
        "muon_lr": settings.lr * train.muon_lr if train.muon_lr else None,
        "times": "uniform",
        "weighting": "uniform",
    }
    return train.model_copy(update=changes)


@dataclass
class Distiller:
    """`run` returns the students, each with what its file says about it.

    Each student is distilled from the one before. Then the one with two steps gets adversarial
    training. `denoiser` is the trained model, `sampler` its guidance. A run that was stopped
    continues from `checkpoint` and ends in the same bits. After SIGINT or SIGTERM, `run` saves and
    exits. Raises UserError if the schedule has too few timesteps.
    """

    denoiser: Denoiser
    sampler: Sampler
    data: Dataset
    train: Train  # of one student: see student_settings
    steps: list[int]  # of the students, each half of the one before
    adversarial_steps: int  # of optimisation; 0: none
    seed: int
    checkpoint: Checkpoint

    def __post_init__(self) -> None:
        first, timesteps = 2 * self.steps[0], len(self.denoiser.schedule)
        if first > timesteps:
            raise UserError(
                f"distill.students: the first teacher takes {first} steps, but the schedule has "
                f"only {timesteps} timesteps. Begin with fewer"
            )
        self.phases = [Phase(steps, adversarial=False) for steps in self.steps]
        if self.adversarial_steps and 2 in self.steps:
            self.phases.append(Phase(2, adversarial=True))
        self.finished: list[dict[str, Tensor]] = []  # weights after each phase so far
        self.trainer: Trainer | AdversarialTrainer | None = None

    def run(self) -> list[tuple[Denoiser, dict]]:
        saved = self.checkpoint.load() or {"finished": [], "trainer": None}
        self.finished = saved["finished"]
        with interruption.noted() as interrupted:
            while len(self.finished) < len(self.phases):
                self.trainer = self._next_trainer()
                if saved["trainer"] is not None:
                    self.trainer.load_state_dict(saved["trainer"])
                    saved["trainer"] = None
                self._train(interrupted)
                self.finished.append(copy.deepcopy(self.trainer.averaged.unet.state_dict()))
                self.trainer = None
                self._save()
        phases = zip(self.phases, self.finished, strict=True)
        students = {phase.steps: (phase, weights) for phase, weights in phases}
        return [
            (self._student(weights), {"evaluations": steps, "eta": float(phase.adversarial)})
            for steps, (phase, weights) in students.items()
        ]

    def _student(self, weights: dict[str, Tensor]) -> Denoiser:
        student = student_of(self.denoiser)
        student.unet.load_state_dict(weights)
        return student.eval()

    def _next_trainer(self) -> Trainer | AdversarialTrainer:
        number = len(self.finished)
        steps, adversarial = self.phases[number]
        if adversarial:
            train = self.train.model_copy(update={"steps": self.adversarial_steps})
            student = self._student(self.finished[self.steps.index(2)])
            return AdversarialTrainer(student, self.denoiser, self.data, train, self.seed)
        if number:
            student = self._student(self.finished[-1])
            teacher = Teacher(copy.deepcopy(student), Sampler("ddim", 2 * steps, "trailing"))
        else:
            student = student_of(self.denoiser)
            guided = replace(self.sampler, method="ddim", steps=2 * steps, spacing="trailing")
            teacher = Teacher(self.denoiser, replace(guided, eta=0.0))
        return Trainer(
            student,
            self.data.images,
            self.data.labels,
            self.train,
            self.seed + number,
            next(student.parameters()).device,
            losses=Halving(student, teacher, steps),
            advice="Try a lower distill.lr",
        )

    def _train(self, interrupted: interruption.Interruption) -> None:
        trainer = self.trainer
        assert trainer is not None
        steps, adversarial = self.phases[len(self.finished)]
        name = f"{steps} steps" + ", adversarial" * adversarial
        total = trainer.settings.steps
        bar = tqdm(trainer.run(), desc=name, unit="step", initial=trainer.step, total=total)
        for step in bar:
            bar.set_postfix({"loss": f"{step.loss:.5f}"}, refresh=False)
            if interrupted.signal:
                interrupted.step_ended()
                self._save()
                print(
                    f"\ndistill: interrupted, saved after step {step.step} of the student with "
                    f"{name}; `make student` continues from there",
                    file=sys.stderr,
                )
                sys.exit(128 + interrupted.signal)
            if step.step % self.train.checkpoint_interval == 0:
                self._save()

    def _save(self) -> None:
        trainer = None if self.trainer is None else self.trainer.state_dict()
        self.checkpoint.save({"finished": self.finished, "trainer": trainer})
