"""What generated images are measured against: features and moments of real ones, and their distances, real against real."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from src import artifact, classifier, dataset, device, frechet, inception, params, reports
from src.files import save_tensors
from src.randomness import generator


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())

    train, heldout = classifier.features(model, data.images), classifier.features(model, data.heldout_images)
    drawn = torch.randperm(len(train), generator=generator(0, "floor"))
    drawn = drawn[: max(2, min(10_000, len(drawn) // 2))]  # of few images half: all of them would be at distance zero
    save_tensors("arrays/features.safetensors", {"train": train, "heldout": heldout, "drawn": drawn})
    digits = frechet.moments(train.numpy())
    frechet.save(digits, "reference/digits.npz")
    floors = {
        name: {"images": len(some), "fd_digits": frechet.distance(frechet.moments(some.numpy()), digits)}
        for name, some in (("heldout", heldout), ("train", train[drawn]))
    }
    about = data.describe() | {
        "images": len(train), "classifier": artifact.digest("models/classifier.safetensors"),
        "moments": artifact.digest("reference/digits.npz"), "features": artifact.digest("arrays/features.safetensors"),
    }

    real, source, seen = None, "training images", len(train) + len(heldout) + len(drawn)
    if p.fid.statistics:
        source = str(Path("statistics") / p.fid.statistics)
        real, seen = frechet.load(source, inception.DIMS), len(heldout) + len(drawn)
    decision = inception.decide(p.fid.inception, ready_made=False, images=seen)
    if decision.compute:
        network = inception.load().to(device.best())
        if real is None:
            real = inception.moments(network, data.images, p.fid.batch_size)
        for name, some in (("heldout", data.heldout_images), ("train", data.images[drawn])):
            floors[name]["fid"] = frechet.distance(inception.moments(network, some, p.fid.batch_size), real)
    else:
        print(f"reference: {'no Inception moments' if real is None else 'no floors of fid'}: {decision.why}", file=sys.stderr)
    if real is not None:
        frechet.save(real, "reference/inception.npz")
        moments = artifact.digest("reference/inception.npz")
        about["inception"] = {
            "from": source, "reference": artifact.digest(source) if p.fid.statistics else moments, "moments": moments,
            "images": None if p.fid.statistics else len(train),
        }
    reports.write_json("reference/about.json", about | {"inception_images": seen, "floors": floors})
