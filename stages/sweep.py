"""Score several samplers at several numbers of steps, on one model."""

from __future__ import annotations

import time

from tqdm import tqdm

from src import drawing, model_file, params, provenance
from src.common import artifact, reports
from src.measure import scores, strokes
from src.measure.imagenet import Imagenet
from stages import inputs

MODEL = "models/model.safetensors"


def main() -> None:
    p = params.load()
    reference, real = inputs.measuring()
    model, about = model_file.open_model(MODEL, p.sweep.precision)
    fingerprint = reference.about["dataset_fingerprint"]
    provenance.expect(f"{MODEL}, its data set", about["dataset_fingerprint"], fingerprint)
    labels = drawing.labels_for(model, about, None, p.sweep.seed, p.sweep.count)
    imagenet = Imagenet(real)

    rows = []
    for name in p.sweep.samplers:
        for steps in tqdm(p.sweep.steps, desc=name, unit="setting"):
            sampler = drawing.fitted(p.sweep.sampler(name, steps), model)
            started = time.perf_counter()
            images = drawing.draw(model, sampler, p.sweep.seed, p.sweep.count, labels)
            seconds = time.perf_counter() - started
            cost = {
                "sampler": name,
                "steps": steps,
                "evaluations": sampler.evaluations(model),
                "images_per_second": len(images) / seconds,
            }
            quality = scores.quick(reference.classifier, images, labels, reference.moments)
            quality["kid_imagenet"] = imagenet.distance(images)
            rows.append(cost | quality | {"broken": strokes.broken(images)})
    reports.write_csv("plots/quality_over_steps.csv", rows)

    best = min(rows, key=lambda row: row["fd_digits"])
    metrics = {key: about[key] for key in ("dataset", "dataset_fingerprint")} | {
        "model": artifact.digest(MODEL),
        "images": p.sweep.count,
        "best_sampler": best["sampler"],
        "best_steps": best["steps"],
        "best_evaluations": best["evaluations"],
        "best_fd_digits": best["fd_digits"],
    }
    heldout = scores.shuffled(real.heldout, p.sweep.seed)
    sets, mean, deviation = scores.floor_of_sets(heldout, reference.distance, p.sweep.count)
    metrics["floor_heldout_sets"] = sets
    metrics["fd_digits_floor_heldout"] = mean
    metrics["fd_digits_floor_heldout_sd"] = deviation
    reports.write_json("metrics/sweep.json", metrics | imagenet.floors(p.sweep.count))
