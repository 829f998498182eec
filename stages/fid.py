"""Measure the generated images: Fréchet distances, and the share recognised as their class."""

from __future__ import annotations

from pathlib import Path

from src import images, manifest, params, provenance
from src.common import reports
from src.measure import inception
from src.measure.fid import Distances, inception_network
from src.measure.reference import inception_about
from stages import inputs


def main() -> None:
    p = params.load()
    drawn = manifest.load("generated/manifest.json")
    reference = inputs.reference()
    deep = inception_about(Path("reference/inception.json"))
    reference.check_data_set(drawn.dataset_fingerprint)
    provenance.expect_file("models/model.safetensors", "which drew the images", drawn.model)
    if deep["moments"]:
        provenance.expect_file(
            "reference/inception.npz", "moments of the real images", deep["moments"]
        )
    manifest.check_settings(drawn, p.sample)
    network = inception_network(p.fid.inception, drawn.count, deep)

    distances = Distances(reference, network, p.fid.batch_size)
    pixels = images.PixelDigest()
    side = reference.classifier.config.image_size
    for batch in images.stream("generated_images", drawn.count, side=side):
        pixels.add(batch)
        distances.add(batch)  # memory never holds more than one batch
    images.check("generated_images", pixels, drawn.pixels)

    floors = reference.about["floors"]
    metrics = {
        "dataset": reference.about["dataset"],
        "dataset_fingerprint": reference.about["dataset_fingerprint"],
        "images": drawn.count,
        "model": drawn.model,
        "pixels": drawn.pixels,
        "fd_digits": distances.digits(),
        "fd_digits_floor_heldout": floors["heldout"]["fd_digits"],
        "fd_digits_floor_heldout_images": floors["heldout"]["images"],
        "fd_digits_floor_train": floors["train"]["fd_digits"],
        "fd_digits_floor_train_images": floors["train"]["images"],
        "accuracy": distances.accuracy(drawn.labels),
        "classifier": reference.about["classifier"],
        "classifier_reference": reference.about["moments"],
        "fid": distances.inception("reference/inception.npz") if network else None,
        "fid_floor_heldout": deep["floors"].get("heldout"),
        "fid_floor_train": deep["floors"].get("train"),
        "inception": inception.weights_hash() if network else None,
        "inception_reference": deep["reference"] if network else None,
    }
    reports.write_json("metrics/fid.json", metrics)
