"""The floors: what real held-out images score by the measures of the stage `quality`, and training images by some of them."""

from __future__ import annotations

import torch

from src import classifier, frechet, params, provenance
from src.common import dataset, device, reports
from src.quality import neighbours, scores, strokes


def main() -> None:
    p = params.load()
    reference = provenance.reference("reference/about.json")
    data = dataset.load("arrays/dataset.safetensors")
    provenance.check_measured(
        reference, "models/classifier.safetensors", "reference/digits.npz", "arrays/features.safetensors", data
    )
    real = provenance.tensors("arrays/features.safetensors")
    moments, drawn = frechet.load("reference/digits.npz", classifier.FEATURES), real["drawn"]

    heldout = {"images": len(real["heldout"]), "broken": strokes.broken(data.heldout_images)}
    heldout |= scores.scores(real["heldout"], real["train"][drawn], moments, p.quality.neighbours, p.quality.seed)
    distances, _ = neighbours.nearest(torch.cat(list(dataset.rows(data.heldout_images))), dataset.rows(data.images))
    near = distances.quantile(scores.NEAR)
    heldout |= {
        "nearest_train_median": float(distances.median()), "near": float(near),
        "memorised": float((distances < near).double().mean()),
    }
    train = {"images": len(drawn), "broken": strokes.broken(data.images[drawn])}
    if data.labels is not None:
        model, _ = classifier.load("models/classifier.safetensors")
        recognised = classifier.predictions(model, real["heldout"])
        heldout["class_shares"] = scores.shares(recognised, data.classes).tolist()
        other = classifier.fit(data.images[drawn], data.labels[drawn], p.classifier, device.best(), "classifier on fewer images")
        train["cas"] = classifier.accuracy(other, data.heldout_images, data.heldout_labels)
    how = {"features": reference["features"], "neighbours": p.quality.neighbours, "seed": p.quality.seed}
    reports.write_json("arrays/floors.json", data.describe() | how | {"heldout": heldout, "train": train})
