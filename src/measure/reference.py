"""The reference: features and moments of real images, with a check that its files fit together.

The stage `reference` writes it; floors, fid, quality, spread and sweep read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import classifier, provenance
from ..classifier import Classifier
from ..common import device
from ..common.dataset import Dataset
from ..common.files import copy
from ..common.mapped import Spool
from ..common.randomness import generator
from ..provenance import ReferenceAbout
from . import frechet
from .frechet import Moments

MAX_DRAWN = 10_000


@dataclass(frozen=True)
class Features:
    """Features of real images, memory-mapped and read-only. The classifier's: (N, 128) float32."""

    train: Tensor
    heldout: Tensor
    drawn: Tensor  # (K,) int64: positions of the training images drawn at random
    # In features of EfficientNet: (M, 1280) float32 of real images in random order; M is 0 if
    # fd_imagenet is not measured.
    imagenet_train: Tensor
    imagenet_heldout: Tensor

    @property
    def drawn_train(self) -> Tensor:
        """The features of the training images drawn at random."""
        return self.train[self.drawn]


@dataclass(frozen=True)
class Reference:
    """The real moments and floors to compare generated images with, and the classifier."""

    about: ReferenceAbout  # data set, digests, floors
    classifier: Classifier  # on the best device
    moments: Moments  # of the training images' features

    def distance(self, features: Tensor) -> float:
        """fd_digits of images with these features (N, 128)."""
        return frechet.distance(frechet.moments(features.numpy()), self.moments)

    def check_data_set(self, fingerprint: str) -> None:
        """Raises UserError unless generated images and the reference have one data set."""
        what = "data set of the generated images"
        provenance.expect(what, fingerprint, self.about["dataset_fingerprint"])


def real_features(model: Classifier, data: Dataset) -> dict[str, Tensor]:
    """The features of all real images, and `drawn`, as in Features; those of training on disk.

    `drawn` has at most half of the training images, because the distance of all of them to
    themselves is zero.
    """
    spool = Spool("arrays")  # there may be more features than fit into memory
    for batch in classifier.feature_batches(model, data.images):
        spool.add(batch)
    train = spool.tensor((len(data.images), classifier.FEATURES), torch.float32)
    heldout = classifier.features(model, data.heldout_images)
    return {"train": train, "heldout": heldout, "drawn": drawn_at_random(len(train))}


def drawn_at_random(count: int) -> Tensor:
    """Positions of some of `count` training images: (K,) int64, half of them at most (but 2)."""
    order = torch.randperm(count, generator=generator(0, "floor"))
    return order[: max(2, min(MAX_DRAWN, count // 2))]


def sample_heldout(count: int) -> Tensor:
    """Positions of the held-out images that the stage floors measures: (K,) int64.

    All `count`, in order, or MAX_DRAWN at random: it compares each with every training image.
    """
    if count <= MAX_DRAWN:
        return torch.arange(count)
    return torch.randperm(count, generator=generator(0, "floor, held-out"))[:MAX_DRAWN]


def write_moments(target: Path, features: dict[str, Tensor], ready: Path | None) -> dict:
    """Write the moments of the training images: a copy of `ready` if given, else of `features`.

    Returns the floors of fd_digits.
    """
    train, heldout, drawn = features["train"], features["heldout"], features["drawn"]
    if ready:
        copy(ready, target)
        moments = frechet.load(target, classifier.FEATURES)
    else:
        moments = frechet.moments(train.numpy())
        frechet.save(moments, target)
    fewest = min(map(len, features.values()))
    frechet.caution("fd_digits and its floors", fewest, classifier.FEATURES)
    floors = {}
    for name, real in (("heldout", heldout), ("train", train[drawn])):
        fd_digits = frechet.distance(frechet.moments(real.numpy()), moments)
        floors[name] = {"images": len(real), "fd_digits": fd_digits}
    return floors


def open_reference(about: Path, moments: Path, instrument: Path) -> Reference:
    """Read reference/about.json, reference/digits.npz and the classifier.

    Raises UserError unless the three files belong to one run of the stage `reference`.
    """
    values = provenance.read(about, ReferenceAbout)
    what = "which measured the real images"
    provenance.expect_file(instrument, what, values["classifier"])
    provenance.expect_file(moments, "moments of the real images", values["moments"])
    model, _ = classifier.load(instrument)
    model = model.to(device.best())
    return Reference(values, model, frechet.load(moments, classifier.FEATURES))


def open_features(path: Path, reference: Reference, data: Dataset | None) -> Features:
    """The features of the real images. Raises UserError unless they and `data` fit `reference`."""
    if data is not None:
        what = "data set of the real images"
        provenance.expect(what, data.fingerprint, reference.about["dataset_fingerprint"])
    provenance.expect_file(path, "features of the real images", reference.about["features"])
    return Features(**provenance.tensors(path))
