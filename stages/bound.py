"""Bits per dimension of held-out images by the variational bound: what schedules and predictions can be compared by."""

from __future__ import annotations

from src import bound, params
from src.common import dataset, device, reports
from src.diffusion import denoiser


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, _ = denoiser.load("models/model.safetensors")
    images, labels = data.heldout_images[: p.bound.images], None
    if data.heldout_labels is not None:
        labels = data.heldout_labels[: p.bound.images]
    found = bound.bits_per_dim(model.to(device.best()), images, labels, p.bound.seed)
    reports.write_json(
        "metrics/bound.json",
        data.describe() | {
            "images": len(images), "bits_per_dim": found.total, "bits_per_dim_standard_error": found.standard_error,
            "prior": found.prior, "diffusion": found.diffusion, "reconstruction": found.reconstruction,
        },
    )
