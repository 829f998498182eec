"""The scores of the stage `quality`, each with its floor: what one distance hides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .. import classifier
from ..common import device
from ..common.dataset import Dataset, rows
from ..params import Classifier as ClassifierSettings
from . import neighbours, scores, strokes
from .reference import Features, Reference


@dataclass(frozen=True)
class ClassShares:
    """Share of each class among images: (classes,) float64, (1,) ones without labels."""

    train: Tensor
    generated: Tensor
    heldout: Tensor
    labelled: bool

    def table(self) -> list[dict]:
        """A row for each class."""
        names = range(len(self.train)) if self.labelled else ["none"]
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
        """Total variation from the shares of the training images; None without labels."""
        pairs = {"class_distance": self.generated, "class_distance_floor_heldout": self.heldout}
        return {
            name: scores.total_variation(shares, self.train) if self.labelled else None
            for name, shares in pairs.items()
        }


@dataclass(frozen=True)
class Comparison:
    """Generated images (N, C, H, W) uint8 against the real ones; labels (N,) int64 or None."""

    generated: Tensor
    labels: Tensor | None
    data: Dataset
    reference: Reference
    real: Features

    @cached_property
    def features(self) -> Tensor:
        """(N, 128) float32."""
        return classifier.features(self.reference.classifier, self.generated)

    def scores(self, neighbours: int, seed: int) -> dict[str, float | None]:
        """Distances in features, and manifolds by so many neighbours."""
        real, moments = self.real.drawn_train, self.reference.moments
        return scores.scores(self.features, real, moments, neighbours, seed)

    def accuracy(self) -> float | None:
        """Share of images recognised as their class; None without classes."""
        return classifier.recognised(self.reference.classifier, self.features, self.labels)

    def class_shares(self, heldout: list[float] | None) -> ClassShares:
        """Of generated images by the classifier's predictions; `heldout` comes from the floors."""
        if self.data.labels is None or heldout is None:
            return ClassShares(torch.ones(1), torch.ones(1), torch.ones(1), labelled=False)
        predicted = classifier.predictions(self.reference.classifier, self.features)
        return ClassShares(
            train=scores.shares(self.data.labels, self.data.classes),
            generated=scores.shares(predicted, self.data.classes),
            heldout=torch.tensor(heldout),
            labelled=True,
        )

    def cas(self, settings: ClassifierSettings, images: str = "generated images") -> float | None:
        """Classification accuracy score: held-out accuracy after training on generated images.

        Ravuri and Vinyals 2019. None without labels. `images` names them in the progress bar.
        """
        if self.labels is None:
            return None
        what = f"classifier on {images}"
        model = classifier.fit(self.generated, self.labels, settings, device.best(), what)
        return classifier.accuracy(model, self.data.heldout_images, self.data.heldout_labels)

    def broken(self) -> float:
        """Share of images whose strokes are in pieces."""
        return strokes.broken(self.generated)

    @cached_property
    def nearest(self) -> tuple[Tensor, Tensor]:
        """Distance of each image to the nearest training image, and its position: (N,) each."""
        points = torch.cat(list(rows(self.generated)))
        return neighbours.nearest(points, rows(self.data.images))

    def memorisation(self, near: float) -> dict[str, float]:
        """How near the images come to training images, and the share below the distance `near`."""
        distances = self.nearest[0]
        return {
            "nearest_train_median": float(distances.median()),
            "memorised": float((distances < near).double().mean()),
        }


def with_floors(values: dict, floors: dict, *kinds: str) -> dict:
    """Each value, followed by its floors of these kinds ("heldout", "train")."""
    metrics = {}
    for name, value in values.items():
        metrics[name] = value
        metrics |= {f"{name}_floor_{kind}": floors[kind].get(name) for kind in kinds}
    return metrics
