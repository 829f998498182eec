"""The reference: real images as the measuring stages see them, and whether its files fit together.

The stage `reference` makes it; floors, fid, quality, spread and sweep open it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import classifier, provenance
from ..classifier import Classifier
from ..common import device
from ..common.dataset import Dataset
from . import frechet
from .frechet import Moments

KEYS = ("dataset", "dataset_fingerprint", "images", "classifier", "moments", "features", "floors")
INCEPTION_KEYS = ("images", "moments", "reference", "from", "floors")


@dataclass(frozen=True)
class Features:
    """Features (N, 128) float32 of real images by the classifier; mapped, to be read only."""

    train: Tensor
    heldout: Tensor
    drawn: Tensor  # (K,) int64: positions of the training images drawn at random

    @property
    def drawn_train(self) -> Tensor:
        """The features of the training images drawn at random."""
        return self.train[self.drawn]


@dataclass(frozen=True)
class Reference:
    """What generated images are measured against, and with."""

    about: dict  # of KEYS: data set, digests, floors
    classifier: Classifier  # on the best device
    moments: Moments  # of the training images' features

    def check_data_set(self, fingerprint: str) -> None:
        """Raises UserError unless generated images are of the reference's data set."""
        what = "the data set that the images are of"
        provenance.expect(what, fingerprint, self.about["dataset_fingerprint"])


def open_reference(about: Path, moments: Path, instrument: Path) -> Reference:
    """Raises UserError unless the three files came out of one run of the stage `reference`."""
    values = provenance.read(about, KEYS)
    what = "which measured the real images"
    provenance.expect_file(instrument, what, values["classifier"])
    provenance.expect_file(moments, "of the real images", values["moments"])
    model, _ = classifier.load(instrument)
    model = model.to(device.best())
    return Reference(values, model, frechet.load(moments, classifier.FEATURES))


def open_features(path: Path, reference: Reference, data: Dataset | None) -> Features:
    """The features of the real images. Raises UserError unless they and `data` are its own."""
    if data is not None:
        what = "the data set that is measured against"
        provenance.expect(what, data.fingerprint, reference.about["dataset_fingerprint"])
    provenance.expect_file(path, "of the real images", reference.about["features"])
    return Features(**provenance.tensors(path))


def inception_about(path: Path) -> dict:
    """What the reference says of the Inception moments; its `moments` is None without any."""
    return provenance.read(path, INCEPTION_KEYS)
