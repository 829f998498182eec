"""Do images, model, classifier and reference belong together? Asked before anything is measured or drawn.

DVC sees to it where it runs the stages; this is for what was edited, copied or left behind between them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from torch import Tensor

from src.common import artifact
from src.common.dataset import Dataset
from src.common.errors import UserError
from src.common.mapped import mapped_tensors

REMEDY = "`dvc repro` brings them together"


def read(path: str | Path, keys: tuple[str, ...]) -> dict:
    """A JSON file of ours that has at least these keys. Raises UserError for anything else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not whole JSON ({error}); `dvc repro` makes it anew") from None
    missing = set(keys) - set(found) if isinstance(found, dict) else set(keys)
    if missing:
        raise UserError(f"{path}: {', '.join(sorted(missing))} missing; `dvc repro` makes it anew")
    return found


def tensors(path: str | Path) -> dict[str, Tensor]:
    """What a safetensors file of ours holds, mapped, to be read only. Raises UserError for anything else, OSError if the system
    refuses it."""
    try:
        return mapped_tensors(path)[1]
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); `dvc repro` makes it anew") from None


def table(path: str | Path) -> pd.DataFrame:
    """A CSV file of ours. Raises UserError for anything else."""
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except ValueError as error:  # of which pandas' own are
        raise UserError(f"{path}: not a table ({error}); `dvc repro` makes it anew") from None


def manifest(path: str | Path) -> dict:
    """What the sample stage says of the images that it drew."""
    found = read(path, (
        "dataset", "dataset_fingerprint", "model", "pixels", "method", "steps", "spacing", "eta", "guidance", "guidance_interval",
        "autoguidance", "autoguidance_interval", "timesteps", "evaluations", "seed", "count", "schedule", "prediction", "classes",
        "labels", "asked_classes", "asked_precision",
    ))
    labels, count = found["labels"], found["count"]
    if labels is not None and (not isinstance(labels, list) or len(labels) != count):
        raise UserError(f"{path}: labels: expected null or one for each of {count} images; `dvc repro` makes it anew")
    return found


def reference(path: str | Path) -> dict:
    """What the reference stage says of the real images that it measured."""
    return read(path, (
        "dataset", "dataset_fingerprint", "images", "classifier", "moments", "features", "floors",
    ))


def inception(path: str | Path) -> dict:
    """What the reference stage says of the Inception moments of the real images; its `moments` is None where there are none."""
    return read(path, ("images", "moments", "reference", "from", "floors"))


def expect(what: str, found: object, expected: object, remedy: str = REMEDY) -> None:
    """Raises UserError unless the two are equal."""
    if found != expected:
        raise UserError(f"{what}: found {found}, expected {expected}; {remedy}")


def check_drawn(drawn: dict, real: dict, model: str | Path) -> None:
    """See that the images are of `model`, and the real images of the same data set."""
    expect("the data set that the images are of", drawn["dataset_fingerprint"], real["dataset_fingerprint"])
    expect(f"{model}, which drew the images", artifact.digest(model), drawn["model"])


def check_measured(
    real: dict, classifier: str | Path, moments: str | Path, features: str | Path | None = None, data: Dataset | None = None
) -> None:
    """See that the files given are those that the real images were measured with, and came out of it."""
    expect(f"{classifier}, which measured the real images", artifact.digest(classifier), real["classifier"])
    expect(f"{moments}, of the real images", artifact.digest(moments), real["moments"])
    if data is not None:
        expect("the data set that is measured against", data.fingerprint, real["dataset_fingerprint"])
    if features is not None:
        expect(f"{features}, of the real images", artifact.digest(features), real["features"])
