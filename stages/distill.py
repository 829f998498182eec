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
    students, adversarial, seed = p.distill.students, p.distill.adversarial_steps, p.distill.seed
    distiller = Distiller(teacher, sampler, data, train, students, adversarial, seed, checkpoint)
    STUDENTS.mkdir(exist_ok=True)
    for student, found in distiller.run():
        if (steps := found["evaluations"]) <= KEPT:
            path = STUDENTS / f"student-{steps}.safetensors"
            model_file.save(student, path, about | found | {"teacher": digests[0]})
    checkpoint.remove()
