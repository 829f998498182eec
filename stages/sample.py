"""Draw images from the trained model, as PNGs in the strict format, and keep the way of the first ones from noise."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from src import artifact, drawing, images, params, reports

FOLDER = Path("generated_images")
UNFINISHED = Path(".scratch/generated_images")
KEPT_TRAJECTORIES = 16


def main() -> None:
    p = params.load()
    model, about = drawing.open_model("models/model.safetensors", p.sample.precision)
    unet = model.config.unet
    sampler = drawing.Sampler.of(p.sample, model)
    if sampler.guidance != p.sample.guidance:
        print("sample: the model has no classes, so sample.guidance has nothing to guide by and is taken as 1")
    counts = about["class_counts"] if unet.classes else []
    labels = drawing.choose_labels(p.sample.classes, counts, p.sample.seed, p.sample.count)

    ways = []  # each (steps + 1, B, C, H, W)
    digest = images.PixelDigest()
    shutil.rmtree(UNFINISHED, ignore_errors=True)
    UNFINISHED.mkdir(parents=True)
    bar = tqdm(desc="sample", unit="image", total=p.sample.count)
    for batch in drawing.batches(
        model, sampler, p.sample.seed, p.sample.count, labels, p.sample.batch_size, KEPT_TRAJECTORIES
    ):
        images.write(UNFINISHED, batch.first, batch.images)
        digest.add(batch.images)
        if batch.way is not None:
            ways.append(batch.way)
        bar.update(len(batch.images))

    shutil.rmtree(FOLDER, ignore_errors=True)
    UNFINISHED.rename(FOLDER)
    Path("generated").mkdir(exist_ok=True)
    save_file({"states": torch.cat(ways, dim=1)}, "generated/trajectory.safetensors")
    reports.write_json(
        "generated/manifest.json",
        {key: about[key] for key in ("dataset", "dataset_fingerprint")} | {
            "model": artifact.digest("models/model.safetensors"), "pixels": digest.hex(),
            "method": sampler.method, "steps": sampler.steps, "spacing": sampler.spacing, "eta": sampler.eta,
            "guidance": sampler.guidance, "guidance_interval": sampler.guidance_interval,
            "timesteps": model.schedule.sampling_timesteps(sampler.steps, sampler.spacing),
            "evaluations": sampler.evaluations(model), "precision": model.precision,
            "seed": p.sample.seed, "count": p.sample.count,
            "schedule": model.config.schedule.name, "prediction": model.config.prediction,
            "classes": unet.classes, "labels": None if labels is None else labels.tolist(),
        },
    )
