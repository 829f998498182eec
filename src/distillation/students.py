"""A student: a denoiser that draws in a fixed number of evaluations, without guidance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .. import model_file, provenance
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import Sampler
from ..params import Precision


def student_sampler(steps: int) -> Sampler:
    """The sampler of a student that draws in `steps` evaluations."""
    return Sampler("ddim", steps, "trailing")


def open_students(folder: Path, teacher: str, precision: Precision) -> dict[int, Denoiser]:
    """The students in a folder, by their number of evaluations.

    `teacher` is the digest of the trained model's file. Raises UserError if they are not its own.
    """
    students = {}
    for path in folder.glob("student-*.safetensors"):
        student, about = model_file.open_model(path, precision)
        provenance.expect(f"{path}, its teacher", about.get("teacher"), teacher)
        students[about["evaluations"]] = student
    return dict(sorted(students.items()))


def student_of(denoiser: Denoiser) -> Denoiser:
    """A copy with the averaged weights alone: no guide, and no guidance by class."""
    student = Denoiser(replace(denoiser.config, label_dropout=0.0))
    student.unet.load_state_dict(denoiser.unet.state_dict())
    student.precision = denoiser.precision
    return student.to(next(denoiser.parameters()).device)
