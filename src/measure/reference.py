"""The reference: features and moments of real images, with a check that its files fit together.

The stage `reference` writes it; floors, fid, quality, spread and sweep read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import classifier, provenance
from ..classifier import Classifier
from ..common import device
from ..common.dataset import Dataset
from ..provenance import InceptionAbout, ReferenceAbout
from . import frechet
from .frechet import Moments


@dataclass(frozen=True)
class Features:
    """Classifier features (N, 128) float32 of real images, memory-mapped and read-only."""

    train: Tensor
    heldout: Tensor
    drawn: Tensor  # (K,) int64: positions of the training images drawn at random

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

    def check_data_set(self, fingerprint: str) -> None:
        """Raises UserError unless generated images and the reference have one data set."""
        what = "data set of the generated images"
        provenance.expect(what, fingerprint, self.about["dataset_fingerprint"])


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


def inception_about(path: Path) -> InceptionAbout:
    """The content of reference/inception.json. `moments` is None if there are none."""
    return provenance.read(path, InceptionAbout)
