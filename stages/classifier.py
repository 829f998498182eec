"""Train the classifier, or take that of the yardstick. fd_digits is measured in its features."""

from __future__ import annotations

from pathlib import Path

from src import classifier, params, yardstick
from src.common import dataset, device, reports
from src.common.files import copy

FOLDER = Path("yardstick")
TARGET = "models/classifier.safetensors"


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    pinned = None
    if p.classifier.weights == "pinned":
        pinned = yardstick.find(FOLDER, data.fingerprint)
    if pinned:
        copy(pinned.file(FOLDER, "classifier.safetensors"), TARGET)
        print(f"classifier: pinned, from the yardstick {pinned.name}. No training")
    else:
        if p.classifier.weights == "pinned":
            print(f"classifier: {data.name} has no yardstick, so a classifier is trained")
        fitted = classifier.fit(data.images, data.labels, p.classifier, device.best())
        classifier.save(fitted, TARGET, data.describe())
    model, _ = classifier.load(TARGET)
    model = model.to(device.best())
    accuracy = classifier.accuracy(model, data.heldout_images, data.heldout_labels)
    metrics = {
        "weights": pinned.name if pinned else "trained",
        "learns": model.config.pretext,
        "heldout_accuracy": round(accuracy, 4),
    }
    reports.write_json("metrics/classifier.json", data.describe() | metrics)
