"""Draw images from the trained model, as PNGs in the strict format, and keep the way of the first ones from noise.

What an interrupted run of the same settings has drawn is not drawn again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from tqdm import tqdm

from src import artifact, device, drawing, images, params, reports
from src.checkpoint import place
from src.files import save_tensors

FOLDER = Path("generated_images")
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
    model_digest = artifact.digest("models/model.safetensors")

    key = [model_digest, sampler, p.sample.classes, p.sample.seed, p.sample.count, p.sample.batch_size, model.precision]
    unfinished = place("sample", [*key, str(device.best())])
    folder, trajectory = unfinished / "images", unfinished / "trajectory.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    digest, done = images.PixelDigest(), 0
    if trajectory.exists():  # written once the images that it is of are
        for batch in images.salvaged(folder, p.sample.count, p.sample.batch_size):
            digest.add(batch)
            done += len(batch)
        print(f"sample: resuming after image {done}")

    ways = []  # each (steps + 1, B, C, H, W)
    bar = tqdm(desc="sample", unit="image", initial=done, total=p.sample.count)
    for batch in drawing.batches(
        model, sampler, p.sample.seed, p.sample.count, labels, p.sample.batch_size, KEPT_TRAJECTORIES, first=done + 1
    ):
        images.write(folder, batch.first, batch.images)
        digest.add(batch.images)
        bar.update(len(batch.images))
        if batch.way is not None:
            ways.append(batch.way)
            if batch.first + len(batch.images) > min(KEPT_TRAJECTORIES, p.sample.count):
                save_tensors(trajectory, {"states": torch.cat(ways, dim=1)})

    shutil.rmtree(FOLDER, ignore_errors=True)
    folder.rename(FOLDER)
    Path("generated").mkdir(exist_ok=True)
    trajectory.replace("generated/trajectory.safetensors")
    shutil.rmtree(unfinished.parent)
    reports.write_json(
        "generated/manifest.json",
        {key: about[key] for key in ("dataset", "dataset_fingerprint")} | {
            "model": model_digest, "pixels": digest.hex(),
            "method": sampler.method, "steps": sampler.steps, "spacing": sampler.spacing, "eta": sampler.eta,
            "guidance": sampler.guidance, "guidance_interval": sampler.guidance_interval,
            "autoguidance": sampler.autoguidance, "autoguidance_interval": sampler.autoguidance_interval,
            "timesteps": model.schedule.sampling_timesteps(sampler.steps, sampler.spacing),
            "evaluations": sampler.evaluations(model), "precision": model.precision,
            "seed": p.sample.seed, "count": p.sample.count,
            "schedule": model.config.schedule.name, "prediction": model.config.prediction,
            "asked_classes": p.sample.classes, "asked_precision": p.sample.precision,
            "classes": unet.classes, "labels": None if labels is None else labels.tolist(),
        },
    )
