"""The Inception moments of the training images, and the floors of fid."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from ..common import artifact, device
from ..common.dataset import Dataset
from ..params import Fid
from . import frechet, inception
from .frechet import Moments, MomentSums


def inception_reference(
    data: Dataset, drawn: Tensor, settings: Fid, statistics: Path | None, target: Path
) -> dict:
    """Write the Inception moments of the training images to `target`, and measure floors of fid.

    The moments come from the file `statistics` if there is one, else from the network. Floors
    always need the network. What is missing goes to stderr with the reason. `drawn` (K,) int64 has
    the positions of the training images for the floor. Returns JSON values that describe moments
    and floors.
    """
    real = frechet.load(statistics, inception.DIMS) if statistics else None
    # The number of images that the network would process.
    seen = len(data.heldout_images) + len(drawn if statistics else data.images)
    decision = inception.decide(settings.inception, ready_made=False, images=seen)
    floors: dict[str, float] = {}
    if decision.compute:
        real, floors = _inception_floors(data, drawn, settings.batch_size, real)
    else:
        missing = "no floors of fid" if real else "no Inception moments"
        print(f"reference: {missing}: {decision.why}", file=sys.stderr)
    about: dict = {"images": seen, "moments": None, "reference": None, "from": None}
    about["floors"] = floors
    if real is not None:
        frechet.save(real, target)
        about["moments"] = about["reference"] = artifact.digest(target)
        about["from"] = "training images"
        if statistics:
            about |= {"from": str(statistics), "reference": artifact.digest(statistics)}
    return about


def _inception_floors(
    data: Dataset, drawn: Tensor, batch_size: int, real: Moments | None
) -> tuple[Moments, dict[str, float]]:
    """The moments of the training images (`real` if given), and the floors of fid."""
    network, sums = inception.load().to(device.best()), MomentSums()
    others = torch.ones(len(data.images), dtype=torch.bool)
    others[drawn] = False
    fewest = [len(data.heldout_images), len(drawn)]
    if real is None:
        fewest.append(len(data.images))
    frechet.caution("fid and its floors", min(fewest), inception.DIMS)
    of_drawn = inception.moments(network, data.images, batch_size, sums, drawn)
    if real is None:  # add all others to the drawn ones
        positions = others.nonzero()[:, 0]
        real = inception.moments(network, data.images, batch_size, sums, positions)
    of_heldout = inception.moments(network, data.heldout_images, batch_size)
    floors = {
        "heldout": frechet.distance(of_heldout, real),
        "train": frechet.distance(of_drawn, real),
    }
    return real, floors
