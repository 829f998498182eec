"""Measure the generated images against the reference."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from src import artifact, classifier, device, frechet, images, inception, params, reports
from src.errors import UserError


def main() -> None:
    p = params.load()
    manifest = reports.read_json("generated/manifest.json")
    reference = reports.read_json("reference/about.json")
    if manifest["dataset_fingerprint"] != reference["dataset_fingerprint"]:
        raise UserError(
            f"generated/manifest.json is of {manifest['dataset']} ({manifest['dataset_fingerprint']}), reference/about.json of "
            f"{reference['dataset']} ({reference['dataset_fingerprint']}); `dvc repro` brings them together"
        )
    generated = images.read("generated_images", manifest["count"])
    labels = None if manifest["labels"] is None else torch.tensor(manifest["labels"])

    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())
    seen = generated[:, : model.config.image_channels].contiguous()  # RGB of grey images repeats one channel
    fd_digits = frechet.distance(
        classifier.moments(model, seen), frechet.load("reference/digits.npz", classifier.FEATURES)
    )
    recognised = labels is not None and model.config.pretext == "labels"
    floors = reference["floors"]
    metrics = {
        "dataset": reference["dataset"], "dataset_fingerprint": reference["dataset_fingerprint"],
        "images": len(generated),
        "fd_digits": fd_digits,
        "fd_digits_floor_heldout": floors["heldout"]["fd_digits"],
        "fd_digits_floor_heldout_images": floors["heldout"]["images"],
        "fd_digits_floor_train": floors["train"]["fd_digits"],
        "fd_digits_floor_train_images": floors["train"]["images"],
        "accuracy": classifier.accuracy(model, seen, labels) if recognised else None,
        "classifier": artifact.digest("models/classifier.safetensors"),
        "classifier_reference": artifact.digest("reference/digits.npz"),
    }
    reports.write_json("metrics/fid.json", metrics | inception_metrics(p.fid.inception, generated, reference, p.fid.batch_size))


def inception_metrics(mode: str, generated: torch.Tensor, reference: dict, batch_size: int) -> dict:
    """`fid` with what it was computed from, or null with the reason."""
    nothing = {"fid": None, "inception": None, "inception_reference": None}
    if "inception" not in reference:
        if mode == "always":
            raise UserError("reference/inception.npz: missing; `dvc repro --force reference` makes it")
        decision = inception.decide(mode, ready_made=False, images=reference["images"] + len(generated))
        why = f"reference/ holds no Inception moments; {decision.why}"
    else:
        decision = inception.decide(mode, ready_made=True, images=len(generated))
        why = decision.why
    if "inception" not in reference or not decision.compute:
        print(f"fid: left null: {why}", file=sys.stderr)
        return nothing
    path = Path("reference/inception.npz")
    network = inception.load().to(device.best())
    value = frechet.distance(inception.moments(network, generated, batch_size), frechet.load(path, inception.DIMS))
    return {"fid": value, "inception": inception.weights_hash(), "inception_reference": reference["inception"]["reference"]}
