"""The images to score, as grey 28x28 pixels with or without labels, and what is odd about them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import archives
from ..common.errors import UserError
from ..params import Unpack
from . import arrays

SIDE, CLASSES = 28, 10  # of MNIST
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SETTINGS = Unpack(
    heldout=0.5,
    seed=0,
    labels="auto",
    split="random",
    size=None,
    background="black",
    transpose="never",
)
BRIGHT = 127  # mean of the border: MNIST's border is black
Fit = Literal["exact", "resize", "crop"]


@dataclass(frozen=True)
class Scored:
    """Images to score."""

    name: str
    images: Tensor  # (N, 1, 28, 28) uint8, white on black
    labels: Tensor | None  # (N,) int64, 0 to 9
    notes: list[str] = field(default_factory=list)  # what was assumed, and probable mistakes


def read(path: str | Path, classes: str = "auto", fit: Fit = "exact") -> Scored:
    """Read a folder, zip or tar of images, or an .npy or .npz file.

    `classes` is "auto" (folders named by digits, or labels in an .npz), "none", "cycle" (image k
    has class (k - 1) mod 10) or the path of a CSV file with a name and a label in each row. `fit`
    says how images of other sizes become 28x28: "resize" or "crop" (cut the margin); "exact"
    refuses them. Raises UserError that names the file and the way out.
    """
    path = Path(path)
    if path.suffix.lower() in (".npy", ".npz"):
        pixels, names, labels, notes = _from_array(path)
    else:
        pixels, names, labels, notes = _from_files(path, classes == "auto")
    if classes == "cycle":
        labels = torch.tensor([(number - 1) % CLASSES for number in _numbers(names)])
    elif classes == "none":
        labels = None
    elif classes != "auto":
        labels = _from_csv(Path(classes), names)
    if labels is not None and not bool(((labels >= 0) & (labels < CLASSES)).all()):
        raise UserError(
            f"{path}: labels from {int(labels.min())} to {int(labels.max())}; expected 0 to 9"
        )
    sizes = f"{pixels.shape[3]}x{pixels.shape[2]}, {'RGB' if pixels.shape[1] == 3 else 'grey'}"
    head = f"{len(pixels):,} images of {sizes}; {'labelled' if labels is not None else 'no labels'}"
    images = _fitted(_grey(pixels, path), path, fit)
    return Scored(path.name, images, labels, [head, *notes, *oddities(images)])


def _from_array(path: Path) -> tuple[Tensor, list[str], Tensor | None, list[str]]:
    array, numbers = arrays.read(path)
    try:
        pixels, scale = arrays.to_bytes(arrays.arranged(array))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    labels = None if numbers is None else torch.from_numpy(numbers.astype("int64"))
    names = [str(i + 1) for i in range(len(pixels))]
    return pixels, names, labels, [f"values taken as {scale}"]


def _from_files(path: Path, label: bool) -> tuple[Tensor, list[str], Tensor | None, list[str]]:
    found = archives.read_images(path, SETTINGS)
    labels = None
    if label and found.labels is not None:
        digits = [_digit(name, path) for name in found.class_names]
        labels = torch.tensor([digits[number] for number in found.labels])
    return found.pixels, found.names, labels, found.notes


def _digit(name: str, path: Path) -> int:
    """The digit of a folder such as 3, digit_3 or three. Raises UserError."""
    if name.lower() in WORDS:
        return WORDS.index(name.lower())
    number = re.search(r"(\d+)$", name)
    if number is None or int(number[1]) >= CLASSES:
        raise UserError(
            f"{path}: a folder {name!r}, which names no digit. --classes none ignores folders"
        )
    return int(number[1])


def _numbers(names: list[str]) -> list[int]:
    """The number at the end of each name, such as 12 for 00012.png; else the position from 1."""
    found = [re.search(r"(\d+)$", Path(name).stem) for name in names]
    numbers = [int(match[1]) if match else 0 for match in found]
    if len(set(numbers)) == len(numbers) and all(found):
        return numbers
    return list(range(1, len(names) + 1))


def _from_csv(path: Path, names: list[str]) -> Tensor:
    """Labels by name from a CSV file, with or without a head. Raises UserError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected rows of name,label") from None
    labels = {row[0].strip(): row[1].strip() for row in rows if len(row) >= 2}
    values = []
    for name in names:
        text = labels.get(name, labels.get(Path(name).name, labels.get(Path(name).stem)))
        if text is None or not re.fullmatch(r"\d{1,3}", text):
            raise UserError(f"{path}: expected a row NAME,LABEL for {name}, found {text!r}")
        values.append(int(text))
    return torch.tensor(values)


def _grey(pixels: Tensor, path: Path) -> Tensor:
    """(N, C, H, W) with equal channels -> (N, 1, H, W). Raises UserError for colour."""
    if pixels.shape[1] == 3:
        coloured = int((pixels != pixels[:, :1]).flatten(1).any(dim=1).sum())
        if coloured:
            raise UserError(f"{path}: {coloured:,} images have colour; MNIST is grey")
    return pixels[:, :1]


def _fitted(images: Tensor, path: Path, fit: Fit) -> Tensor:
    """Images of 28x28. Raises UserError for other sizes, unless `fit` says what to do."""
    height, width = images.shape[2:]
    if (height, width) == (SIDE, SIDE):
        return images.contiguous()
    if fit == "resize":
        size = (SIDE, SIDE)
        small = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        return small.round().clamp(0, 255).to(torch.uint8)
    if fit == "crop" and min(height, width) > SIDE:
        top, left = (height - SIDE) // 2, (width - SIDE) // 2
        return images[:, :, top : top + SIDE, left : left + SIDE].contiguous()
    raise UserError(
        f"{path}: images of {width}x{height}; MNIST has {SIDE}x{SIDE}. --fit resize scales them, "
        f"--fit crop cuts the margin"
    )


def oddities(images: Tensor) -> list[str]:
    """Probable mistakes in images (N, 1, 28, 28), in sentences."""
    flat = images.flatten(1)
    count, found = len(flat), []
    blank = int((flat.amax(dim=1) - flat.amin(dim=1) < 16).sum())
    if blank:
        found.append(f"{blank:,} images are blank")
    repeated = count - len({row.numpy().tobytes() for row in flat})
    if repeated:
        found.append(f"{repeated:,} images repeat another one exactly")
    border = torch.cat([images[..., 0, :], images[..., -1, :]], dim=-1).float().mean()
    if border > BRIGHT:
        found.append("dark digits on a bright ground: MNIST is white on black. Invert them")
    if int(flat.max()) <= 1:
        found.append("no value exceeds 1: were images in [0, 1] saved as bytes? Multiply by 255")
    return found
