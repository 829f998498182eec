"""One data set as arrays: uint8 images and int64 labels, training and held-out, in one memory-mapped safetensors file.

Knows nothing of archives (src/archives.py makes a Dataset) or of params.yaml.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from src.common.errors import UserError
from src.common.files import save_tensors
from src.common.mapped import mapped_tensors

MAX_SIDE = 1024  # pixels, of images from outside


@dataclass(frozen=True)
class Dataset:
    """images (N, C, H, W) uint8, labels (N,) int64 in [0, classes) or None where the archive had none."""

    name: str
    fingerprint: str  # of all images and labels before the split; see `fingerprint`
    images: Tensor
    labels: Tensor | None
    heldout_images: Tensor
    heldout_labels: Tensor | None

    @property
    def classes(self) -> int:
        """Number of classes; 0 where there are no labels."""
        return 0 if self.labels is None else int(torch.cat([self.labels, self.heldout_labels]).max()) + 1

    @property
    def image_size(self) -> int:
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def class_counts(self, heldout: bool = False) -> list[int]:
        """Images per class, [] where there are no labels."""
        labels = self.heldout_labels if heldout else self.labels
        return [] if labels is None else torch.bincount(labels, minlength=self.classes).tolist()

    def describe(self) -> dict:
        """What every metrics file says of the data set that its numbers are about."""
        return {"dataset": self.name, "dataset_fingerprint": self.fingerprint}


def fingerprint(shape: tuple[int, ...], images: Iterable[Tensor], labels: Tensor | None) -> str:
    """12 hex digits that follow from the pixels and labels alone, not from the archive they came in.

    `images` are all of them, `shape` (N, C, H, W) in all, in batches.
    """
    digest = hashlib.sha256(repr(tuple(shape)).encode())
    for batch in images:
        digest.update(batch.contiguous().numpy())
    if labels is not None:
        digest.update(labels.contiguous().numpy())
    return digest.hexdigest()[:12]


def save(dataset: Dataset, path: str | Path) -> None:
    tensors = {"images": dataset.images, "heldout_images": dataset.heldout_images}
    if dataset.labels is not None:
        tensors |= {"labels": dataset.labels, "heldout_labels": dataset.heldout_labels}
    meta = {"name": dataset.name, "fingerprint": dataset.fingerprint}
    save_tensors(path, tensors, {"dataset": json.dumps(meta)})


def load(path: str | Path) -> Dataset:
    """The arrays, mapped into memory, to be read only. Raises UserError if the file is missing or damaged, OSError if the system
    refuses it."""
    try:
        metadata, tensors = mapped_tensors(path)
        meta = json.loads(metadata["dataset"])
        found = Dataset(
            meta["name"], meta["fingerprint"], tensors["images"], tensors.get("labels"), tensors["heldout_images"],
            tensors.get("heldout_labels"),
        )
        _check(found)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro unpack` makes it") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); `dvc repro --force unpack` makes it anew") from None
    return found


def _check(found: Dataset) -> None:
    """Raises ValueError unless images and labels are what a Dataset has."""
    for images, labels in [(found.images, found.labels), (found.heldout_images, found.heldout_labels)]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != found.images.shape[1:] or not len(images):
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}")
        if (labels is None) != (found.labels is None):
            raise ValueError("only one of two parts has labels")
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1] or int(labels.min()) < 0):
            raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)} for {len(images)} images")
        if labels is not None and int(labels.max()) >= len(found.images):
            raise ValueError(f"a label is {int(labels.max())} of {len(found.images)} images")


def to_float(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def rows(images: Tensor, values: int = 2**23) -> Iterator[Tensor]:
    """uint8 images (N, C, H, W) as points in [0, 1], float32 (B, C * H * W), about so many values at a time."""
    return (batch.flatten(1).float() / 255 for batch in images.split(max(1, values // images[0].numel())))


def to_pixels(images: Tensor) -> Tensor:
    """float in [-1, 1] (clipped) to uint8 in [0, 255], rounded to nearest: undoes `to_float`."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
