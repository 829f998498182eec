"""Make the reference: features and moments of real images, and distances between real images."""

from __future__ import annotations

from pathlib import Path

import torch

from src import classifier, params
from src.common import artifact, dataset, device, reports
from src.common.files import save_tensors
from src.common.mapped import Spool
from src.common.randomness import generator
from src.measure import frechet
from src.measure.inception_reference import inception_reference

MAX_DRAWN = 10_000


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
    # At most half of the images, because the distance of all of them to themselves is zero.
    drawn = drawn[: max(2, min(MAX_DRAWN, len(drawn) // 2))]
    features = {"train": train, "heldout": heldout, "drawn": drawn}
    save_tensors("arrays/features.safetensors", features)

    fewest = min(len(train), len(heldout), len(drawn))
    frechet.caution("fd_digits and its floors", fewest, classifier.FEATURES)
    digits = frechet.moments(train.numpy())
    frechet.save(digits, "reference/digits.npz")
    floors = {}
    for name, real in (("heldout", heldout), ("train", train[drawn])):
        fd_digits = frechet.distance(frechet.moments(real.numpy()), digits)
        floors[name] = {"images": len(real), "fd_digits": fd_digits}
    about = data.describe() | {
        "images": len(train),
        "classifier": artifact.digest("models/classifier.safetensors"),
        "moments": artifact.digest("reference/digits.npz"),
        "features": artifact.digest("arrays/features.safetensors"),
        "floors": floors,
    }
    reports.write_json("reference/about.json", about)

    statistics = Path("statistics") / p.fid.statistics if p.fid.statistics else None
    target = Path("reference/inception.npz")
    deep = inception_reference(data, drawn, p.fid, statistics, target)
    reports.write_json("reference/inception.json", deep)
