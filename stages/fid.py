"""Measure the generated images: Fréchet distances, and the share recognised as their class."""

from __future__ import annotations

from pathlib import Path

from src import images, manifest, params, provenance
from src.common import reports
from src.measure.extractors import EXTRACTORS
from src.measure.fid import Distances, ExtractorReference
from stages import inputs

FOLDER = Path("reference")


def main() -> None:
    p = params.load()
    drawn = manifest.load("generated/manifest.json")
    reference = inputs.reference()
    reference.check_data_set(drawn.dataset_fingerprint)
    provenance.expect_file("models/model.safetensors", "which drew the images", drawn.model)
    manifest.check_settings(drawn, p.sample)
    networks = []
    references = [ExtractorReference(extractor, FOLDER) for extractor in EXTRACTORS]
    for of_extractor in references:
        mode = getattr(p.fid, of_extractor.extractor.name)
        network = of_extractor.network(mode, drawn.count, p.fid.batch_size)
        networks += [network] if network else []

    distances = Distances(reference, networks)
    pixels = images.PixelDigest()
    side = reference.classifier.config.image_size
    for batch in images.stream("generated_images", drawn.count, side=side):
        pixels.add(batch)
        distances.add(batch)  # memory never holds more than one batch
    images.check("generated_images", pixels, drawn.pixels)

    about, floors = reference.about, reference.about["floors"]
    provenance.caution_unequal(drawn.count, floors["heldout"]["images"])
    metrics: dict[str, object] = {
        "dataset": about["dataset"],
        "dataset_fingerprint": about["dataset_fingerprint"],
        "images": drawn.count,
        "model": drawn.model,
        "pixels": drawn.pixels,
        "fd_digits": distances.digits(),
        "fd_digits_floor_heldout": floors["heldout"]["fd_digits"],
        "fd_digits_floor_heldout_images": floors["heldout"]["images"],
        "fd_digits_floor_train": floors["train"]["fd_digits"],
        "fd_digits_floor_train_images": floors["train"]["images"],
        "accuracy": distances.accuracy(drawn.labels),
        "yardstick": about["yardstick"],
        "classifier": about["classifier"],
        "classifier_reference": about["moments"],
    }
    others = distances.other_distances(FOLDER)
    for of_extractor in references:
        metrics |= of_extractor.metrics(others.get(of_extractor.extractor.metric))
    reports.write_json("metrics/fid.json", metrics)
