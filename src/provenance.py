"""Do images, model, classifier and reference belong together? Checked before anything is measured.

DVC sees to it when it runs the stages. This is for files that were edited, copied or left behind.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from torch import Tensor

from .common import artifact
from .common.errors import UserError
from .common.mapped import mapped_tensors

REMEDY = "`dvc repro` brings them together"


def read(path: str | Path, keys: tuple[str, ...]) -> dict:
    """A JSON file of ours that has at least these keys. Raises UserError for anything else."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not whole JSON ({error}); `dvc repro` makes it anew") from None
    missing = set(keys) - set(values) if isinstance(values, dict) else set(keys)
    if missing:
        raise UserError(f"{path}: {', '.join(sorted(missing))} missing; `dvc repro` makes it anew")
    return values


def tensors(path: str | Path) -> dict[str, Tensor]:
    """The mapped, read-only tensors of a safetensors file of ours.

    Raises UserError for anything else, OSError if the system refuses it.
    """
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
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: not a table ({error}); `dvc repro` makes it anew") from None


def expect(what: str, found: object, expected: object, remedy: str = REMEDY) -> None:
    """Raises UserError unless the two are equal."""
    if found != expected:
        raise UserError(f"{what}: found {found}, expected {expected}; {remedy}")


def expect_file(path: str | Path, what: str, digest: str) -> None:
    """Raises UserError unless the file has this digest; `what` says what the file did or holds."""
    expect(f"{path}, {what}", artifact.digest(path), digest)
