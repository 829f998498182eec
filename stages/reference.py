"""What generated images are measured against: features and moments of real ones, and the floors, real against real."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tqdm import tqdm

from src import artifact, classifier, dataset, device, frechet, inception, neighbours, params, reports, strokes
from src.files import save_tensors
from src.randomness import generator
from src.scores import scores


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())

    train, heldout = classifier.features(model, data.images), classifier.features(model, data.heldout_images)
    digits = frechet.moments(train.numpy())
    frechet.save(digits, "reference/digits.npz")
    drawn = torch.randperm(len(train), generator=generator(p.fid.floor_seed, "floor"))
    drawn = drawn[: max(2, min(10_000, len(drawn) // 2))]  # of few images half: all of them would be at distance zero
    distances, _ = neighbours.nearest(data.heldout_images.flatten(1).float() / 255, data.images.flatten(1).float() / 255)
    save_tensors("arrays/reference.safetensors", {"features": train[drawn], "heldout_nearest": distances})

    floors = {
        "heldout": {"images": len(heldout), "broken": strokes.broken(data.heldout_images)}
        | scores(heldout, train[drawn], digits, p.quality.neighbours, p.quality.seed),
        "train": {
            "images": len(drawn), "broken": strokes.broken(data.images[drawn]),
            "fd_digits": frechet.distance(frechet.moments(train[drawn].numpy()), digits),
        },
    }
    if data.labels is not None:
        steps = classifier.train(data.images[drawn], data.labels[drawn], p.classifier, device.best())
        total = classifier.total_steps(len(drawn), p.classifier)
        for other, _ in tqdm(steps, desc="classifier on fewer images", unit="step", total=total):
            pass
        floors["train"]["cas"] = classifier.accuracy(other, data.heldout_images, data.heldout_labels)

    seen = len(train) + len(heldout) + len(drawn)
    about = data.describe() | {
        "images": len(train), "inception_images": seen,  # the latter would go through Inception
        "classifier": artifact.digest("models/classifier.safetensors"), "moments": artifact.digest("reference/digits.npz"),
    }
    if p.fid.statistics:
        path = Path("statistics") / p.fid.statistics
        frechet.save(frechet.load(path, inception.DIMS), "reference/inception.npz")
        about["inception"] = {
            "from": str(path), "reference": artifact.digest(path), "moments": artifact.digest("reference/inception.npz"),
            "images": None,
        }
    else:
        decision = inception.decide(p.fid.inception, ready_made=False, images=seen)
        if decision.compute:
            network = inception.load().to(device.best())
            real = inception.moments(network, data.images, p.fid.batch_size)
            frechet.save(real, "reference/inception.npz")
            digest = artifact.digest("reference/inception.npz")
            about["inception"] = {"from": "training images", "reference": digest, "moments": digest, "images": len(train)}
            for name, some in (("heldout", data.heldout_images), ("train", data.images[drawn])):
                floors[name]["fid"] = frechet.distance(inception.moments(network, some, p.fid.batch_size), real)
        else:
            print(f"reference: no Inception moments: {decision.why}", file=sys.stderr)
    reports.write_json("reference/about.json", about | {"floors": floors})
