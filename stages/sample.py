"""Draw images from the trained model, as PNGs in the strict format, and keep the way of the first ones from noise.

What an interrupted run of the same settings has drawn is not drawn again. Several processes draw parts of their own.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from src import drawing, images, params
from src.common import artifact, device, reports
from src.common.errors import UserError
from src.common.files import publish, save_tensors
from src.training.checkpoint import place
from src.training.processes import Processes

KEPT_TRAJECTORIES = 16


def main() -> None:
    p = params.load()
    model, about = drawing.open_model("models/model.safetensors", p.sample.precision)
    unet, processes = model.config.unet, Processes()
    if missing := {"dataset", "dataset_fingerprint", "class_counts"} - about.keys():
        raise UserError(f"models/model.safetensors: lacks {', '.join(sorted(missing))}; `dvc repro train` makes it anew")
    sampler = drawing.Sampler.of(p.sample, model)
    if sampler.guidance != p.sample.guidance and processes.first:
        print("sample: the model has no classes, so sample.guidance has nothing to guide by and is taken as 1")
    counts = about["class_counts"] if unet.classes else []
    labels = drawing.choose_labels(p.sample.classes, counts, p.sample.seed, p.sample.count)
    model_digest = artifact.digest("models/model.safetensors")

    key = [model_digest, sampler, p.sample.classes, p.sample.seed, p.sample.count, p.sample.batch_size, model.precision]
    unfinished = place("sample", [*key, device.name(device.best())])
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    # Another worker of a queue that wants the very same images waits here; the lock ends with its process, however that ends.
    with FileLock(unfinished.with_suffix(".lock")) if processes.first else nullcontext():
        processes.wait()
        pixels = draw(model, sampler, p.sample, labels, unfinished, processes)
        if not processes.first:
            return
        if (there := len(list((unfinished / "images").iterdir()))) != p.sample.count:
            raise UserError(f"{unfinished}: {there} of {p.sample.count} images arrived; all processes must share this folder")
        ways = [load_file(path)["states"] for path in sorted((unfinished / "ways").iterdir())]
        save_tensors("generated/trajectory.safetensors", {"states": torch.cat(ways, dim=1)})
        publish(unfinished / "images", "generated_images")
        shutil.rmtree(unfinished)

    reports.write_json(
        "generated/manifest.json",
        {key: about[key] for key in ("dataset", "dataset_fingerprint")} | {
            "model": model_digest, "pixels": pixels.hex(),
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


def draw(
    model: drawing.Denoiser, sampler: drawing.Sampler, settings: params.Sample, labels: Tensor | None, folder: Path,
    processes: Processes,
) -> images.PixelDigest:
    """See that all images are in `folder`/images, and the ways of the first in `folder`/ways, a file for each batch.

    A batch is done when `folder`/done has the digests of its files; what is not as they say is drawn anew.
    """
    parts, each = drawing.parts(settings.count, settings.batch_size), {}  # sha256 of images, by the number of a part's first
    for name in ("images", "ways", "done"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for numbers in parts:
        try:
            done = json.loads((folder / "done" / f"{numbers[0]:05d}.json").read_text())
            batch = images.salvage(folder / "images", numbers)
            way = artifact.digest(way_of(folder, numbers[0])) if numbers[0] <= KEPT_TRAJECTORIES else None
        except (OSError, ValueError):
            continue
        if batch is not None and done == {"images": images.PixelDigest(batch).each, "way": way}:
            each[str(numbers[0])] = done["images"]
    todo = [numbers for numbers in parts if str(numbers[0]) not in each]
    there = settings.count - sum(map(len, todo))
    if there and processes.first:
        print(f"sample: resuming with {there} images")
    processes.wait()  # until all have seen what is there, before there is more

    bar = tqdm(desc="sample", unit="image", initial=there, total=settings.count, disable=not processes.first)
    for batch in drawing.batches(
        model, sampler, settings.seed, labels, todo[processes.rank :: processes.count], KEPT_TRAJECTORIES
    ):
        images.write(folder / "images", batch.first, batch.images)
        if batch.way is not None:
            save_tensors(way_of(folder, batch.first), {"states": batch.way})
        sums = images.PixelDigest(batch.images).each
        way = artifact.digest(way_of(folder, batch.first)) if batch.way is not None else None
        reports.write_json(folder / "done" / f"{batch.first:05d}.json", {"images": sums, "way": way})
        each[str(batch.first)] = sums
        bar.update(min(len(batch.images) * processes.count, bar.total - bar.n))  # the others are as far
    bar.close()
    pixels = images.PixelDigest()
    everywhere = {first: sums for found in processes.gathered(each) for first, sums in found.items()}
    for first in sorted(everywhere, key=int):
        pixels.each += everywhere[first]
    return pixels


def way_of(folder: Path, first: int) -> Path:
    return folder / "ways" / f"{first:05d}.safetensors"
