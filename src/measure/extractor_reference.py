"""The moments of the training images in an extractor's features, and the floors of its distance."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..common import artifact
from ..common.dataset import Dataset
from ..common.randomness import generator
from . import frechet
from .extractors import Extractor, LoadedExtractor, Mode, decide
from .frechet import Moments, MomentSums


@dataclass(frozen=True)
class Ready:
    """Moments of the training images that exist already, and floors if they do."""

    path: Path
    floors: dict[str, float] = field(default_factory=dict)  # heldout, train


@dataclass(frozen=True)
class Kept:
    """Features (K, D) float32 of real images in random order; K is 0 if not computed."""

    train: Tensor
    heldout: Tensor


def extractor_reference(
    extractor: Extractor,
    data: Dataset,
    drawn: Tensor,
    mode: Mode,
    batch_size: int,
    ready: Ready | None,
    target: Path,
    keep: int = 0,
) -> tuple[dict, Kept]:
    """Write the moments of the training images to `target`, and measure the floors.

    What `ready` has is not computed. `drawn` (N,) int64 has the positions of the training images
    for the floor. `keep` features of training and of held-out images are returned. What is missing
    goes to stderr with the reason. Returns JSON values that describe moments and floors, too.
    """
    measurement = _Measurement(extractor, data, drawn, keep)
    real = frechet.load(ready.path, extractor.dims) if ready else None
    floors = dict(ready.floors) if ready else {}
    images = measurement.images(needs_moments=real is None, needs_floors=not floors)
    decision = decide(extractor, mode, ready_made=False, images=images)
    kept = Kept(torch.empty(0, extractor.dims), torch.empty(0, extractor.dims))
    if decision.compute:
        network = LoadedExtractor(extractor, batch_size)
        if floors:
            kept = measurement.kept(network)
        else:
            real, floors, kept = measurement.floors(network, real)
    else:
        missing = f"no floors of {extractor.metric}"
        if real is None:
            missing = f"no moments of {extractor.name}"
        print(f"reference: {missing}: {decision.why}", file=sys.stderr)
    about: dict = {"images": images, "moments": None, "reference": None, "from": None}
    about["floors"] = floors
    if real is not None:
        frechet.save(real, target, extractor.saved_as)
        about["moments"] = about["reference"] = artifact.digest(target)
        about["from"] = "training images"
        if ready:
            about |= {"from": ready.path.as_posix(), "reference": artifact.digest(ready.path)}
    return about, kept


class _Measurement:
    """Which images an extractor's network gets, each once."""

    def __init__(self, extractor: Extractor, data: Dataset, drawn: Tensor, keep: int):
        self.extractor, self.data, self.drawn, self.keep = extractor, data, drawn, keep
        # Random order, since the first half of MNIST's test images is neater.
        random = generator(0, "held-out floor")
        self.heldout = torch.randperm(len(data.heldout_images), generator=random)

    def images(self, needs_moments: bool, needs_floors: bool) -> int:
        """The number of images that the network gets."""
        if not needs_floors:
            return min(self.keep, len(self.drawn)) + min(self.keep, len(self.heldout))
        return len(self.heldout) + len(self.data.images if needs_moments else self.drawn)

    def kept(self, network: LoadedExtractor) -> Kept:
        """The features to keep, without anything else."""
        return Kept(
            network.features(self.data.images, self.drawn[: self.keep]),
            network.features(self.data.heldout_images, self.heldout[: self.keep]),
        )

    def floors(
        self, network: LoadedExtractor, real: Moments | None
    ) -> tuple[Moments, dict[str, float], Kept]:
        """The moments of the training images (`real` if given), and the floors."""
        data, dims = self.data, self.extractor.dims
        fewest = [len(self.heldout), len(self.drawn)]
        if real is None:
            fewest.append(len(data.images))
        frechet.caution(f"{self.extractor.metric} and its floors", min(fewest), dims)
        sums, heldout_sums = MomentSums(), MomentSums()
        train = network.add(sums, data.images, self.drawn, self.keep)
        of_drawn = sums.moments()
        if real is None:  # add all others to the drawn ones
            others = torch.ones(len(data.images), dtype=torch.bool)
            others[self.drawn] = False
            network.add(sums, data.images, others.nonzero()[:, 0])
            real = sums.moments()
        heldout = network.add(heldout_sums, data.heldout_images, self.heldout, self.keep)
        floors = {
            "heldout": frechet.distance(heldout_sums.moments(), real),
            "train": frechet.distance(of_drawn, real),
        }
        return real, floors, Kept(train, heldout)
