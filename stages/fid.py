"""Measure the generated images against the reference: Frechet distances, and how many are recognised."""

from __future__ import annotations

import sys

import torch

from src import classifier, frechet, images, inception, params, provenance
from src.common import artifact, device, reports
from src.common.errors import UserError


def main() -> None:
    p = params.load()
    manifest, reference = provenance.manifest("generated/manifest.json"), provenance.reference("reference/about.json")
    inception_reference = provenance.inception("reference/inception.json")
    provenance.check_drawn(manifest, reference, "models/model.safetensors")
    provenance.check_measured(reference, "models/classifier.safetensors", "reference/digits.npz")
    if inception_reference["moments"]:
        found = artifact.digest("reference/inception.npz")
        provenance.expect("reference/inception.npz, of the real images", found, inception_reference["moments"])
    check_settings(p.sample, manifest)
    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())
    network = inception_network(p.fid.inception, manifest["count"], inception_reference)

    pixels, digits, deep, classes = images.PixelDigest(), frechet.MomentSums(), frechet.MomentSums(), []
    folder = "generated_images"
    for batch in images.stream(folder, manifest["count"], side=model.config.image_size):  # memory never holds more than one
        pixels.add(batch)
        features = classifier.features(model, batch[:, : model.config.image_channels])  # RGB of grey repeats one channel
        digits.add(features.numpy())
        classes.append(classifier.predictions(model, features))
        if network:
            inception.add(deep, network, batch, p.fid.batch_size)
    images.check(folder, pixels, manifest["pixels"])

    floors = reference["floors"]
    metrics = {
        "dataset": reference["dataset"], "dataset_fingerprint": reference["dataset_fingerprint"],
        "images": manifest["count"], "model": manifest["model"], "pixels": manifest["pixels"],
        "fd_digits": distance("fd_digits", digits, "reference/digits.npz", classifier.FEATURES),
        "fd_digits_floor_heldout": floors["heldout"]["fd_digits"],
        "fd_digits_floor_heldout_images": floors["heldout"]["images"],
        "fd_digits_floor_train": floors["train"]["fd_digits"],
        "fd_digits_floor_train_images": floors["train"]["images"],
        "accuracy": None,
        "classifier": reference["classifier"],
        "classifier_reference": reference["moments"],
        "fid": distance("fid", deep, "reference/inception.npz", inception.DIMS) if network else None,
        "fid_floor_heldout": inception_reference["floors"].get("heldout"),
        "fid_floor_train": inception_reference["floors"].get("train"),
        "inception": inception.weights_hash() if network else None,
        "inception_reference": inception_reference["reference"] if network else None,
    }
    if manifest["labels"] is not None and model.config.pretext == "labels":
        metrics["accuracy"] = float((torch.cat(classes) == torch.tensor(manifest["labels"])).double().mean())
    reports.write_json("metrics/fid.json", metrics)


def check_settings(asked: params.Sample, manifest: dict) -> None:
    """See that the images were drawn as params.yaml asks. Raises UserError that names the key."""
    names = [
        "method", "steps", "spacing", "eta", "guidance_interval", "autoguidance", "autoguidance_interval", "seed", "count",
        "classes", "precision",
    ]
    found = manifest | {"classes": manifest["asked_classes"], "precision": manifest["asked_precision"]}
    for name in names + ["guidance"] * (manifest["classes"] > 0):  # without classes there is none
        wanted = getattr(asked, name)
        provenance.expect(f"generated_images/, sample.{name}", found[name], wanted, "`dvc repro` draws as params.yaml asks")


def distance(name: str, sums: frechet.MomentSums, reference: str, dims: int) -> float:
    """The distance of what was summed up from `reference`; says so where it rests on too few images."""
    frechet.caution(name, sums.count, dims)
    return frechet.distance(sums.moments(), frechet.load(reference, dims))


def inception_network(mode: str, count: int, reference: dict) -> inception.Features | None:
    """The network that `fid` needs, or None with the reason on stderr."""
    there = reference["moments"] is not None
    if not there and mode == "always":
        raise UserError("reference/inception.npz: missing; `dvc repro --force reference` makes it")
    seen = count if there else count + reference["images"]
    decision = inception.decide(mode, ready_made=there, images=seen)
    if not there or not decision.compute:
        missing = "" if there else "reference/ holds no Inception moments (`dvc repro --force reference fid` makes them); "
        print(f"fid: left null: {missing}{decision.why}", file=sys.stderr)
        return None
    return inception.load().to(device.best())
