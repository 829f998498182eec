"""How far a score moves from one sampling seed to the next: the same model and settings, other noise."""

from __future__ import annotations

import statistics

from tqdm import tqdm

from src import artifact, classifier, device, drawing, frechet, params, provenance, reports, scores


def main() -> None:
    p = params.load()
    model, about = drawing.open_model("models/model.safetensors", p.sample.precision)
    sampler = drawing.Sampler.of(p.sample, model)
    instrument, _ = classifier.load("models/classifier.safetensors")
    instrument = instrument.to(device.best())
    reference = frechet.load("reference/digits.npz", classifier.FEATURES)
    measured = provenance.read("metrics/fid.json", ("fd_digits", "accuracy", "model", "classifier"))  # of the first seed
    provenance.expect("models/model.safetensors", artifact.digest("models/model.safetensors"), measured["model"])
    provenance.expect("models/classifier.safetensors", artifact.digest("models/classifier.safetensors"), measured["classifier"])
    rows = [{"seed": p.sample.seed, "fd_digits": measured["fd_digits"], "accuracy": measured["accuracy"]}]
    for seed in tqdm(range(p.sample.seed + 1, p.sample.seed + p.spread.seeds), desc="spread", unit="seed"):
        counts = about["class_counts"] if model.conditional else []
        labels = drawing.choose_labels(p.sample.classes, counts, seed, p.sample.count)
        images = drawing.draw(model, sampler, seed, p.sample.count, labels)
        rows.append({"seed": seed} | scores.quick(instrument, images, labels, reference))
    reports.write_csv("plots/spread.csv", rows)
    metrics = {key: about[key] for key in ("dataset", "dataset_fingerprint")} | {"images": p.sample.count, "seeds": len(rows)}
    for name in ("fd_digits", "accuracy"):
        values = [row[name] for row in rows if row[name] is not None]
        metrics[f"{name}_mean"] = statistics.mean(values) if values else None
        metrics[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    reports.write_json("metrics/spread.json", metrics)
