"""Open the inputs that several measuring stages share, and check that they fit together."""

from __future__ import annotations

from pathlib import Path

from src.common.dataset import Dataset
from src.measure.reference import Features, Reference, open_features, open_reference


def reference() -> Reference:
    """Open the classifier and the moments of the real images."""
    return open_reference(
        Path("reference/about.json"),
        Path("reference/digits.npz"),
        Path("models/classifier.safetensors"),
    )


def measuring(data: Dataset | None = None) -> tuple[Reference, Features]:
    """Open the reference and the features of its real images. `data` must be its data set."""
    opened = reference()
    return opened, open_features(Path("arrays/features.safetensors"), opened, data)
