"""Images from .npy and .npz files. The files are not trusted: nothing is unpickled."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import UserError
from ..common.zips import check_methods

MAX_BYTES = 8 * 2**30
EXPECTED = "expected images (N, H, W), (N, C, H, W), (N, H, W, C) or (N, H * W), C 1 or 3"


def read(path: Path) -> tuple[NDArray, NDArray | None]:
    """The array of images in a file as it is, and labels (N,) if an .npz has one array of them.

    Raises UserError if the file is damaged, or has no or more than one array of images.
    """
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return _array(file, path.stat().st_size), None
        with zipfile.ZipFile(path) as archive:
            check_methods(archive)
            return _chosen(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); {EXPECTED}") from None


def _chosen(archive: zipfile.ZipFile) -> tuple[NDArray, NDArray | None]:
    arrays = {}
    for info in archive.infolist():
        with archive.open(info) as file:
            arrays[info.filename.removesuffix(".npy")] = _array(file, info.file_size)
    images = {name: array for name, array in arrays.items() if array.ndim >= 2}
    if len(images) != 1:
        raise ValueError(f"arrays of images: {', '.join(images) or 'none'}; keep one")
    [(_, pixels)] = images.items()
    labels = [a for a in arrays.values() if a.shape == pixels.shape[:1] and a.dtype.kind in "iu"]
    return pixels, labels[0] if len(labels) == 1 else None


def _array(file: IO[bytes], size: int) -> NDArray:
    """One array. Its header is checked before any memory is taken."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # headers of later versions can have gigabytes
        raise ValueError(f"version {version} of .npy, expected (1, 0)")
    try:
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    except (MemoryError, RecursionError):  # of Python's parser, for deeply nested text
        raise ValueError("a header that cannot be parsed") from None
    if dtype.kind not in "biuf" or not shape:
        raise ValueError(f"an array of {dtype} of shape {shape}")
    length = math.prod(shape) * dtype.itemsize
    if length > min(MAX_BYTES, size):
        raise ValueError(f"an array of {length} bytes in a file of {size}")
    raw = file.read(length)
    if len(raw) != length:
        raise ValueError("the file ends too early")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C")


def arranged(array: NDArray) -> Tensor:
    """Images as (N, C, H, W), of the array's type. Raises UserError for other shapes."""
    shape = array.shape
    side = math.isqrt(shape[1]) if len(shape) == 2 else 0
    if len(shape) == 2 and side * side == shape[1] and side > 3:
        array = array.reshape(-1, 1, side, side)
    elif len(shape) == 3:
        array = array[:, None]
    elif len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif len(shape) != 4 or shape[1] not in (1, 3):
        raise UserError(f"an array of shape {shape}; {EXPECTED}")
    return torch.from_numpy(np.ascontiguousarray(array))


def to_bytes(images: Tensor) -> tuple[Tensor, str]:
    """Grey levels as uint8 in [0, 255], and the range that the values have.

    The range is guessed: 0..255 for integers above 1; else 0..1 or, with negative values, -1..1.
    Raises UserError for values outside all three, and for values that are not finite.
    """
    values = images.double()
    if not bool(values.isfinite().all()):
        raise UserError("values that are not finite; write images without them")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        scaled, name = values * 255, "0..1"
    elif low >= -1.01 and high <= 1.01:
        scaled, name = (values + 1) * 127.5, "-1..1"
    elif low >= 0 and high <= 255:
        scaled, name = values, "0..255"
    else:
        raise UserError(
            f"values from {low:g} to {high:g}; expected 0 to 255, 0 to 1, or -1 to 1. Clip them"
        )
    return scaled.round().clamp(0, 255).to(torch.uint8), name
