"""Measure the bits per dimension of held-out images, to compare schedules and predictions."""

from __future__ import annotations

import torch

from src import model_file, params, provenance
from src.common import artifact, dataset, device, reports
from src.common.randomness import generator
from src.measure import likelihood


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, about = model_file.load("models/model.safetensors")
    provenance.expect(
        "models/model.safetensors, its data set",
        about.get("dataset_fingerprint"),
        data.fingerprint,
    )
    random = generator(p.bound.seed, "bound images")
    chosen = torch.randperm(len(data.heldout_images), generator=random)[: p.bound.images]
    images, labels = data.heldout(chosen)
    bound = likelihood.bits_per_dim(model.to(device.best()), images, labels, p.bound.seed)
    metrics = data.describe() | {
        "model": artifact.digest("models/model.safetensors"),
        "images": len(images),
        "bits_per_dim": bound.total,
        "bits_per_dim_standard_error": bound.standard_error,
        "prior": bound.prior,
        "diffusion": bound.diffusion,
        "reconstruction": bound.reconstruction,
    }
    reports.write_json("metrics/bound.json", metrics)
