"""Draw images into a folder with one or several processes. An interrupted run can continue."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from . import drawing, images
from .common import artifact, reports
from .common.errors import UserError
from .common.files import save_tensors
from .common.processes import Processes
from .diffusion.denoiser import Denoiser
from .diffusion.samplers import Sampler
from .manifest import Manifest
from .params import Sample


@dataclass(frozen=True)
class Job:
    """Everything that determines the images, and the number of trajectories to keep."""

    denoiser: Denoiser
    sampler: Sampler
    settings: Sample  # seed, count, batch_size
    labels: Tensor | None
    trajectories: int


@dataclass
class Unfinished:
    """The images drawn so far, in `folder`.

    `folder`/images has the PNGs. `folder`/trajectories has a file for each batch that keeps
    trajectories. A batch is done when `folder`/done has the digests of its files. Any other batch
    is drawn again.
    """

    folder: Path
    processes: Processes
    digests: dict[str, list[str]] = field(default_factory=dict)  # by a batch's first number

    @property
    def image_folder(self) -> Path:
        return self.folder / "images"

    def complete(self, job: Job) -> images.PixelDigest:
        """Draw the missing images. Each process draws its share; all return the same digest."""
        parts = drawing.parts(job.settings.count, job.settings.batch_size)
        missing = self._missing(parts, job.trajectories)
        present = job.settings.count - sum(map(len, missing))
        first = self.processes.first
        if present and first:
            print(f"sample: resuming with {present} images")
        self.processes.wait()  # no process may add files before all have listed the missing ones

        bar = tqdm(
            desc="sample",
            unit="image",
            initial=present,
            total=job.settings.count,
            disable=not first,
        )
        for batch in drawing.batches(
            job.denoiser,
            job.sampler,
            job.settings.seed,
            job.labels,
            missing[self.processes.rank :: self.processes.count],
            job.trajectories,
        ):
            self._keep(batch)
            everyone = len(batch.images) * self.processes.count  # others are as far
            bar.update(min(everyone, bar.total - bar.n))
        bar.close()
        return self._digest()

    def _missing(self, parts: list[range], trajectories: int) -> list[range]:
        """List the batches that are not done, and store the digests of those that are."""
        for name in ("images", "trajectories", "done"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        missing = []
        for numbers in parts:
            first = numbers[0]
            try:
                done = json.loads(self._done(first).read_text())
                batch = images.salvage(self.image_folder, numbers)
                kept = first <= trajectories
                trajectory = artifact.digest(self._trajectory(first)) if kept else None
            except (OSError, ValueError):
                batch = None
            if batch is None:
                missing.append(numbers)
                continue
            digests = images.PixelDigest(batch).each
            if done == {"images": digests, "trajectory": trajectory}:
                self.digests[str(first)] = digests
            else:
                missing.append(numbers)
        return missing

    def _keep(self, batch: drawing.Batch) -> None:
        images.write(self.image_folder, batch.first, batch.images)
        trajectory = None
        if batch.trajectory is not None:
            path = self._trajectory(batch.first)
            save_tensors(path, {"states": batch.trajectory})
            trajectory = artifact.digest(path)
        digests = images.PixelDigest(batch.images).each
        done = {"images": digests, "trajectory": trajectory}
        reports.write_json(self._done(batch.first), done)
        self.digests[str(batch.first)] = digests

    def _digest(self) -> images.PixelDigest:
        everywhere: dict[str, list[str]] = {}
        for digests in self.processes.gathered(self.digests):
            everywhere |= digests
        pixels = images.PixelDigest()
        for first in sorted(everywhere, key=int):
            pixels.each += everywhere[first]
        return pixels

    def check(self, count: int) -> None:
        """Delete what is no image of this job. Raises UserError unless all `count` images exist."""
        expected = {images.file_name(number) for number in range(1, count + 1)}
        for path in self.image_folder.iterdir():
            if path.name not in expected:  # such as macOS's .DS_Store
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        present = len(list(self.image_folder.iterdir()))
        if present != count:
            raise UserError(
                f"{self.folder}: expected {count} images, found {present}; "
                f"all processes must share this folder"
            )

    def trajectory(self) -> Tensor:
        """The kept trajectories: uint8 (steps + 1, K, C, H, W)."""
        paths = sorted((self.folder / "trajectories").glob("[0-9]*.safetensors"))
        return torch.cat([load_file(path)["states"] for path in paths], dim=1)

    def _done(self, first: int) -> Path:
        return self.folder / "done" / f"{first:05d}.json"

    def _trajectory(self, first: int) -> Path:
        return self.folder / "trajectories" / f"{first:05d}.safetensors"


def manifest_of(job: Job, about: dict, model: str, pixels: str) -> Manifest:
    """The manifest of a finished job. `about` is from the model file; the others are digests."""
    denoiser, sampler = job.denoiser, job.sampler
    return Manifest(
        dataset=about["dataset"],
        dataset_fingerprint=about["dataset_fingerprint"],
        model=model,
        pixels=pixels,
        sampler=sampler,
        timesteps=sampler.timesteps(denoiser.schedule),
        evaluations=sampler.evaluations(denoiser),
        precision=denoiser.precision,
        seed=job.settings.seed,
        count=job.settings.count,
        schedule=denoiser.config.schedule.name,
        prediction=denoiser.config.prediction,
        asked_classes=job.settings.classes,
        asked_precision=job.settings.precision,
        classes=denoiser.config.unet.classes,
        labels=None if job.labels is None else job.labels.tolist(),
        class_names=about.get("class_names") if denoiser.conditional else None,
    )
