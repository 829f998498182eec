"""Measure fidelity, variety, classes, usefulness and memorisation. One distance hides these."""

from __future__ import annotations

import torch

from src import images, manifest, params, plotting, provenance
from src.common import dataset, reports
from src.measure import greys
from src.measure.closest_pairs import closest_pairs
from src.measure.quality import Comparison, with_floors
from stages import inputs

SHOWN_PAIRS = 24


def main() -> None:
    p = params.load()
    drawn = manifest.load("generated/manifest.json")
    data = dataset.load("arrays/dataset.safetensors")
    reference, real = inputs.measuring(data)
    reference.check_data_set(drawn.dataset_fingerprint)
    provenance.expect_file("models/model.safetensors", "which drew the images", drawn.model)
    settings = {
        "features": reference.about["features"],
        "neighbours": p.quality.neighbours,
        "seed": p.quality.seed,
    }
    floors = provenance.read("arrays/floors.json", provenance.Floors)
    measured_with = {key: value for key, value in floors.items() if key in settings}
    provenance.expect("arrays/floors.json, how it was measured", measured_with, settings)
    generated = images.read("generated_images", drawn.count, data.image_size, drawn.pixels)
    generated = generated[:, : data.channels].contiguous()
    labels = None if drawn.labels is None else torch.tensor(drawn.labels)

    comparison = Comparison(generated, labels, data, reference, real)
    shares = comparison.class_shares(floors["heldout"].get("class_shares"))
    reports.write_csv("plots/class_shares.csv", shares.table())
    metrics = data.describe() | {
        "images": len(generated),
        "images_floor_heldout": floors["heldout"]["images"],
        "model": drawn.model,
        "pixels": drawn.pixels,
    }
    scores = comparison.scores(p.quality.neighbours, p.quality.seed)
    del scores["fd_digits"]  # metrics/fid.json has it
    metrics |= with_floors(scores, floors, "heldout")
    metrics |= shares.distances()
    metrics |= with_floors({"cas": comparison.cas(p.classifier)}, floors, "train")
    metrics |= with_floors({"broken": comparison.broken()}, floors, "heldout", "train")
    metrics |= with_floors(greys.shares(generated), floors, "heldout")
    memorisation = comparison.memorisation(floors["heldout"]["near"])
    metrics |= with_floors(memorisation, floors, "heldout")
    reports.write_json("metrics/quality.json", metrics)

    distances, nearest = comparison.nearest
    closest = distances.argsort()[:SHOWN_PAIRS]
    note = f"{data.name} ({data.fingerprint}), model {drawn.model}"
    pairs = generated[closest], data.images[nearest[closest]], distances[closest].tolist()
    plotting.save(closest_pairs(*pairs, note), "memorisation/closest_pairs.png", dpi=160)
