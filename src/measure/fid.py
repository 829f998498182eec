"""Frechet distances and accuracy of generated images, batch by batch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from .. import classifier
from ..common import device
from ..common.errors import UserError
from ..provenance import InceptionAbout
from . import frechet, inception
from .frechet import MomentSums
from .reference import Reference


class Distances:
    """Sum features batch by batch, so memory does not grow with the number of images."""

    def __init__(self, reference: Reference, network: inception.Features | None, batch_size: int):
        self.reference = reference
        self.network, self.batch_size = network, batch_size
        self.digit_sums, self.inception_sums = MomentSums(), MomentSums()
        self.classes: list[Tensor] = []

    def add(self, batch: Tensor) -> None:
        """Add a batch of uint8 images (B, 3, H, W)."""
        model = self.reference.classifier
        channels = model.config.image_channels  # grey images come as RGB with equal channels
        features = classifier.features(model, batch[:, :channels])
        self.digit_sums.add(features.numpy())
        self.classes.append(classifier.predictions(model, features))
        if self.network:
            inception.add(self.inception_sums, self.network, batch, self.batch_size)

    def digits(self) -> float:
        """fd_digits of all images so far. Warns if they are too few."""
        frechet.caution("fd_digits", self.digit_sums.count, classifier.FEATURES)
        return frechet.distance(self.digit_sums.moments(), self.reference.moments)

    def inception(self, moments: str | Path) -> float:
        """fid of all images so far, against the moments in a file. Warns if they are too few."""
        frechet.caution("fid", self.inception_sums.count, inception.DIMS)
        real = frechet.load(moments, inception.DIMS)
        return frechet.distance(self.inception_sums.moments(), real)

    def accuracy(self, labels: list[int] | None) -> float | None:
        """Share of images recognised as their class, in [0, 1].

        None without labels, or if the classifier was trained without them.
        """
        if labels is None or self.reference.classifier.config.pretext != "labels":
            return None
        return float((torch.cat(self.classes) == torch.tensor(labels)).double().mean())


def inception_network(mode: str, count: int, about: InceptionAbout) -> inception.Features | None:
    """The Inception network; None if fid cannot be measured, with the reason on stderr.

    `mode` is fid.inception, `count` the number of generated images, and `about` the content of
    reference/inception.json. Raises UserError if `mode` is "always" but moments or weights are
    missing.
    """
    present = about["moments"] is not None
    if not present and mode == "always":
        raise UserError(
            "reference/inception.npz: not found; "
            "`dvc repro --single-item --force reference` makes it"
        )
    images = count if present else count + about["images"]
    decision = inception.decide(mode, ready_made=present, images=images)
    if present and decision.compute:
        return inception.load().to(device.best())
    missing = (
        "no Inception moments in reference/ "
        "(`dvc repro --single-item --force reference fid` makes them); "
    )
    print(f"fid: not measured: {'' if present else missing}{decision.why}", file=sys.stderr)
    return None
