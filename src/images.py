"""Generated images as RGB PNGs in one folder: 00001.png, 00002.png ..., all of one size."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .common.dataset import MAX_SIDE
from .common.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


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
    of one size, and hidden files. If `side` is given, they must be `side` pixels high and wide.
    """
    folder = Path(folder)
    expected = [file_name(number) for number in range(1, count + 1)]
    entries = folder.iterdir() if folder.is_dir() else ()
    present = {path.name for path in entries if not path.name.startswith(".")}
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
    remedy = "`dvc repro --force sample` makes it again"
    try:
        raw = path.read_bytes()
        height, width, kind = _header(raw)
        size = (height, width)
        expected = tuple(shape[1:]) if shape else size
        if kind == "RGB" and size == expected:
            with Image.open(io.BytesIO(raw), formats=["PNG"]) as image:
                return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except Exception as error:  # Pillow raises many types of errors for damaged files
        raise UserError(f"{path}: not a whole PNG ({error}); {remedy}") from None
    raise UserError(f"{path}: expected RGB of {expected}, found {kind} of {size}; {remedy}")


def _header(raw: bytes) -> tuple[int, int, str]:
    """Height, width and kind of a PNG; its kind is "RGB" if it has 8 bits and no transparency.

    Raises ValueError unless every chunk is whole, from IHDR to IEND (PNG specification, section
    5). Pillow reads some damaged files.
    """
    if not raw.startswith(SIGNATURE):
        raise ValueError("it does not begin like one")
    names, position = [], len(SIGNATURE)
    while position < len(raw):
        if position + 12 > len(raw):
            raise ValueError("its last chunk is cut short")
        length, name = struct.unpack_from(">I4s", raw, position)
        end = position + 12 + length
        if raw[end - 4 : end] != zlib.crc32(raw[position + 4 : end - 4]).to_bytes(4, "big"):
            raise ValueError(f"its chunk {name!r} is damaged or cut short")
        names.append(name)
        position = end
    if names[:1] != [b"IHDR"] or names[-1] != b"IEND" or len(raw) < 33:
        raise ValueError("it does not go from IHDR to IEND")
    width, height, bits, colour = struct.unpack_from(">IIBB", raw, 16)
    kinds = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
    kind = kinds.get(colour, f"colour type {colour}")
    if bits != 8:
        kind += f" with {bits} bits"
    if b"tRNS" in names:
        kind += " with transparency"
    if max(width, height) > MAX_SIDE:
        kind += f" with more than {MAX_SIDE} pixels a side"
    return height, width, kind


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
