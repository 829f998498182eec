"""Train the classifier. fd_digits is measured in its features."""

from __future__ import annotations

from src import classifier, params
from src.common import dataset, device, reports


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model = classifier.fit(data.images, data.labels, p.classifier, device.best())
    accuracy = classifier.accuracy(model, data.heldout_images, data.heldout_labels)
    classifier.save(model, "models/classifier.safetensors", data.describe())
    metrics = {"learns": model.config.pretext, "heldout_accuracy": round(accuracy, 4)}
    reports.write_json("metrics/classifier.json", data.describe() | metrics)
