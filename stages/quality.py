"""What one distance hides: fidelity, variety, classes, usefulness and memorisation of the generated images, with floors."""

from __future__ import annotations

import torch

from src import classifier, figures, frechet, images, params, provenance
from src.common import dataset, device, reports
from src.quality import neighbours, scores, strokes

SHOWN_PAIRS = 24


def main() -> None:
    p = params.load()
    manifest, reference = provenance.manifest("generated/manifest.json"), provenance.reference("reference/about.json")
    provenance.check_drawn(manifest, reference, "models/model.safetensors")
    data = dataset.load("arrays/dataset.safetensors")
    provenance.check_measured(
        reference, "models/classifier.safetensors", "reference/digits.npz", "arrays/features.safetensors", data
    )
    how = {"features": reference["features"], "neighbours": p.quality.neighbours, "seed": p.quality.seed}
    real = provenance.tensors("arrays/features.safetensors")
    floors = provenance.read("arrays/floors.json", (*how, "heldout", "train"))
    provenance.expect("arrays/floors.json, how it was measured", {key: floors[key] for key in how}, how)
    generated = images.read("generated_images", manifest["count"], data.image_size, manifest["pixels"])
    generated = generated[:, : data.channels].contiguous()
    labels = None if manifest["labels"] is None else torch.tensor(manifest["labels"])
    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())

    features = classifier.features(model, generated)
    moments = frechet.load("reference/digits.npz", classifier.FEATURES)
    found = scores.scores(features, real["train"][real["drawn"]], moments, p.quality.neighbours, p.quality.seed)
    metrics = data.describe() | {
        "images": len(generated), "images_floor_heldout": floors["heldout"]["images"], "model": manifest["model"],
        "pixels": manifest["pixels"],
    }
    for name, value in found.items():
        metrics |= {name: value, f"{name}_floor_heldout": floors["heldout"][name]}
    del metrics["fd_digits"], metrics["fd_digits_floor_heldout"]  # metrics/fid.json has them

    shares = {"train": torch.ones(1), "generated": torch.ones(1), "heldout": torch.ones(1)}
    if data.labels is not None:
        recognised = classifier.predictions(model, features)
        shares = {
            "train": scores.shares(data.labels, data.classes), "generated": scores.shares(recognised, data.classes),
            "heldout": torch.tensor(floors["heldout"]["class_shares"]),
        }
    names = range(len(shares["train"])) if data.labels is not None else ["none"]
    rows = [{"class": name} | {of: float(share[i]) for of, share in shares.items()} for i, name in enumerate(names)]
    reports.write_csv("plots/class_shares.csv", rows)
    for name, of in (("class_distance", "generated"), ("class_distance_floor_heldout", "heldout")):
        metrics[name] = scores.total_variation(shares[of], shares["train"]) if data.labels is not None else None

    metrics["cas"] = None  # classification accuracy score: training on generated images (Ravuri and Vinyals 2019)
    if labels is not None:
        other = classifier.fit(generated, labels, p.classifier, device.best(), "classifier on generated images")
        metrics["cas"] = classifier.accuracy(other, data.heldout_images, data.heldout_labels)
    metrics["cas_floor_train"] = floors["train"].get("cas")

    metrics["broken"] = strokes.broken(generated)
    metrics |= {f"broken_floor_{name}": floors[name]["broken"] for name in ("heldout", "train")}

    distances, which = neighbours.nearest(torch.cat(list(dataset.rows(generated))), dataset.rows(data.images))
    metrics |= {
        "nearest_train_median": float(distances.median()),
        "nearest_train_median_floor_heldout": floors["heldout"]["nearest_train_median"],
        "memorised": float((distances < floors["heldout"]["near"]).double().mean()),
        "memorised_floor_heldout": floors["heldout"]["memorised"],
    }
    reports.write_json("metrics/quality.json", metrics)

    closest = distances.argsort()[:SHOWN_PAIRS]
    picture = figures.closest_pairs(
        generated[closest], data.images[which[closest]], distances[closest].tolist(),
        f"{data.name} ({data.fingerprint}), model {manifest['model']}",
    )
    figures.save(picture, "memorisation/closest_pairs.png", dpi=160)
