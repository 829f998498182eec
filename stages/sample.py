"""Draw images from the trained model as RGB PNGs, and keep some trajectories.

An interrupted run with the same settings continues. Several processes share the work.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext

from filelock import FileLock

from src import drawing, model_file, params
from src.common import artifact, device
from src.common.files import publish, save_tensors
from src.common.processes import Processes
from src.common.scratch import place
from src.resumable import Job, Unfinished, manifest_of

MODEL = "models/model.safetensors"
KEPT_TRAJECTORIES = 16


def main() -> None:
    p = params.load()
    model, about = model_file.open_model(MODEL, p.sample.precision)
    processes, settings = Processes(), p.sample
    sampler = drawing.fitted(settings.sampler, model)
    if sampler != settings.sampler and processes.first:
        print(
            "sample: the model has no classes, so sample.guidance has no effect. It is set to 1, "
            "which is off"
        )
    labels = drawing.labels_for(model, about, settings.classes, settings.seed, settings.count)
    job = Job(model, sampler, settings, labels, KEPT_TRAJECTORIES)
    digest = artifact.digest(MODEL)
    key = [digest, settings.model_dump(), sampler, model.precision, device.name(device.best())]
    folder = place("sample", key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Another worker of a queue that draws the same images waits here. The lock ends with its
    # process, even if that is killed.
    with FileLock(folder.with_suffix(".lock")) if processes.first else nullcontext():
        processes.wait()
        unfinished = Unfinished(folder, processes)
        pixels = unfinished.complete(job)
        if not processes.first:
            return
        unfinished.check(settings.count)
        save_tensors("generated/trajectory.safetensors", {"states": unfinished.trajectory()})
        publish(unfinished.image_folder, "generated_images")
        shutil.rmtree(folder)
    manifest = manifest_of(job, about, digest, pixels.hex())
    manifest.save("generated/manifest.json")
