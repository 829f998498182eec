"""Check that images, model, classifier and reference belong together, before measuring them.

They do if DVC runs the stages. These checks find files that someone edited, copied or left behind.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from .common import artifact
from .common.errors import Caution, UserError
from .common.mapped import mapped_tensors
from .common.schema import parse

if TYPE_CHECKING:
    import pandas as pd

REMEDY = "`dvc repro` makes them match"
T = TypeVar("T")


class Described(TypedDict):
    """What each file in metrics/ has."""

    dataset: str
    dataset_fingerprint: str


class DataMetrics(Described):
    """Of metrics/data.json, what other stages read; so are the classes below of their files."""

    channels: int
    classes: int
    image_size: int
    train_images: int
    heldout_images: int


class TrainMetrics(Described):
    parameters: int
    steps: int
    precision: str


class FidMetrics(Described):
    images: int
    model: str
    pixels: str
    classifier: str
    fd_digits: float
    fd_digits_floor_heldout: float
    accuracy: float | None
    fd_imagenet: float | None
    fd_imagenet_floor_heldout: float | None
    fid: float | None


class QualityMetrics(Described):
    images_floor_heldout: int
    model: str
    pixels: str
    fd_digits_infinity: float | None
    kid_digits: float | None
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    cas: float | None
    broken: float


class SpreadMetrics(Described):
    seeds: int


class SweepMetrics(Described):
    model: str
    images: int
    floor_heldout_sets: int
    fd_digits_floor_heldout: float | None
    fd_digits_floor_heldout_sd: float | None
    kid_imagenet_floor_heldout: float | None
    kid_imagenet_floor_heldout_sd: float | None


class FidelityMetrics(Described):
    model: str
    images: int
    fd_imagenet_real: float | None


class HeldoutFloors(TypedDict):
    """Scores of the held-out images."""

    images: int
    broken: float
    fd_digits_infinity: float | None
    fd_digits_infinity_sd: float | None
    kid_digits: float | None
    kid_digits_sd: float | None
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    nearest_train_median: float
    near: float
    memorised: float
    class_shares: NotRequired[list[float]]


class TrainFloors(TypedDict):
    """Scores of training images drawn at random."""

    images: int
    broken: float
    cas: NotRequired[float]


class Floors(TypedDict):
    """Of arrays/floors.json."""

    features: str
    neighbours: int
    seed: int
    heldout: HeldoutFloors
    train: TrainFloors


class DigitsFloor(TypedDict):
    """fd_digits of so many real images."""

    images: int
    fd_digits: float


class DigitsFloors(TypedDict):
    heldout: DigitsFloor
    train: DigitsFloor


class ReferenceAbout(Described):
    """Of reference/about.json."""

    images: int
    yardstick: str | None  # its name, if its classifier was used
    classifier: str
    moments: str
    features: str
    floors: DigitsFloors


class ExtractorAbout(TypedDict):
    """Of reference/imagenet.json and reference/inception.json."""

    images: int
    moments: str | None
    reference: str | None
    floors: dict[str, float]


def read(path: str | Path, kind: type[T]) -> T:
    """Read a stage's JSON file as a TypedDict `kind`. Other keys stay.

    Raises UserError for a missing file, a key of another type and a missing key.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not whole JSON ({error}); `dvc repro` makes it again") from None
    try:
        parse(kind, values)
    except ValueError as error:
        raise UserError(f"{path}: {error}; `dvc repro` makes it again") from None
    return values


def tensors(path: str | Path) -> dict[str, Tensor]:
    """Map the tensors of a stage's safetensors file. They are read-only.

    Raises UserError for any other file, OSError if the system cannot read it.
    """
    try:
        return mapped_tensors(path)[1]
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); `dvc repro` makes it again") from None


def trajectory(path: str | Path, steps: int) -> Tensor:
    """The states of a trajectory: (`steps` + 1, N, C, H, W) uint8, mapped and read-only.

    Raises UserError for any other file.
    """
    states = tensors(path).get("states", torch.empty(0))
    if states.dtype != torch.uint8 or states.ndim != 5 or len(states) != steps + 1:
        raise UserError(
            f"{path}: expected `states` of uint8 with 5 axes, the first of {steps + 1}; "
            f"found {states.dtype} and {list(states.shape)}; `dvc repro` makes it again"
        )
    return states


def table(path: str | Path, numbers: tuple[str, ...]) -> pd.DataFrame:
    """Read a stage's CSV file with at least the columns `numbers`, of numbers.

    Raises UserError for any other file.
    """
    import pandas as pd  # few stages read a table

    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: not a table ({error}); `dvc repro` makes it again") from None
    for name in numbers:
        if name not in frame or not pd.api.types.is_numeric_dtype(frame[name]):
            raise UserError(f"{path}: no column {name} of numbers; `dvc repro` makes it again")
    return frame


def expect(what: str, found: object, expected: object, remedy: str = REMEDY) -> None:
    """Raises UserError, starting with `what`, unless `found` equals `expected`."""
    if found != expected:
        raise UserError(f"{what}: found {found}, expected {expected}; {remedy}")


def expect_file(path: str | Path, what: str, digest: str) -> None:
    """Raises UserError unless the file has this digest. `what` describes the file's role."""
    expect(f"{path}, {what}", artifact.digest(path), digest)


def unequal(images: int, real: int) -> str:
    """A sentence if scores are of `images` images and floors of `real` real ones, else ""."""
    if images == real:
        return ""
    fewer = "generated" if images < real else "real"
    return (
        f"Scores are of {images:,} generated images, floors of {real:,} real ones. Fewer images "
        f"have higher distances and a lower coverage, so the {fewer} ones seem worse than they are"
    )


def caution_unequal(images: int, real: int) -> None:
    """Warn with that sentence."""
    if message := unequal(images, real):
        warnings.warn(message, Caution, stacklevel=2)
