"""Distil the trained model into students that draw in a few evaluations. Writes students/."""

from __future__ import annotations

from pathlib import Path

from src import drawing, model_file, params, provenance
from src.common import artifact, dataset, device
from src.distillation.distiller import Distiller, student_settings
from src.training.checkpoint import Checkpoint

MODEL, STUDENTS = Path("models/model.safetensors"), Path("students")
KEPT = 4  # write the students with at most this many evaluations


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    teacher, about = model_file.open_model(MODEL, p.train.precision)
    provenance.expect(f"{MODEL}, its data set", about["dataset_fingerprint"], data.fingerprint)
    train = student_settings(p.train, p.distill)
    sampler = drawing.fitted(p.sample.sampler, teacher)
    digests = [artifact.digest(path) for path in (MODEL, "arrays/dataset.safetensors")]
    arithmetic = [device.name(device.best()), teacher.precision]
    key = [*digests, train.model_dump(), p.distill.model_dump(), sampler, *arithmetic]
    checkpoint = Checkpoint("distill", key)
    distiller = Distiller(
        teacher, sampler, data, train, p.distill.students, p.distill.seed, checkpoint
    )
    STUDENTS.mkdir(exist_ok=True)
    for steps, student in distiller.run().items():
        if steps <= KEPT:
            about |= {"evaluations": steps, "teacher": digests[0]}
            model_file.save(student, STUDENTS / f"student-{steps}.safetensors", about)
    checkpoint.remove()
