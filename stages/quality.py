"""What one distance hides: fidelity, variety, classes, usefulness and memorisation of the generated images, with floors."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from src import classifier, dataset, device, figures, frechet, images, neighbours, params, provenance, reports, strokes
from src.scores import scores

SHOWN_PAIRS = 24


def main() -> None:
    p = params.load()
    manifest, reference = provenance.manifest("generated/manifest.json"), provenance.reference("reference/about.json")
    provenance.check(
        manifest, reference, "models/model.safetensors", "models/classifier.safetensors", "reference/digits.npz"
    )
    data = dataset.load("arrays/dataset.safetensors")
    real = load_file("arrays/reference.safetensors")
    generated = images.read("generated_images", manifest["count"], data.image_size, manifest["pixels"])
    generated = generated[:, : data.channels].contiguous()
    labels = None if manifest["labels"] is None else torch.tensor(manifest["labels"])
    model, _ = classifier.load("models/classifier.safetensors")
    model = model.to(device.best())

    features, floors = classifier.features(model, generated), reference["floors"]
    moments = frechet.load("reference/digits.npz", classifier.FEATURES)
    found = scores(features, real["features"], moments, p.quality.neighbours, p.quality.seed)
    metrics = data.describe() | {"images": len(generated), "images_floor_heldout": floors["heldout"]["images"]}
    for name, value in found.items():
        metrics |= {name: value, f"{name}_floor_heldout": floors["heldout"][name]}
    del metrics["fd_digits"], metrics["fd_digits_floor_heldout"]  # metrics/fid.json has them

    if data.labels is not None:
        recognised = classifier.predictions(model, features)
        heldout = classifier.predictions(model, classifier.features(model, data.heldout_images))
        shares = {
            "train": share(data.labels, data.classes), "generated": share(recognised, data.classes),
            "heldout": share(heldout, data.classes),
        }
        reports.write_csv(
            "plots/class_shares.csv",
            [{"class": c} | {name: float(values[c]) for name, values in shares.items()} for c in range(data.classes)],
        )
        metrics["class_distance"] = float((shares["generated"] - shares["train"]).abs().sum() / 2)
        metrics["class_distance_floor_heldout"] = float((shares["heldout"] - shares["train"]).abs().sum() / 2)
    else:
        reports.write_csv("plots/class_shares.csv", [{"class": "none", "train": 1.0, "generated": 1.0, "heldout": 1.0}])
        metrics |= {"class_distance": None, "class_distance_floor_heldout": None}

    metrics["cas"] = None  # classification accuracy score: training on generated images (Ravuri and Vinyals 2019)
    if labels is not None:
        steps = classifier.train(generated, labels, p.classifier, device.best())
        total = classifier.total_steps(len(generated), p.classifier)
        for other, _ in tqdm(steps, desc="classifier on generated images", unit="step", total=total):
            pass
        metrics["cas"] = classifier.accuracy(other, data.heldout_images, data.heldout_labels)
    metrics["cas_floor_train"] = floors["train"].get("cas")

    metrics |= {"broken": strokes.broken(generated)} | {f"broken_floor_{name}": floors[name]["broken"] for name in floors}

    distances, which = neighbours.nearest(generated.flatten(1).float() / 255, data.images.flatten(1).float() / 255)
    near = real["heldout_nearest"].quantile(0.01)
    metrics |= {
        "nearest_train_median": float(distances.median()),
        "nearest_train_median_floor_heldout": float(real["heldout_nearest"].median()),
        "memorised": float((distances < near).double().mean()),
        "memorised_floor_heldout": float((real["heldout_nearest"] < near).double().mean()),
    }
    reports.write_json("metrics/quality.json", metrics)

    closest = distances.argsort()[:SHOWN_PAIRS]
    picture = figures.closest_pairs(
        generated[closest], data.images[which[closest]], distances[closest].tolist(),
        f"{data.name} ({data.fingerprint}), model {manifest['model']}",
    )
    Path("memorisation").mkdir(exist_ok=True)
    picture.savefig("memorisation/closest_pairs.png", dpi=160, metadata={"Software": None})
    figures.plt.close(picture)


def share(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Share of each class: (classes,) float64, sums to 1."""
    return torch.bincount(labels, minlength=classes).double() / len(labels)
