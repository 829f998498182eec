"""A student: a denoiser that draws in a fixed number of evaluations, without guidance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .. import model_file, provenance
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import Sampler
from ..params import Precision


def student_sampler(about: dict) -> Sampler:
    """The sampler of a student, whose file says this about it."""
    return Sampler("ddim", about["evaluations"], "trailing", eta=about.get("eta", 0.0))


def open_students(
    folder: Path, teacher: str, precision: Precision
) -> list[tuple[Denoiser, Sampler]]:
    """The students in a folder, each with its sampler, by their number of evaluations.

    `teacher` is the digest of the trained model's file. Raises UserError for a student of another.
    """
    students = []
    for path in folder.glob("student-*.safetensors"):
        student, about = model_file.open_model(path, precision)
        provenance.expect(f"{path}, its teacher", about.get("teacher"), teacher)
        students.append((student, student_sampler(about)))
    return sorted(students, key=lambda pair: pair[1].steps)


def student_of(denoiser: Denoiser) -> Denoiser:
    """A copy with the averaged weights alone: no guide, and no classifier-free guidance."""
    student = Denoiser(replace(denoiser.config, label_dropout=0.0))
    student.unet.load_state_dict(denoiser.unet.state_dict())
    student.precision = denoiser.precision
    return student.to(next(denoiser.parameters()).device)
