"""A data set as arrays: training and held-out images and labels, in one mapped safetensors file.

src/archives makes a Dataset from an archive. This file reads no archives and no params.yaml.
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

MAX_SIDE = 1024  # pixels; limit for images in archives and in model files


@dataclass(frozen=True)
class Dataset:
    """Training and held-out images (N, C, H, W) uint8, with labels if the archive has them.

    Labels are (N,) int64 in [0, classes). Classes have names if the archive has them.
    """

    name: str
    fingerprint: str  # of all images and labels before the split; see `fingerprint`
    images: Tensor
    labels: Tensor | None
    heldout_images: Tensor
    heldout_labels: Tensor | None
    class_names: tuple[str, ...] | None = None

    @property
    def classes(self) -> int:
        """Number of classes: the largest label plus 1; 0 without labels."""
        if self.labels is None or self.heldout_labels is None:
            return 0
        return int(torch.cat([self.labels, self.heldout_labels]).max()) + 1

    @property
    def names(self) -> list[str]:
        """The names of the classes; their numbers if they have none; [] without labels."""
        return names_of_classes(self.class_names, self.classes)

    @property
    def named(self) -> bool:
        """Whether the names of the classes are more than their numbers."""
        return self.names != names_of_classes(None, self.classes)

    @property
    def image_size(self) -> int:
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def class_counts(self, heldout: bool = False) -> list[int]:
        """Images per class of the training or the held-out part; [] without labels."""
        labels = self.heldout_labels if heldout else self.labels
        return [] if labels is None else torch.bincount(labels, minlength=self.classes).tolist()

    def heldout(self, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """The held-out images with these numbers, (N,) int64, and their labels if there are any."""
        labels = None if self.heldout_labels is None else self.heldout_labels[chosen]
        return self.heldout_images[chosen], labels

    def describe(self) -> dict:
        """The data set's name and fingerprint. Every metrics file has them."""
        return {"dataset": self.name, "dataset_fingerprint": self.fingerprint}


def names_of_classes(names: Iterable[str] | None, classes: int) -> list[str]:
    """`names`; if there are none, the numbers of the classes."""
    return list(names or map(str, range(classes)))


def fingerprint(shape: tuple[int, ...], images: Iterable[Tensor], labels: Tensor | None) -> str:
    """Digest of pixels and labels, 12 hex digits. The format of the archive does not change it.

    `images` yields all images in batches; `shape` is (N, C, H, W) of all batches together.
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
    meta: dict = {"name": dataset.name, "fingerprint": dataset.fingerprint}
    if dataset.named:
        meta["class_names"] = dataset.names
    save_tensors(path, tensors, {"dataset": json.dumps(meta)})


def load(path: str | Path) -> Dataset:
    """Read a data set that `save` wrote. Its arrays are mapped and read-only.

    Raises UserError if the file is missing or damaged, OSError if the system cannot read it.
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
            tuple(map(str, meta["class_names"])) if "class_names" in meta else None,
        )
        _check(dataset)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro unpack` makes it") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged ({error}); `dvc repro --force unpack` makes it again"
        ) from None
    return dataset


def _check(dataset: Dataset) -> None:
    """Raises ValueError unless the tensors have the types and shapes that Dataset documents."""
    if (dataset.labels is None) != (dataset.heldout_labels is None):
        raise ValueError("only one of training and held-out images has labels")
    shape, count = dataset.images.shape[1:], len(dataset.images)
    _check_part(dataset.images, dataset.labels, shape, count)
    _check_part(dataset.heldout_images, dataset.heldout_labels, shape, count)
    if dataset.class_names is not None and len(dataset.class_names) != dataset.classes:
        raise ValueError(f"{len(dataset.class_names)} names for {dataset.classes} classes")


def _check_part(images: Tensor, labels: Tensor | None, shape: torch.Size, count: int) -> None:
    """Check one part. `shape` (C, H, W) and `count` are those of the training images."""
    size = tuple(images.shape)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != shape or not size[0]:
        raise ValueError(
            f"images are {images.dtype} {size}, expected torch.uint8 (N, C, H, W) "
            f"with equal (C, H, W) in both parts"
        )
    if labels is None:
        return
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or int(labels.min()) < 0:
        raise ValueError(
            f"labels are {labels.dtype} {tuple(labels.shape)} for {size[0]} images, "
            f"expected torch.int64 ({size[0]},), 0 or more"
        )
    if int(labels.max()) >= count:
        raise ValueError(f"the largest label is {int(labels.max())}, expected less than {count}")


def to_float(pixels: Tensor) -> Tensor:
    """Convert uint8 in [0, 255] to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def rows(images: Tensor, values: int = 2**23) -> Iterator[Tensor]:
    """Yield uint8 images (N, C, H, W) as points in [0, 1], float32 (B, C * H * W).

    Each block has about `values` values.
    """
    for batch in images.split(max(1, values // images[0].numel())):
        yield batch.flatten(1).float() / 255


def to_pixels(images: Tensor) -> Tensor:
    """Convert floats to uint8, rounded to nearest: the inverse of `to_float`.

    Floats outside [-1, 1] are clipped.
    """
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
