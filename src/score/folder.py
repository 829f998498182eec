"""The images to score, as grey 28x28 pixels with or without labels, and what is odd about them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import archives
from ..archives.decode import resized
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
    max_files=2_000_000,
    max_gib=8,
)
REMEDIES = (  # what unpack's messages advise, and what to do here
    (r"; unpack\.labels: folders makes them classes", "; --classes takes a CSV file"),
    (r"not from (\S+\.csv)$", r"not from \1; --classes takes the path of a CSV file"),
    (r"unpack\.labels to folders or none", "--classes to none"),
    (r"unpack\.labels", "--classes"),
    (r"unpack\.size(: \d+)?", "--fit resize"),
    (r", or raise unpack\.max_\w+", ""),
)
BRIGHT = 127  # mean of an image's border: MNIST's border is black
FEWEST = 4  # images
Fit = Literal["exact", "resize", "crop"]


@dataclass(frozen=True)
class Scored:
    """Images to score."""

    name: str
    images: Tensor  # (N, 1, 28, 28) uint8, white on black
    labels: Tensor | None  # (N,) int64, 0 to 9
    notes: list[str] = field(default_factory=list)  # what was assumed, and probable mistakes


def read(
    path: str | Path,
    classes: str = "auto",
    fit: Fit = "exact",
    scale: arrays.Range = "auto",
    invert: bool = False,
) -> Scored:
    """Read a folder, zip or tar of images, or an .npy or .npz file.

    classes  auto: labels from folders named by digits, or from an .npz. none: no labels.
             cycle: image k has class (k - 1) mod 10; k mod 10 if the first number is 0.
             Else the path of a CSV file with a name and a label in each row
    fit      how images of other sizes become 28x28. exact: not at all. resize: scale the middle
             square. crop: cut the margin
    scale    the range of the values in an array
    invert   turn black on white into white on black

    Raises UserError that names the file and the way out.
    """
    path = Path(path).expanduser()
    is_array = path.suffix.lower() in (".npy", ".npz")
    if is_array:
        pixels, names, labels, notes = _from_array(path, scale, classes)
    elif scale != "auto":
        raise UserError(f"{path}: --range is for .npy and .npz files; PNGs and JPEGs have 0..255")
    else:
        pixels, names, labels, notes = _from_files(path, classes, fit)
    if len(pixels) < FEWEST:
        raise UserError(f"{path}: expected at least {FEWEST} images, found {len(pixels)}")
    if classes == "cycle":
        labels, note = _cycled(path, names)
        notes.append(note)
    elif classes not in ("auto", "none"):
        labels, note = _from_csv(Path(classes).expanduser(), names, is_array)
        notes.append(note)
    if labels is not None and not bool(((labels >= 0) & (labels < CLASSES)).all()):
        raise UserError(
            f"{path}: labels from {int(labels.min())} to {int(labels.max())}; expected 0 to 9. "
            f"--classes none ignores them"
        )
    sizes = f"{pixels.shape[3]}x{pixels.shape[2]}, {'RGB' if pixels.shape[1] == 3 else 'grey'}"
    head = f"{len(pixels):,} images of {sizes}; {'labelled' if labels is not None else 'no labels'}"
    images = _fitted(_grey(pixels, path), path, fit)
    if invert:
        images = 255 - images
        notes.append("inverted")
    return Scored(path.resolve().name, images, labels, [head, *notes, *oddities(images)])


def _from_array(
    path: Path, scale: arrays.Range, classes: str
) -> tuple[Tensor, list[str], Tensor | None, list[str]]:
    array, numbers, origin = arrays.read(path)
    try:
        images, assumed = arrays.arranged(array)
        pixels, done = arrays.to_bytes(images, scale)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    notes, labels = [done, assumed], None
    if classes == "auto":
        labels = None if numbers is None else torch.from_numpy(numbers.astype("int64"))
        notes.append(origin)
    names = [str(i + 1) for i in range(len(pixels))]
    return pixels, names, labels, [note for note in notes if note]


def _from_files(
    path: Path, classes: str, fit: Fit
) -> tuple[Tensor, list[str], Tensor | None, list[str]]:
    changes: dict[str, object] = {"labels": "auto" if classes == "auto" else "none"}
    if fit == "resize":
        changes["size"] = SIDE
    try:
        found = archives.read_images(path, SETTINGS.model_copy(update=changes))
    except UserError as error:
        raise UserError(_in_our_words(str(error))) from None
    notes = [_in_our_words(note) for note in found.notes]
    if classes != "auto":  # then `labels` is none to unpack
        notes = [note for note in notes if "no classes" not in note]
    if found.labels is None or classes != "auto":
        return found.pixels, found.names, None, notes
    digits = [_digit(name, path) for name in found.class_names]
    named = ", ".join(
        f"{name} is {digit}"
        for name, digit in zip(found.class_names, digits, strict=True)
        if name != str(digit)
    )
    if named:
        notes.append(f"classes from folders: {named}")
    labels = torch.tensor([digits[number] for number in found.labels])
    return found.pixels, found.names, labels, notes


def _in_our_words(text: str) -> str:
    """A message of unpack, with the score's remedies."""
    for remedy, here in REMEDIES:
        text = re.sub(remedy, here, text)
    return text


