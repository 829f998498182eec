"""Images from .npy and .npz files. The files are not trusted: nothing is unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common import npy
from ..common.errors import UserError
from ..common.zips import check_methods

MAX_BYTES = 2**30  # of all arrays in a file
EXPECTED = (
    "expected images (N, H, W), (N, C, H, W), (N, H, W, C) or (N, H * W), with C 1 or 3, as numbers"
)
CHUNK = 1000  # images
Range = Literal["auto", "0..255", "0..1", "-1..1"]
SLACK = 0.02  # of the ends of a range, for values that a network or a resize left
MOST_OUTSIDE = 0.5  # of the values, of a range that is named
DARK = -0.5  # images in -1..1 have many values below
BRIGHTEST = 32  # the highest value of images in 0..255 is above; with MNIST's deviation 1 it is 3


def read(path: Path) -> tuple[NDArray, NDArray | None, str]:
    """The array of images in a file as it is, labels (N,) of an .npz, and where they come from.

    Labels are the one array of N whole numbers. Without one they are None, and the text is "" or
    names the arrays among which to choose.

    Raises UserError if the file is damaged, or has no or more than one array of images.
    """
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return _array(file, path.stat().st_size), None, ""
        with zipfile.ZipFile(path) as archive:
            check_methods(archive)
            return _chosen(archive)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise many types of errors
        raise UserError(f"{path}: cannot be read ({error}); {EXPECTED}") from None


def _chosen(archive: zipfile.ZipFile) -> tuple[NDArray, NDArray | None, str]:
    images, labels, total = {}, {}, 0
    for info in archive.infolist():
        with archive.open(info) as file:
            shape, _, dtype = npy.header(file)
            if dtype.kind not in "biuf" or not shape:
                continue  # settings, such as a string
            total += info.file_size
            if total > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes of arrays")
        with archive.open(info) as file:
            array = _array(file, info.file_size)
        name = info.filename.removesuffix(".npy")
        if array.ndim == 1 or array.shape[1:] == (1,):
            labels[name] = array.reshape(-1)
        else:
            images[name] = array
    if len(images) != 1:
        raise ValueError(f"arrays of images: {', '.join(images) or 'none'}; keep one")
    [pixels] = images.values()
    fitting = [name for name, a in labels.items() if len(a) == len(pixels) and _whole(a)]
    if len(fitting) == 1:
        return pixels, labels[fitting[0]], f"labels from the array {fitting[0]}"
    if fitting:
        return pixels, None, f"no labels: {', '.join(fitting)} may be them; keep one in the file"
    return pixels, None, ""


def _whole(array: NDArray) -> bool:
    """Whether all values are whole numbers."""
    return array.dtype.kind in "iu" or (array.dtype.kind == "f" and bool((array % 1 == 0).all()))


def _array(file: IO[bytes], size: int) -> NDArray:
    """One array. Its header is checked before any memory is taken."""
    shape, by_columns, dtype = npy.header(file)
    if dtype.kind not in "biuf" or not shape or min(shape) < 1:
        raise ValueError(f"an array of {dtype} of shape {shape}")
    length = math.prod(shape) * dtype.itemsize
    if length > min(MAX_BYTES, size):
        raise ValueError(f"an array of {length} bytes in a file of {size}, at most {MAX_BYTES}")
    raw = file.read(length)
    if len(raw) != length:
        raise ValueError("the file ends too early")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C")


def arranged(array: NDArray) -> tuple[NDArray, str]:
    """Images as (N, C, H, W), and what was assumed, or "". Raises UserError for other shapes."""
    shape = array.shape
    side = math.isqrt(shape[-1])
    flat = len(shape) == 2 or (len(shape) == 3 and shape[1] == 1)
    if flat and side > 3 and side * side == shape[-1]:
        return array.reshape(-1, 1, side, side), ""
    if len(shape) == 3 and not flat:
        return array[:, None], ""
    if len(shape) == 4 and shape[1] in (1, 3):
        return array, ""
    if len(shape) == 4 and shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2), ""
    if len(shape) == 4 and shape[1] not in (2, 4) and shape[2] == shape[3]:  # no alpha channel
        return array.reshape(-1, 1, *shape[2:]), f"taken as {shape[0]} x {shape[1]} grey images"
    raise UserError(f"an array of shape {shape}; {EXPECTED}")


def to_bytes(images: NDArray, scale: Range = "auto") -> tuple[Tensor, str]:
    """Grey levels as uint8 (N, C, H, W), and what was done, as a sentence.

    "auto" guesses the range. Values outside a range that is named are clipped. Raises UserError if
    more than MOST_OUTSIDE are, for values in no known range, and values that are not finite.
    """
    extremes = [(part.min(), part.max()) for part in _parts(images)]
    low, high = min(e[0] for e in extremes), max(e[1] for e in extremes)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("values that are not finite; write images without them")
    name = _guessed(images, low, high) if scale == "auto" else scale
    factor, offset = {"0..255": (1, 0), "0..1": (255, 0), "-1..1": (127.5, 127.5)}[name]
    parts, outside = [], 0
    for part in _parts(images):
        levels = part * factor + offset
        outside += int(((levels < -0.5) | (levels > 255.5)).sum())  # by more than rounding
        parts.append(torch.from_numpy(np.clip(np.round(levels), 0, 255).astype(np.uint8)))
    done = f"values taken as {name}"
    share = f"{100 * outside / images.size:.3g} % of them are outside"
    if outside > MOST_OUTSIDE * images.size:
        raise UserError(f"{done}; {share}. Choose another --range, or undo a normalisation")
    if outside:
        done += f"; {share} and were clipped"
    return torch.cat(parts), done


def _parts(images: NDArray) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(images), CHUNK):
        yield images[start : start + CHUNK].astype(np.float64)


def _guessed(images: NDArray, low: float, high: float) -> Range:
    if images.dtype.kind in "iu" and low >= 0 and 1 < high <= 255:
        return "0..255"
    if low >= -SLACK and high <= 1 + SLACK:
        return "0..1"
    dark = sum(int((part < DARK).sum()) for part in _parts(images)) / images.size
    if low >= -1 - SLACK and high <= 1 + SLACK and dark > 0.1:
        return "-1..1"
    if low >= -255 * SLACK and high <= 255 * (1 + SLACK) and high > BRIGHTEST:
        return "0..255"
    raise UserError(
        f"values from {low:g} to {high:g}, in no known range. Undo the normalisation (MNIST's "
        f"usual one: 0.3081 x + 0.1307), or name a range with --range 0..255, 0..1 or -1..1"
    )
