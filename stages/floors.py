"""Measure the floors: the scores of real images on the metrics of the stage `quality`."""

from __future__ import annotations

from src import classifier, params
from src.common import dataset, device, reports
from src.measure import greys, scores, strokes
from src.measure.reference import sample_heldout
from stages import inputs


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    reference, real = inputs.measuring(data)

    chosen = sample_heldout(len(real.heldout))
    if len(chosen) < len(real.heldout):
        print(f"floors: {len(chosen):,} random images of the {len(real.heldout):,} held-out ones")
    features, images = real.heldout[chosen], data.heldout_images[chosen]
    heldout: dict = {"images": len(images), "broken": strokes.broken(images)}
    heldout |= greys.shares(images)
    heldout |= scores.scores(
        features,
        real.drawn_train,
        reference.moments,
        p.quality.neighbours,
        p.quality.seed,
    )
    distances, _ = scores.nearest_images(images, data.images)
    near = distances.quantile(scores.NEAR)
    heldout |= {
        "nearest_train_median": float(distances.median()),
        "near": float(near),
        "memorised": float((distances < near).double().mean()),
    }
    train: dict = {"images": len(real.drawn), "broken": strokes.broken(data.images[real.drawn])}
    if data.labels is not None:
        classes = classifier.predictions(reference.classifier, features)
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
