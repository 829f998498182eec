"""Measure the generated images against the reference: Frechet distances, and how many are recognised."""

from __future__ import annotations

import sys

import torch

from src import artifact, classifier, device, frechet, images, inception, params, reports
from src.errors import UserError


def main() -> None:
    p = params.load()
    manifest, reference = reports.read_json("generated/manifest.json"), reports.read_json("reference/about.json")
    generated = images.read("generated_images", manifest["count"])
    check(manifest, reference, generated)
    labels = None if manifest["labels"] is None else torch.tensor(manifest["labels"])

    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())
    seen = generated[:, : model.config.image_channels].contiguous()  # RGB of grey images repeats one channel
    features = classifier.features(model, seen)
    floors = reference["floors"]
    say_if_few(len(features), classifier.FEATURES, "fd_digits")
    metrics = {
        "dataset": reference["dataset"], "dataset_fingerprint": reference["dataset_fingerprint"],
        "images": len(generated),
        "fd_digits": frechet.distance(
            frechet.moments(features.numpy()), frechet.load("reference/digits.npz", classifier.FEATURES)
        ),
        "fd_digits_floor_heldout": floors["heldout"]["fd_digits"],
        "fd_digits_floor_heldout_images": floors["heldout"]["images"],
        "fd_digits_floor_train": floors["train"]["fd_digits"],
        "fd_digits_floor_train_images": floors["train"]["images"],
        "accuracy": classifier.recognised(model, features, labels),
        "classifier": artifact.digest("models/classifier.safetensors"),
        "classifier_reference": artifact.digest("reference/digits.npz"),
    }
    reports.write_json("metrics/fid.json", metrics | inception_metrics(p.fid.inception, generated, reference, p.fid.batch_size))


def check(manifest: dict, reference: dict, generated: torch.Tensor) -> None:
    """See that images, model, classifier and reference belong together. Raises UserError where they do not."""
    if manifest["dataset_fingerprint"] != reference["dataset_fingerprint"]:
        raise UserError(
            f"generated/manifest.json is of {manifest['dataset']} ({manifest['dataset_fingerprint']}), reference/about.json of "
            f"{reference['dataset']} ({reference['dataset_fingerprint']}); `dvc repro` brings them together"
        )
    pixels = images.PixelDigest()
    pixels.add(generated)
    model, instrument = artifact.digest("models/model.safetensors"), artifact.digest("models/classifier.safetensors")
    for what, found, expected, remedy in (
        ("generated_images/, its pixels", pixels.hex(), manifest["pixels"], "`dvc repro --force sample` draws them anew"),
        ("models/model.safetensors", model, manifest["model"], "`dvc repro` draws the images of this model"),
        ("models/classifier.safetensors", instrument, reference["classifier"], "`dvc repro` measures the real images with it"),
    ):
        if found != expected:
            raise UserError(f"{what}: found {found}, but images or floors were made with {expected}; {remedy}")


def say_if_few(count: int, dims: int, name: str) -> None:
    if count <= dims:
        print(
            f"fid: {count} images are too few for {dims} features: {name} is far too high, since the covariance is singular; "
            f"compare it with values of as many images only",
            file=sys.stderr,
        )


def inception_metrics(mode: str, generated: torch.Tensor, reference: dict, batch_size: int) -> dict:
    """`fid` with its floors and what it was computed from, or null with the reason on stderr."""
    about, floors = reference.get("inception"), reference["floors"]
    floor = {f"fid_floor_{name}": floors[name].get("fid") for name in ("heldout", "train")}
    if about is None and mode == "always":
        raise UserError("reference/inception.npz: missing; `dvc repro --force reference` makes it")
    unseen = len(generated) + (0 if about else reference["images"])
    decision = inception.decide(mode, ready_made=about is not None, images=unseen)
    if about is None or not decision.compute:
        missing = "" if about else "reference/ holds no Inception moments (`dvc repro --force reference fid` makes them); "
        print(f"fid: left null: {missing}{decision.why}", file=sys.stderr)
        return {"fid": None} | floor | {"inception": None, "inception_reference": None}
    say_if_few(len(generated), inception.DIMS, "fid")
    network = inception.load().to(device.best())
    value = frechet.distance(
        inception.moments(network, generated, batch_size), frechet.load("reference/inception.npz", inception.DIMS)
    )
    return {"fid": value} | floor | {"inception": inception.weights_hash(), "inception_reference": about["reference"]}
