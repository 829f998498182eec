"""The scores of the stage `quality`, each with its floor. They show what one distance hides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import classifier, provenance
from ..common import device
from ..common.dataset import Dataset
from ..params import Classifier as ClassifierSettings
from . import scores, strokes
from .reference import Features, Reference


@dataclass(frozen=True)
class ClassShares:
    """Share of each class among images: (classes,) float64, (1,) ones without labels."""

    train: Tensor
    generated: Tensor
    heldout: Tensor
    names: list[str]  # [] without labels

    @property
    def labelled(self) -> bool:
        return bool(self.names)

    def table(self) -> list[dict]:
        """A row for each class."""
        names = self.names or ["none"]
        return [
            {
                "class": name,
                "train": float(self.train[i]),
                "generated": float(self.generated[i]),
                "heldout": float(self.heldout[i]),
            }
            for i, name in enumerate(names)
        ]

    def distances(self) -> dict[str, float | None]:
        """Total variation distance to the training images, in [0, 1]; None without labels."""
        pairs = {"class_distance": self.generated, "class_distance_floor_heldout": self.heldout}
        return {
            name: scores.total_variation(shares, self.train) if self.labelled else None
            for name, shares in pairs.items()
        }


@dataclass(frozen=True)
class Comparison:
    """Compare generated images (N, C, H, W) uint8 with real ones; labels (N,) int64 or None."""

    generated: Tensor
    labels: Tensor | None
    data: Dataset
    reference: Reference
    real: Features

    @cached_property
    def features(self) -> Tensor:
        """Features of the generated images: (N, 128) float32."""
        return classifier.features(self.reference.classifier, self.generated)

    def scores(self, neighbours: int, seed: int) -> dict[str, float | None]:
        """Distances of features, and manifold scores with k = `neighbours`."""
        real, moments = self.real.drawn_train, self.reference.moments
        return scores.scores(self.features, real, moments, neighbours, seed)

    def accuracy(self) -> float | None:
        """Share of images recognised as their class, in [0, 1]; None without labels."""
        return classifier.recognised(self.reference.classifier, self.features, self.labels)

    def class_shares(self, heldout: list[float] | None) -> ClassShares:
        """Class shares, for generated images from the predictions of the classifier.

        `heldout` has the shares of the held-out images, or is None without labels.
        """
        if self.data.labels is None or heldout is None:
            return ClassShares(torch.ones(1), torch.ones(1), torch.ones(1), names=[])
        what = "arrays/floors.json, the length of class_shares"
        provenance.expect(what, len(heldout), self.data.classes)
        predicted = classifier.predictions(self.reference.classifier, self.features)
        return ClassShares(
            train=scores.shares(self.data.labels, self.data.classes),
            generated=scores.shares(predicted, self.data.classes),
            heldout=torch.tensor(heldout),
            names=self.data.names,
        )

    def cas(self, settings: ClassifierSettings, images: str = "generated images") -> float | None:
        """Classification accuracy score: held-out accuracy after training on generated images.

        None without labels. `images` is a name for the progress bar. Source: Ravuri and Vinyals
        2019.
        """
        if self.labels is None:
            return None
        what = f"classifier on {images}"
        model = classifier.fit(self.generated, self.labels, settings, device.best(), what)
        return classifier.accuracy(model, self.data.heldout_images, self.data.heldout_labels)

    def broken(self) -> float:
        """Share of images with broken strokes, in [0, 1]."""
        return strokes.broken(self.generated)

    @cached_property
    def nearest(self) -> tuple[Tensor, Tensor]:
        """Distance of each image to its nearest training image, and its position: (N,) each."""
        return scores.nearest_images(self.generated, self.data.images)

    def memorisation(self, near: float) -> dict[str, float]:
        """Median distance to the nearest training image, and share of images below `near`."""
        distances = self.nearest[0]
        return {
            "nearest_train_median": float(distances.median()),
            "memorised": float((distances < near).double().mean()),
        }


def with_floors(values: dict, floors: Mapping[str, Any], *kinds: str) -> dict:
    """Each value, followed by its floors of these kinds ("heldout", "train")."""
    metrics = {}
    for name, value in values.items():
        metrics[name] = value
        metrics |= {f"{name}_floor_{kind}": floors[kind].get(name) for kind in kinds}
    return metrics
