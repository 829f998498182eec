"""Make the reference: features and moments of real images, and distances between real images."""

from __future__ import annotations

from pathlib import Path

from src import classifier, params, yardstick
from src.common import artifact, dataset, device, reports
from src.common.files import save_tensors
from src.measure.extractor_reference import Ready, extractor_reference
from src.measure.extractors import IMAGENET, INCEPTION
from src.measure.reference import real_features, write_moments

CLASSIFIER, FEATURES = Path("models/classifier.safetensors"), "arrays/features.safetensors"
YARDSTICK, DIGITS = Path("yardstick"), Path("reference/digits.npz")
KEPT = 5000  # real images whose features the stage `sweep` uses


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    model, _ = classifier.load(CLASSIFIER)
    features = real_features(model.to(device.best()), data)
    drawn, batch_size = features["drawn"], p.fid.batch_size

    pinned = yardstick.find(YARDSTICK, data.fingerprint)
    ready = Ready(pinned.file(YARDSTICK, "imagenet.npz"), pinned.floors) if pinned else None
    target = Path("reference/imagenet.npz")
    about, kept = extractor_reference(
        IMAGENET, data, drawn, p.fid.imagenet, batch_size, ready, target, KEPT
    )
    reports.write_json("reference/imagenet.json", about)

    # The pinned moments have the same bits on every machine. They belong to the pinned classifier.
    used = pinned if pinned and pinned.has_classifier(CLASSIFIER) else None
    moments = used.file(YARDSTICK, "digits.npz") if used else None
    floors = write_moments(DIGITS, features, moments)
    features |= {"imagenet_train": kept.train, "imagenet_heldout": kept.heldout}
    save_tensors(FEATURES, features)
    about = data.describe() | {
        "images": len(data.images),
        "yardstick": used.name if used else None,
        "classifier": artifact.digest(CLASSIFIER),
        "moments": artifact.digest(DIGITS),
        "features": artifact.digest(FEATURES),
        "floors": floors,
    }
    reports.write_json("reference/about.json", about)

    statistics = Ready(Path("statistics") / p.fid.statistics) if p.fid.statistics else None
    target, mode = Path("reference/inception.npz"), p.fid.inception
    about, _ = extractor_reference(INCEPTION, data, drawn, mode, batch_size, statistics, target)
    reports.write_json("reference/inception.json", about)
