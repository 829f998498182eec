"""Measure the generated images against the reference: Frechet distances, and how many are recognised."""

from __future__ import annotations

import sys

import torch

from src import artifact, classifier, device, frechet, images, inception, params, reports
from src.errors import UserError


def main() -> None:
    p = params.load()
    manifest, reference = reports.read_json("generated/manifest.json"), reports.read_json("reference/about.json")
    instrument = artifact.digest("models/classifier.safetensors")
    check(manifest, reference, instrument)
    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())
    network = inception_network(p.fid.inception, manifest["count"], reference)

    pixels, digits, deep, classes = images.PixelDigest(), frechet.MomentSums(), frechet.MomentSums(), []
    for batch in images.stream("generated_images", manifest["count"]):  # of which memory never holds more than one
        pixels.add(batch)
        features = classifier.features(model, batch[:, : model.config.image_channels])  # RGB of grey repeats one channel
        digits.add(features.numpy())
        classes.append(classifier.predictions(model, features))
        if network:
            inception.add(deep, network, batch, p.fid.batch_size)
    expect("generated_images/, its pixels", pixels.hex(), manifest["pixels"], "`dvc repro --force sample` draws them anew")

    floors = reference["floors"]
    metrics = {
        "dataset": reference["dataset"], "dataset_fingerprint": reference["dataset_fingerprint"],
        "images": manifest["count"],
        "fd_digits": distance("fd_digits", digits, "reference/digits.npz", classifier.FEATURES),
        "fd_digits_floor_heldout": floors["heldout"]["fd_digits"],
        "fd_digits_floor_heldout_images": floors["heldout"]["images"],
        "fd_digits_floor_train": floors["train"]["fd_digits"],
        "fd_digits_floor_train_images": floors["train"]["images"],
        "accuracy": None,
        "classifier": instrument,
        "classifier_reference": artifact.digest("reference/digits.npz"),
        "fid": distance("fid", deep, "reference/inception.npz", inception.DIMS) if network else None,
        "fid_floor_heldout": floors["heldout"].get("fid"), "fid_floor_train": floors["train"].get("fid"),
        "inception": inception.weights_hash() if network else None,
        "inception_reference": reference["inception"]["reference"] if network else None,
    }
    if manifest["labels"] is not None and model.config.pretext == "labels":
        metrics["accuracy"] = float((torch.cat(classes) == torch.tensor(manifest["labels"])).double().mean())
    reports.write_json("metrics/fid.json", metrics)


def check(manifest: dict, reference: dict, instrument: str) -> None:
    """See that images, model, classifier and reference belong together. Raises UserError where they do not."""
    if manifest["dataset_fingerprint"] != reference["dataset_fingerprint"]:
        raise UserError(
            f"generated/manifest.json is of {manifest['dataset']} ({manifest['dataset_fingerprint']}), reference/about.json of "
            f"{reference['dataset']} ({reference['dataset_fingerprint']}); `dvc repro` brings them together"
        )
    model = artifact.digest("models/model.safetensors")
    expect("models/model.safetensors", model, manifest["model"], "`dvc repro` draws the images of this model")
    expect(
        "models/classifier.safetensors", instrument, reference["classifier"], "`dvc repro` measures the real images with it"
    )


def expect(what: str, found: str, expected: str, remedy: str) -> None:
    if found != expected:
        raise UserError(f"{what}: found {found}, but images or floors were made with {expected}; {remedy}")


def distance(name: str, sums: frechet.MomentSums, reference: str, dims: int) -> float:
    """The distance of what was summed up from `reference`; says so where it rests on too few images."""
    if sums.count <= dims:
        print(
            f"fid: {sums.count} images are too few for {dims} features: {name} is far too high, since the covariance is "
            f"singular; compare it with values of as many images only",
            file=sys.stderr,
        )
    return frechet.distance(sums.moments(), frechet.load(reference, dims))


def inception_network(mode: str, count: int, reference: dict) -> inception.Features | None:
    """The network that `fid` needs, or None with the reason on stderr."""
    about = reference.get("inception")
    if about is None and mode == "always":
        raise UserError("reference/inception.npz: missing; `dvc repro --force reference` makes it")
    decision = inception.decide(mode, ready_made=about is not None, images=count + (0 if about else reference["images"]))
    if about is None or not decision.compute:
        missing = "" if about else "reference/ holds no Inception moments (`dvc repro --force reference fid` makes them); "
        print(f"fid: left null: {missing}{decision.why}", file=sys.stderr)
        return None
    return inception.load().to(device.best())
