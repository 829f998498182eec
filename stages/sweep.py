"""Quality over steps: score several samplers at several step counts on one model, with what each costs."""

from __future__ import annotations

import statistics
import time

import torch
from tqdm import tqdm

from src import classifier, drawing, frechet, params, provenance
from src.common import artifact, device, reports
from src.common.randomness import generator
from src.quality import scores, strokes


def main() -> None:
    p = params.load()
    real = provenance.reference("reference/about.json")
    provenance.check_measured(
        real, "models/classifier.safetensors", "reference/digits.npz", "arrays/features.safetensors"
    )
    model, about = drawing.open_model("models/model.safetensors", p.sweep.precision)
    provenance.expect("models/model.safetensors, its data set", about["dataset_fingerprint"], real["dataset_fingerprint"])
    instrument, _ = classifier.load("models/classifier.safetensors")
    instrument = instrument.to(device.best())
    reference = frechet.load("reference/digits.npz", classifier.FEATURES)
    counts = about["class_counts"] if model.conditional else []
    labels = drawing.choose_labels(None, counts, p.sweep.seed, p.sweep.count)
    heldout = provenance.tensors("arrays/features.safetensors")["heldout"]
    heldout = heldout[torch.randperm(len(heldout), generator=generator(p.sweep.seed, "floor"))]  # MNIST's first half is neater
    sets = [some for some in heldout.split(p.sweep.count) if len(some) == p.sweep.count]
    floors = [frechet.distance(frechet.moments(some.numpy()), reference) for some in sets]

    rows = []
    for name in p.sweep.samplers:
        method, spacing, *eta = name.split()
        for steps in tqdm(p.sweep.steps, desc=name, unit="setting"):
            guidance = p.sweep.guidance if model.conditional else 1.0
            sampler = drawing.Sampler(
                method, steps, spacing, float(eta[0]) if eta else 0.0, guidance, p.sweep.guidance_interval,
                p.sweep.autoguidance, p.sweep.autoguidance_interval,
            )
            started = time.perf_counter()
            images = drawing.draw(model, sampler, p.sweep.seed, p.sweep.count, labels)
            seconds = time.perf_counter() - started
            rows.append({
                "sampler": name, "steps": steps, "evaluations": sampler.evaluations(model),
                "images_per_second": len(images) / seconds,
            } | scores.quick(instrument, images, labels, reference) | {"broken": strokes.broken(images)})
    reports.write_csv("plots/quality_over_steps.csv", rows)
    best = min(rows, key=lambda row: row["fd_digits"])
    reports.write_json(
        "metrics/sweep.json",
        {key: about[key] for key in ("dataset", "dataset_fingerprint")} | {
            "model": artifact.digest("models/model.safetensors"), "images": p.sweep.count,
            "best_sampler": best["sampler"], "best_steps": best["steps"],
            "best_evaluations": best["evaluations"], "best_fd_digits": best["fd_digits"], "floor_heldout_sets": len(floors),
            "fd_digits_floor_heldout": statistics.mean(floors) if floors else None,
            "fd_digits_floor_heldout_sd": statistics.stdev(floors) if len(floors) > 1 else None,
        },
    )
