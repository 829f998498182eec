"""Measure the students of `distill`, and their teacher with few evaluations."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from src import drawing, model_file, params, plotting
from src.common import artifact, dataset, reports
from src.distillation.figure import quality_over_evaluations
from src.distillation.students import open_students
from src.measure.extractors import IMAGENET
from src.measure.fid import ExtractorReference
from src.measure.quality import Comparison
from stages import inputs

MODEL, STUDENTS = Path("models/model.safetensors"), Path("students")
FEW_STEPS = (3, 4, 6)  # of the teacher, besides sample.steps
SCORES = ("fd_imagenet", "fd_digits", "accuracy", "broken", "precision", "recall", "coverage")


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    reference, real = inputs.measuring(data)
    imagenet = ExtractorReference(IMAGENET, Path("reference")).distance()
    teacher, about = model_file.open_model(MODEL, p.sample.precision)
    digest, settings = artifact.digest(MODEL), p.sample
    sampler = drawing.fitted(settings.sampler, teacher)
    students = open_students(STUDENTS, digest, settings.precision)
    drawers = [("student", student, its_sampler) for student, its_sampler in students]
    few = [replace(sampler, steps=steps) for steps in FEW_STEPS if steps < sampler.steps]
    drawers += [("teacher", teacher, one) for one in [*few, sampler]]
    labels = drawing.labels_for(teacher, about, settings.classes, settings.seed, settings.count)

    rows = []
    for name, model, one in tqdm(drawers, desc="students", unit="setting"):
        started = time.perf_counter()
        batch = settings.batch_size
        images = drawing.draw(model, one, settings.seed, settings.count, labels, batch)
        rate = len(images) / (time.perf_counter() - started)
        comparison = Comparison(images, labels, data, reference, real)
        scores = comparison.scores(p.quality.neighbours, p.quality.seed)
        scores |= {"accuracy": comparison.accuracy(), "broken": comparison.broken()}
        scores["fd_imagenet"] = imagenet(images) if imagenet else None
        row = {"model": name, "evaluations": one.evaluations(model), "images_per_second": rate}
        rows.append(row | {score: scores[score] for score in SCORES})
    reports.write_csv("plots/students.csv", rows)
    metrics = data.describe() | {"model": digest, "images": settings.count}
    for row in rows[: len(students)]:
        metrics[f"evaluations_{row['evaluations']}"] = {score: row[score] for score in SCORES}
    reports.write_json("metrics/students.json", metrics)
    note = f"{data.name} ({data.fingerprint}), model {digest}, {settings.count} images each"
    plotting.save(quality_over_evaluations(pd.DataFrame(rows), note), "figures/students.png", 300)
