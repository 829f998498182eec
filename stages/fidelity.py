"""Measure fidelity by noise level: noise real images, denoise them, and measure fd_imagenet."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tqdm import tqdm

from src import drawing, model_file, params, provenance
from src.common import artifact, dataset, reports
from src.common.randomness import generator
from src.measure import fidelity, frechet
from src.measure.extractors import IMAGENET
from src.measure.fid import ExtractorReference

MODEL = "models/model.safetensors"


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, about = model_file.open_model(MODEL, p.sample.precision)
    of_model = about.get("dataset_fingerprint")
    provenance.expect(f"{MODEL}, its data set", of_model, data.fingerprint)
    reference = ExtractorReference(IMAGENET, Path("reference"))
    sampler = drawing.fitted(p.sample.sampler, model)
    random = generator(p.fidelity.seed, "fidelity images")
    chosen = torch.randperm(len(data.heldout_images), generator=random)[: p.fidelity.images]
    images, labels = data.heldout(chosen)

    distance = reference.distance()
    if distance is None:
        print("fidelity: not measured, since fd_imagenet is not", file=sys.stderr)
    else:
        frechet.caution("fd_imagenet", len(images), IMAGENET.dims)
    real = distance(images) if distance else None
    rows = []
    steps = fidelity.nearest_steps(model, sampler, p.fidelity.log_snr)
    seed, batch_size = p.fidelity.seed, p.sample.batch_size
    for step in tqdm(steps, desc="fidelity", unit="level"):
        row = {"log_snr": fidelity.log_snr(model, sampler, step), "steps": sampler.steps - step}
        if distance:
            denoised = fidelity.restored(model, sampler, step, images, labels, seed, batch_size)
        rows.append(row | {"fd_imagenet": distance(denoised) if distance else None})
    reports.write_csv("plots/fidelity_by_noise_level.csv", rows)
    metrics = data.describe() | {
        "model": artifact.digest(MODEL),
        "images": len(images),
        "fd_imagenet_real": real,
        "fd_imagenet_last_step": rows[0]["fd_imagenet"],
        "fd_imagenet_noise": rows[-1]["fd_imagenet"],
    }
    reports.write_json("metrics/fidelity.json", metrics)
