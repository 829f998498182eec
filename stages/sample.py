"""Draw images from the trained model, as PNGs in the strict format, and keep the way of the first ones from noise."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from src import artifact, denoiser, device, images, params, reports
from src.dataset import to_pixels
from src.errors import UserError
from src.samplers import ImageNoise, draw_classes, sample

FOLDER = Path("generated_images")
UNFINISHED = Path(".scratch/generated_images")
KEPT_TRAJECTORIES = 16


def main() -> None:
    p = params.load()
    model, about = denoiser.load("models/model.safetensors")
    model = model.to(device.best())
    model.precision = device.precision(p.sample.precision, device.best())
    unet = model.config.unet
    guidance = p.sample.guidance if unet.classes else 1.0
    if guidance != p.sample.guidance:
        print("sample: the model has no classes, so sample.guidance has nothing to guide by and is taken as 1")
    interval = tuple(p.sample.guidance_interval or (-math.inf, math.inf))
    timesteps = model.schedule.sampling_timesteps(p.sample.steps, p.sample.spacing)
    labels = choose_labels(p.sample.classes, about["class_counts"] if unet.classes else [], p.sample.seed, p.sample.count)

    kept = []  # each (steps + 1, B, C, H, W)
    shutil.rmtree(UNFINISHED, ignore_errors=True)
    UNFINISHED.mkdir(parents=True)
    for chosen in tqdm(torch.arange(p.sample.count).split(p.sample.batch_size), desc="sample", unit="batch"):
        numbers = range(int(chosen[0]) + 1, int(chosen[-1]) + 2)
        noise = ImageNoise(p.sample.seed, numbers, (unet.image_channels, unet.image_size, unet.image_size), device.best())
        label = None if labels is None else labels[chosen].to(device.best())
        states = []
        for step in sample(model, noise, timesteps, p.sample.method, p.sample.eta, guidance, interval, label):
            if numbers[0] <= KEPT_TRAJECTORIES:
                states.append(to_pixels(step.x_t).cpu())
        finished = to_pixels(step.x0).cpu()
        images.write(UNFINISHED, numbers[0], finished)
        if numbers[0] <= KEPT_TRAJECTORIES:
            kept.append(torch.stack([*states, finished]))

    shutil.rmtree(FOLDER, ignore_errors=True)
    UNFINISHED.rename(FOLDER)
    Path("generated").mkdir(exist_ok=True)
    trajectory = torch.cat(kept, dim=1)[:, :KEPT_TRAJECTORIES].contiguous()
    save_file({"states": trajectory}, "generated/trajectory.safetensors")
    reports.write_json(
        "generated/manifest.json",
        {key: about[key] for key in ("dataset", "dataset_fingerprint")} | {
            "model": artifact.digest("models/model.safetensors"),
            "method": p.sample.method, "steps": p.sample.steps, "spacing": p.sample.spacing, "eta": p.sample.eta,
            "guidance": guidance, "guidance_interval": p.sample.guidance_interval, "precision": model.precision,
            "seed": p.sample.seed, "count": p.sample.count,
            "timesteps": timesteps, "schedule": model.config.schedule.name, "prediction": model.config.prediction,
            "classes": unet.classes, "labels": None if labels is None else labels.tolist(),
        },
    )


def choose_labels(classes: list[int] | None, counts: list[int], seed: int, count: int) -> torch.Tensor | None:
    """The class of each image (count,), or None for a model without classes."""
    if not counts:
        if classes is not None:
            raise UserError(f"sample.classes: expected null, since the model was trained without classes; found {classes}")
        return None
    if classes is None:
        return draw_classes(counts, seed, range(1, count + 1))
    if max(classes) >= len(counts):
        raise UserError(f"sample.classes: expected classes from 0 to {len(counts) - 1}, found {max(classes)}")
    return torch.tensor(classes).repeat(-(-count // len(classes)))[:count]