def _digit(name: str, path: Path) -> int:
    """The digit of a folder such as 3, digit_3 or three. Raises UserError."""
    if name.lower() in WORDS:
        return WORDS.index(name.lower())
    match = re.fullmatch(r"((digit|class|label)s?[ _-]?)?0*([0-9])", name.lower())
    if match is None:
        raise UserError(
            f"{path}: a folder {name!r}, which names no digit. --classes none ignores folders"
        )
    return int(match[3])


def _cycled(path: Path, names: list[str]) -> tuple[Tensor, str]:
    """Classes in turn, by the number at the end of each name, and what was assumed.

    Raises UserError without numbers.
    """
    found = [re.search(r"(\d{1,9})$", Path(name).stem) for name in names]
    numbers = [int(match[1]) for match in found if match]
    if len(set(numbers)) != len(names):
        raise UserError(
            f"{path}: --classes cycle needs another number at the end of each name, such as "
            f"00012.png; a CSV file of NAME,LABEL is the other way"
        )
    first = 0 if min(numbers) == 0 else 1
    labels = torch.tensor([(number - first) % CLASSES for number in numbers])
    return labels, f"classes in turn: number {first} has class 0"


def _from_csv(path: Path, names: list[str], is_array: bool) -> tuple[Tensor, str]:
    """Labels by name from a CSV file, with or without a head, and what was assumed.

    The images of an array are named by numbers from 1, or from 0 if the file names a 0. Raises
    UserError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        mark = ";" if text.partition("\n")[0].count(";") else ","
        rows = [row for row in csv.reader(text.splitlines(), delimiter=mark) if len(row) >= 2]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected rows of NAME,LABEL") from None
    labels: dict[str, str] = {}
    for key, value in ((row[0].strip(), row[1].strip()) for row in rows):
        if labels.setdefault(key, value) != value:
            raise UserError(f"{path}: {key} has the labels {labels[key]} and {value}; keep one")
    note = f"labels from {path.name}"
    if is_array:
        first = 0 if "0" in labels else 1
        names = [str(number) for number in range(first, first + len(names))]
        note += f": row {first} is of the first image"
    short = [Path(name).name for name in names]
    unique = len(set(short)) == len(short)
    values = []
    for name, last in zip(names, short, strict=True):
        keys = (name, last, Path(last).stem) if unique else (name,)
        label = next((labels[key] for key in keys if key in labels), None)
        if label is None or not re.fullmatch(r"\d{1,3}", label):
            row = ",".join(rows[0][:2]) if rows else "nothing"
            raise UserError(
                f"{path}: expected a row NAME,LABEL for {name}, found {label!r}; the first row is "
                f"{row!r}"
            )
        values.append(int(label))
    return torch.tensor(values), note


def _grey(pixels: Tensor, path: Path) -> Tensor:
    """(N, C, H, W) with equal channels -> (N, 1, H, W). Raises UserError for colour."""
    if pixels.shape[1] == 3:
        coloured = int((pixels != pixels[:, :1]).flatten(1).any(dim=1).sum())
        if coloured:
            raise UserError(
                f"{path}: {coloured:,} images have colour; MNIST is grey. Save them without a "
                f"colour map (matplotlib: cmap='gray')"
            )
    return pixels[:, :1]


def _fitted(images: Tensor, path: Path, fit: Fit) -> Tensor:
    """Images of 28x28. Raises UserError for other sizes, unless `fit` says what to do."""
    height, width = images.shape[2:]
    if (height, width) == (SIDE, SIDE):
        return images.contiguous()
    if fit == "resize":
        small = (resized(Image.fromarray(image.numpy()), SIDE) for image in images[:, 0])
        return torch.stack([torch.from_numpy(np.array(image)) for image in small])[:, None]
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
        found.append(
            f"{repeated:,} images repeat another one exactly; the deviations are then too small"
        )
    sides = (images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1])
    border = torch.cat(sides, dim=-1).float().mean(dim=(1, 2))
    bright = int((border > BRIGHT).sum())
    if bright:
        found.append(
            f"{bright:,} images have a bright border: MNIST is white on black; --invert inverts all"
        )
    if int(flat.max()) <= 1:
        found.append("no value exceeds 1: were images in [0, 1] saved as bytes? Multiply by 255")
    return found
