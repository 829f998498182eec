"""Bits per dimension of held-out images by the variational bound: what schedules and predictions can be compared by."""

from __future__ import annotations

import torch

from src import bound, params, provenance
from src.common import artifact, dataset, device, reports
from src.common.randomness import generator
from src.diffusion import denoiser


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, about = denoiser.load("models/model.safetensors")
    provenance.expect("models/model.safetensors, its data set", about.get("dataset_fingerprint"), data.fingerprint)
    some = torch.randperm(len(data.heldout_images), generator=generator(p.bound.seed, "bound images"))[: p.bound.images]
    images, labels = data.heldout_images[some], None if data.heldout_labels is None else data.heldout_labels[some]
    found = bound.bits_per_dim(model.to(device.best()), images, labels, p.bound.seed)
    reports.write_json(
        "metrics/bound.json",
        data.describe() | {
            "model": artifact.digest("models/model.safetensors"), "images": len(images),
            "bits_per_dim": found.total, "bits_per_dim_standard_error": found.standard_error,
            "prior": found.prior, "diffusion": found.diffusion, "reconstruction": found.reconstruction,
        },
    )
