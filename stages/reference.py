"""What generated images are measured against: features and moments of real ones, and their distances, real against real."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from src import classifier, frechet, inception, params
from src.common import artifact, dataset, device, reports
from src.common.files import save_tensors
from src.common.mapped import Spool
from src.common.randomness import generator


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())

    spool = Spool("arrays")  # there may be more features than fit into memory
    for batch in classifier.feature_batches(model, data.images):
        spool.add(batch)
    train = spool.tensor((len(data.images), classifier.FEATURES), torch.float32)
    heldout = classifier.features(model, data.heldout_images)
    drawn = torch.randperm(len(train), generator=generator(0, "floor"))
    drawn = drawn[: max(2, min(10_000, len(drawn) // 2))]  # of few images half: all of them would be at distance zero
    save_tensors("arrays/features.safetensors", {"train": train, "heldout": heldout, "drawn": drawn})
    frechet.caution("fd_digits and its floors", min(len(train), len(heldout), len(drawn)), classifier.FEATURES)
    digits = frechet.moments(train.numpy())
    frechet.save(digits, "reference/digits.npz")
    floors = {
        name: {"images": len(some), "fd_digits": frechet.distance(frechet.moments(some.numpy()), digits)}
        for name, some in (("heldout", heldout), ("train", train[drawn]))
    }
    reports.write_json("reference/about.json", data.describe() | {
        "images": len(train), "classifier": artifact.digest("models/classifier.safetensors"),
        "moments": artifact.digest("reference/digits.npz"), "features": artifact.digest("arrays/features.safetensors"),
        "floors": floors,
    })

    statistics = Path("statistics") / p.fid.statistics if p.fid.statistics else None
    real = frechet.load(statistics, inception.DIMS) if statistics else None
    seen = len(heldout) + (len(drawn) if statistics else len(train))
    decision = inception.decide(p.fid.inception, ready_made=False, images=seen)
    deep = {}
    if decision.compute:
        network, sums = inception.load().to(device.best()), frechet.MomentSums()
        few = min(seen - len(heldout), len(heldout), len(drawn))
        frechet.caution("fid and its floors", few, inception.DIMS)
        some = inception.moments(network, data.images, p.fid.batch_size, sums, drawn)
        if real is None:  # of the drawn ones and all others
            others = torch.ones(len(train), dtype=torch.bool)
            others[drawn] = False
            real = inception.moments(network, data.images, p.fid.batch_size, sums, others.nonzero()[:, 0])
        heldout_moments = inception.moments(network, data.heldout_images, p.fid.batch_size)
        deep = {"heldout": frechet.distance(heldout_moments, real), "train": frechet.distance(some, real)}
    else:
        print(f"reference: {'no floors of fid' if real else 'no Inception moments'}: {decision.why}", file=sys.stderr)
    about = {"images": seen, "moments": None, "reference": None, "from": None, "floors": deep}  # `images` it has seen, or would
    if real is not None:
        frechet.save(real, "reference/inception.npz")
        about["moments"] = about["reference"] = artifact.digest("reference/inception.npz")
        about["from"] = "training images"
        if statistics:
            about |= {"from": str(statistics), "reference": artifact.digest(statistics)}
    reports.write_json("reference/inception.json", about)
