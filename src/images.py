"""Generated images as RGB PNGs in one folder: 00001.png, 00002.png ..., all of one size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .common.errors import UserError


def file_name(number: int) -> str:
    """Name of image `number`, counted from 1."""
    return f"{number:05d}.png"


class PixelDigest:
    """The digest of a sequence of images, computed from their pixels.

    Grey images and their RGB PNGs have the same digest.
    """

    def __init__(self, images: Tensor | None = None) -> None:
        self.each: list[str] = []  # sha256 of every image
        if images is not None:
            self.add(images)

    def add(self, images: Tensor) -> None:
        """Add uint8 images (B, C, H, W), C 1 or 3."""
        self.each += [
            hashlib.sha256(image.tobytes()).hexdigest()
            for image in images.expand(-1, 3, -1, -1).contiguous().numpy()
        ]

    def hex(self) -> str:
        """First 12 hex digits of the sha256 over the images' own sha256 digests."""
        return hashlib.sha256("".join(self.each).encode()).hexdigest()[:12]


def write(folder: str | Path, first: int, images: Tensor) -> None:
    """Write uint8 images (B, C, H, W), C 1 or 3, as RGB PNGs numbered from `first`."""
    folder = Path(folder)
    rgb = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    for number, pixels in enumerate(rgb, start=first):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(folder / file_name(number), compress_level=1)


def stream(
    folder: str | Path, count: int, batch_size: int = 500, side: int | None = None
) -> Iterator[Tensor]:
    """Yield the `count` images of `folder` in order, in batches: (B, 3, H, W) uint8.

    Raises UserError unless the folder holds exactly the images 00001.png to `count`, all RGB and
    of one size. If `side` is given, they must be `side` pixels high and wide.
    """
    folder = Path(folder)
    expected = [file_name(number) for number in range(1, count + 1)]
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if odd := sorted(present.symmetric_difference(expected)):
        raise UserError(
            f"{folder}/: expected exactly {file_name(1)} to {file_name(count)}, "
            f"found {len(present)} entries; "
            f"first {'unexpected' if odd[0] in present else 'missing'}: {odd[0]}; "
            f"`dvc repro --force sample` makes it again"
        )
    shape = torch.Size((3, side, side)) if side else None
    batch: list[Tensor] = []
    for name in tqdm(expected, desc="read images", unit="image"):
        batch.append(_read(folder / name, shape))
        shape = batch[-1].shape
        if len(batch) == batch_size or name == expected[-1]:
            yield torch.stack(batch)
            batch = []


def salvage(folder: str | Path, numbers: range) -> Tensor | None:
    """Read the images with these numbers: (B, 3, H, W) uint8.

    Returns None if one is missing or damaged, for example after an interrupted `write`.
    """
    try:
        return torch.stack([_read(Path(folder) / file_name(number)) for number in numbers])
    except (UserError, RuntimeError):
        return None


def _read(path: Path, shape: torch.Size | None = None) -> Tensor:
    """Read one RGB PNG: (3, H, W) uint8. Raises UserError for other files and other shapes."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            pixels, mode = np.array(image), image.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: not a whole PNG ({error}); `dvc repro --force sample` makes it again"
        ) from None
    size = pixels.shape[:2]
    expected = tuple(shape[1:]) if shape else size
    if mode != "RGB" or size != expected:
        raise UserError(
            f"{path}: expected RGB of {expected}, found {mode} of {size}; "
            f"`dvc repro --force sample` makes it again"
        )
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read(
    folder: str | Path, count: int, side: int | None = None, pixels: str | None = None
) -> Tensor:
    """Read the `count` images of `folder`: (count, 3, H, W) uint8.

    Raises UserError as `stream` does. If `pixels` is given, it must be the images' digest.
    """
    batches = []
    digest = PixelDigest()
    for batch in stream(folder, count, side=side):
        batches.append(batch)
        digest.add(batch)
    if pixels is not None:
        check(folder, digest, pixels)
    return torch.cat(batches)


def check(folder: str | Path, digest: PixelDigest, expected: str) -> None:
    """Raises UserError unless `digest`, from the images in `folder`, has the hex `expected`."""
    if digest.hex() != expected:
        raise UserError(
            f"{folder}/: its pixels are not the drawn ones (found digest {digest.hex()}, "
            f"expected {expected}); `dvc repro --force sample` draws them again"
        )
