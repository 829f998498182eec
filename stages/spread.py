"""Measure how the scores vary with the sampling seed: the same model, other noise."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src import drawing, model_file, params, provenance
from src.common import dataset, reports
from src.measure.extractors import IMAGENET
from src.measure.fid import ExtractorReference
from src.measure.quality import Comparison
from stages import inputs

SCORES = (
    *("fd_imagenet", "fd_digits", "fd_digits_infinity", "kid_digits"),
    *("accuracy", "precision", "recall", "density", "coverage", "cas", "broken"),
)


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    reference, real = inputs.measuring(data)
    first = provenance.read("metrics/fid.json", provenance.FidMetrics)
    used = reference.about["classifier"]
    provenance.expect("models/classifier.safetensors", used, first["classifier"])
    provenance.expect_file("models/model.safetensors", "which drew the images", first["model"])
    quality = provenance.read("metrics/quality.json", provenance.QualityMetrics)
    provenance.expect("metrics/quality.json, its images", quality["pixels"], first["pixels"])

    model, about = model_file.open_model("models/model.safetensors", p.sample.precision)
    sampler = drawing.fitted(p.sample.sampler, model)
    imagenet = ExtractorReference(IMAGENET, Path("reference")).distance()
    measured: dict[str, Any] = {**first, **quality}
    rows = [{"seed": p.sample.seed} | {name: measured[name] for name in SCORES}]
    seeds = range(p.sample.seed + 1, p.sample.seed + p.spread.seeds)
    for seed in tqdm(seeds, desc="spread", unit="seed"):
        labels = drawing.labels_for(model, about, p.sample.classes, seed, p.sample.count)
        images = drawing.draw(model, sampler, seed, p.sample.count, labels, p.sample.batch_size)
        comparison = Comparison(images, labels, data, reference, real)
        scores = comparison.scores(p.quality.neighbours, p.quality.seed)
        scores |= {"accuracy": comparison.accuracy(), "broken": comparison.broken()}
        scores["fd_imagenet"] = imagenet(images) if imagenet else None
        scores["cas"] = comparison.cas(p.classifier, f"images of seed {seed}")
        rows.append({"seed": seed} | {name: scores[name] for name in SCORES})
    reports.write_csv("plots/spread.csv", rows)

    metrics = data.describe()
    metrics |= {"model": first["model"], "images": p.sample.count, "seeds": len(rows)}
    for name in SCORES:
        values = [row[name] for row in rows if row[name] is not None]
        metrics[f"{name}_mean"] = statistics.mean(values) if values else None
        metrics[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    reports.write_json("metrics/spread.json", metrics)
