"""Train the digit classifier in whose features fd_digits is measured."""

from __future__ import annotations

from tqdm import tqdm

from src import classifier, dataset, device, params, reports


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")

    steps = classifier.train(data.images, data.labels, p.classifier, device.best())
    progress = tqdm(steps, desc="classifier", unit="step", total=classifier.total_steps(len(data.images), p.classifier))
    for model, loss in progress:
        progress.set_postfix(loss=f"{loss:.3f}", refresh=False)

    accuracy = classifier.accuracy(model, data.heldout_images, data.heldout_labels)
    classifier.save(model, "models/classifier.safetensors", data.describe())
    reports.write_json(
        "metrics/classifier.json",
        data.describe() | {"learns": model.config.pretext, "heldout_accuracy": round(accuracy, 4)},
    )
