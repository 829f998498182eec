"""Measure the floors: the scores of real images on the metrics of the stage `quality`."""

from __future__ import annotations

import torch

from src import classifier, params
from src.common import dataset, device, reports
from src.measure import greys, neighbours, scores, strokes
from stages import inputs


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    reference, real = inputs.measuring(data)

    heldout: dict = {"images": len(real.heldout), "broken": strokes.broken(data.heldout_images)}
    heldout |= greys.shares(data.heldout_images)
    heldout |= scores.scores(
        real.heldout,
        real.drawn_train,
        reference.moments,
        p.quality.neighbours,
        p.quality.seed,
    )
    points = torch.cat(list(dataset.rows(data.heldout_images)))
    distances, _ = neighbours.nearest(points, dataset.rows(data.images))
    near = distances.quantile(scores.NEAR)
    heldout |= {
        "nearest_train_median": float(distances.median()),
        "near": float(near),
        "memorised": float((distances < near).double().mean()),
    }
    train: dict = {"images": len(real.drawn), "broken": strokes.broken(data.images[real.drawn])}
    if data.labels is not None:
        classes = classifier.predictions(reference.classifier, real.heldout)
        heldout["class_shares"] = scores.shares(classes, data.classes).tolist()
        other = classifier.fit(
            data.images[real.drawn],
            data.labels[real.drawn],
            p.classifier,
            device.best(),
            "classifier on fewer images",
        )
        train["cas"] = classifier.accuracy(other, data.heldout_images, data.heldout_labels)
    floors = data.describe() | {
        "features": reference.about["features"],
        "neighbours": p.quality.neighbours,
        "seed": p.quality.seed,
        "heldout": heldout,
        "train": train,
    }
    reports.write_json("arrays/floors.json", floors)
