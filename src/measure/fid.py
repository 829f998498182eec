"""Frechet distances and accuracy of generated images, batch by batch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import classifier, provenance
from ..common.errors import UserError
from ..provenance import ExtractorAbout
from . import frechet
from .extractors import Extractor, LoadedExtractor, Mode, decide
from .frechet import Moments, MomentSums
from .reference import Reference


class Distances:
    """Sum features batch by batch, so memory does not grow with the number of images."""

    def __init__(self, reference: Reference, networks: list[LoadedExtractor]):
        """`networks` has the networks to use besides the classifier."""
        self.reference = reference
        self.digit_sums = MomentSums()
        self.networks = [(network, MomentSums()) for network in networks]
        self.classes: list[Tensor] = []

    def add(self, batch: Tensor) -> None:
        """Add a batch of uint8 images (B, 3, H, W)."""
        model = self.reference.classifier
        channels = model.config.image_channels  # grey images come as RGB with equal channels
        features = classifier.features(model, batch[:, :channels])
        self.digit_sums.add(features.numpy())
        self.classes.append(classifier.predictions(model, features))
        for network, sums in self.networks:
            network.add(sums, batch)

    def digits(self) -> float:
        """fd_digits of all images so far. Warns if they are too few."""
        frechet.caution("fd_digits", self.digit_sums.count, classifier.FEATURES)
        return frechet.distance(self.digit_sums.moments(), self.reference.moments)

    def other_distances(self, folder: Path) -> dict[str, float]:
        """The distances of the other networks, by metric. Warns if the images are too few.

        `folder` has the moments of the real images.
        """
        distances = {}
        for network, sums in self.networks:
            extractor = network.extractor
            frechet.caution(extractor.metric, sums.count, extractor.dims)
            real = frechet.load(folder / f"{extractor.name}.npz", extractor.dims)
            distances[extractor.metric] = frechet.distance(sums.moments(), real)
        return distances

    def accuracy(self, labels: list[int] | None) -> float | None:
        """Share of images recognised as their class, in [0, 1].

        None without labels, or if the classifier was trained without them.
        """
        if labels is None or self.reference.classifier.config.pretext != "labels":
            return None
        return float((torch.cat(self.classes) == torch.tensor(labels)).double().mean())


@dataclass(frozen=True)
class DistanceTo:
    """Computes the distance of images to `real`."""

    network: LoadedExtractor
    real: Moments

    def __call__(self, images: Tensor) -> float:
        """The Frechet distance of uint8 images (N, C, H, W)."""
        return frechet.distance(self.network.moments(images), self.real)


class ExtractorReference:
    """An extractor's files in the folder `reference/`."""

    def __init__(self, extractor: Extractor, folder: Path):
        """Raises UserError for damaged files."""
        self.extractor = extractor
        self.moments_path = folder / f"{extractor.name}.npz"
        self.about = provenance.read(folder / f"{extractor.name}.json", ExtractorAbout)
        if self.about["moments"] is not None:
            what = "moments of the real images"
            provenance.expect_file(self.moments_path, what, self.about["moments"])

    def distance(self, batch_size: int = 50) -> DistanceTo | None:
        """Computes distances to the training images; None if their moments were not computed."""
        if self.about["moments"] is None:
            return None
        real = frechet.load(self.moments_path, self.extractor.dims)
        return DistanceTo(LoadedExtractor(self.extractor, batch_size), real)

    def network(self, mode: Mode, count: int, batch_size: int) -> LoadedExtractor | None:
        """The network; None if the distance cannot be measured, with the reason on stderr.

        `mode` is the extractor's value in params.yaml, `count` the number of generated images, and
        `batch_size` fid.batch_size. Raises UserError if `mode` is "always" but moments or weights
        are missing.
        """
        name, present = self.extractor.name, self.about["moments"] is not None
        if not present and mode == "always":
            raise UserError(
                f"{self.moments_path}: not found; "
                f"`dvc repro --single-item --force reference` makes it"
            )
        images = count if present else count + self.about["images"]
        decision = decide(self.extractor, mode, ready_made=present, images=images)
        if present and decision.compute:
            return LoadedExtractor(self.extractor, batch_size)
        missing = (
            f"no moments of {name} in reference/ "
            f"(`dvc repro --single-item --force reference fid` makes them); "
        )
        print(
            f"fid: {self.extractor.metric} not measured: {'' if present else missing}"
            f"{decision.why}",
            file=sys.stderr,
        )
        return None

    def metrics(self, value: float | None) -> dict[str, object]:
        """The distance `value`, its floors, and the digests of weights and moments."""
        metric, name = self.extractor.metric, self.extractor.name
        measured = value is not None
        return {
            metric: value,
            f"{metric}_floor_heldout": self.about["floors"].get("heldout"),
            f"{metric}_floor_train": self.about["floors"].get("train"),
            name: self.extractor.weights_hash() if measured else None,
            f"{name}_reference": self.about["reference"] if measured else None,
        }
