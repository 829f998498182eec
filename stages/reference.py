"""Moments of the real images, which generated ones are measured against, and the floors: real against real."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from src import artifact, classifier, dataset, device, frechet, inception, params, reports
from src.randomness import generator


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())

    digits = classifier.moments(model, data.images)
    frechet.save(digits, "reference/digits.npz")
    drawn = torch.randperm(len(data.images), generator=generator(p.fid.floor_seed, "floor"))
    drawn = drawn[: max(2, min(10_000, len(drawn) // 2))]  # of few images half: all of them would be at distance zero
    about = data.describe() | {
        "images": len(data.images),
        "classifier": artifact.digest("models/classifier.safetensors"),
        "floors": {
            "heldout": {
                "images": len(data.heldout_images),
                "fd_digits": frechet.distance(classifier.moments(model, data.heldout_images), digits),
            },
            "train": {
                "images": len(drawn),
                "fd_digits": frechet.distance(classifier.moments(model, data.images[drawn]), digits),
            },
        },
    }

    if p.fid.statistics:
        path = Path("statistics") / p.fid.statistics
        frechet.save(frechet.load(path, inception.DIMS), "reference/inception.npz")
        about["inception"] = {"from": str(path), "reference": artifact.digest(path), "images": None}
    else:
        decision = inception.decide(p.fid.inception, ready_made=False, images=len(data.images))
        if decision.compute:
            network = inception.load().to(device.best())
            frechet.save(inception.moments(network, data.images, p.fid.batch_size), "reference/inception.npz")
            about["inception"] = {
                "from": "training images", "reference": artifact.digest("reference/inception.npz"), "images": len(data.images),
            }
        else:
            print(f"reference: no Inception moments: {decision.why}", file=sys.stderr)
    reports.write_json("reference/about.json", about)
