"""A data set as arrays: images and labels, training and held-out, in one mapped safetensors file.

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

from .errors import UserError
from .files import save_tensors
from .mapped import mapped_tensors

MAX_SIDE = 1024  # pixels, of images from outside


@dataclass(frozen=True)
class Dataset:
    """images (N, C, H, W) uint8, labels (N,) int64 in [0, classes), or None without labels."""

    name: str
    fingerprint: str  # of all images and labels before the split; see `fingerprint`
    images: Tensor
    labels: Tensor | None
    heldout_images: Tensor
    heldout_labels: Tensor | None

    @property
    def classes(self) -> int:
        """Number of classes; 0 without labels."""
        if self.labels is None or self.heldout_labels is None:
            return 0
        return int(torch.cat([self.labels, self.heldout_labels]).max()) + 1

    @property
    def image_size(self) -> int:
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def class_counts(self, heldout: bool = False) -> list[int]:
        """Images per class; [] without labels."""
        labels = self.heldout_labels if heldout else self.labels
        return [] if labels is None else torch.bincount(labels, minlength=self.classes).tolist()

    def describe(self) -> dict:
        """The data set's name and fingerprint, for every metrics file."""
        return {"dataset": self.name, "dataset_fingerprint": self.fingerprint}


def fingerprint(shape: tuple[int, ...], images: Iterable[Tensor], labels: Tensor | None) -> str:
    """12 hex digits that follow from pixels and labels alone, not from their archive.

    `images` yields all of them in batches; `shape` is (N, C, H, W) in all.
    """
    digest = hashlib.sha256(repr(tuple(shape)).encode())
    for batch in images:
        digest.update(batch.contiguous().numpy())
    if labels is not None:
        digest.update(labels.contiguous().numpy())
    return digest.hexdigest()[:12]


def save(dataset: Dataset, path: str | Path) -> None:
    tensors = {"images": dataset.images, "heldout_images": dataset.heldout_images}
    if dataset.labels is not None and dataset.heldout_labels is not None:
        tensors |= {"labels": dataset.labels, "heldout_labels": dataset.heldout_labels}
    meta = {"name": dataset.name, "fingerprint": dataset.fingerprint}
    save_tensors(path, tensors, {"dataset": json.dumps(meta)})


def load(path: str | Path) -> Dataset:
    """The arrays, mapped and read-only.

    Raises UserError if the file is missing or damaged, OSError if the system refuses it.
    """
    try:
        metadata, tensors = mapped_tensors(path)
        meta = json.loads(metadata["dataset"])
        dataset = Dataset(
            meta["name"],
            meta["fingerprint"],
            tensors["images"],
            tensors.get("labels"),
            tensors["heldout_images"],
            tensors.get("heldout_labels"),
        )
        _check(dataset)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro unpack` makes it") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged ({error}); `dvc repro --force unpack` makes it anew"
        ) from None
    return dataset


def _check(dataset: Dataset) -> None:
    """Raises ValueError unless images and labels are those of a Dataset."""
    if (dataset.labels is None) != (dataset.heldout_labels is None):
        raise ValueError("only one of two parts has labels")
    shape, count = dataset.images.shape[1:], len(dataset.images)
    _check_part(dataset.images, dataset.labels, shape, count)
    _check_part(dataset.heldout_images, dataset.heldout_labels, shape, count)


def _check_part(images: Tensor, labels: Tensor | None, shape: torch.Size, count: int) -> None:
    """One of the two parts, against the `shape` and `count` of the training images."""
    size = tuple(images.shape)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != shape or not size[0]:
        raise ValueError(f"images are {images.dtype} {size}")
    if labels is None:
        return
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or int(labels.min()) < 0:
        raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)} for {size[0]} images")
    if int(labels.max()) >= count:
        raise ValueError(f"a label is {int(labels.max())} of {count} images")


def to_float(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def rows(images: Tensor, values: int = 2**23) -> Iterator[Tensor]:
    """uint8 images (N, C, H, W) as points in [0, 1], float32 (B, C * H * W).

    Each block has about this many values.
    """
    for batch in images.split(max(1, values // images[0].numel())):
        yield batch.flatten(1).float() / 255


def to_pixels(images: Tensor) -> Tensor:
    """float in [-1, 1] (clipped) to uint8 in [0, 255], rounded to nearest: undoes `to_float`."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
