"""How far the scores move from one sampling seed to the next: the same model and settings, other noise."""

from __future__ import annotations

import statistics

from tqdm import tqdm

from src import classifier, drawing, frechet, params, provenance
from src.common import artifact, dataset, device, reports
from src.quality import scores, strokes

NAMES = (
    "fd_digits", "accuracy", "fd_digits_infinity", "kid_digits", "precision", "recall", "density", "coverage", "cas", "broken"
)


def main() -> None:
    p = params.load()
    reference = provenance.reference("reference/about.json")
    data = dataset.load("arrays/dataset.safetensors")
    provenance.check_measured(
        reference, "models/classifier.safetensors", "reference/digits.npz", "arrays/features.safetensors", data
    )
    first = provenance.read("metrics/fid.json", ("fd_digits", "accuracy", "model", "pixels", "classifier"))
    provenance.expect("models/model.safetensors", artifact.digest("models/model.safetensors"), first["model"])
    provenance.expect("models/classifier.safetensors", reference["classifier"], first["classifier"])
    others = provenance.read("metrics/quality.json", ("pixels", *NAMES[2:]))
    provenance.expect("metrics/quality.json, its images", others["pixels"], first["pixels"])
    first |= others

    real = provenance.tensors("arrays/features.safetensors")
    real, moments = real["train"][real["drawn"]], frechet.load("reference/digits.npz", classifier.FEATURES)
    instrument, _ = classifier.load("models/classifier.safetensors")
    instrument = instrument.to(device.best())
    model, about = drawing.open_model("models/model.safetensors", p.sample.precision)
    sampler = drawing.Sampler.of(p.sample, model)
    rows = [{"seed": p.sample.seed} | {name: first[name] for name in NAMES}]
    for seed in tqdm(range(p.sample.seed + 1, p.sample.seed + p.spread.seeds), desc="spread", unit="seed"):
        counts = about["class_counts"] if model.conditional else []
        labels = drawing.choose_labels(p.sample.classes, counts, seed, p.sample.count)
        images = drawing.draw(model, sampler, seed, p.sample.count, labels, p.sample.batch_size)
        features = classifier.features(instrument, images)
        found = scores.scores(features, real, moments, p.quality.neighbours, p.quality.seed)
        found |= {"accuracy": classifier.recognised(instrument, features, labels), "broken": strokes.broken(images), "cas": None}
        if labels is not None:
            other = classifier.fit(images, labels, p.classifier, device.best(), f"classifier on images of seed {seed}")
            found["cas"] = classifier.accuracy(other, data.heldout_images, data.heldout_labels)
        rows.append({"seed": seed} | {name: found[name] for name in NAMES})
    reports.write_csv("plots/spread.csv", rows)
    metrics = data.describe() | {"model": first["model"], "images": p.sample.count, "seeds": len(rows)}
    for name in NAMES:
        values = [row[name] for row in rows if row[name] is not None]
        metrics[f"{name}_mean"] = statistics.mean(values) if values else None
        metrics[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    reports.write_json("metrics/spread.json", metrics)
