"""Check that images, model, classifier and reference belong together, before measuring them.

They do if DVC runs the stages. These checks find files that someone edited, copied or left behind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .common import artifact
from .common.errors import UserError
from .common.mapped import mapped_tensors

if TYPE_CHECKING:
    import pandas as pd

REMEDY = "`dvc repro` makes them match"


def read(path: str | Path, keys: tuple[str, ...]) -> dict:
    """Read a stage's JSON file with at least these keys. Raises UserError for any other file."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not whole JSON ({error}); `dvc repro` makes it again") from None
    missing = set(keys) - set(values) if isinstance(values, dict) else set(keys)
    if missing:
        raise UserError(f"{path}: {', '.join(sorted(missing))} missing; `dvc repro` makes it again")
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


def table(path: str | Path) -> pd.DataFrame:
    """Read a stage's CSV file. Raises UserError for any other file."""
    import pandas as pd  # few stages read a table

    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: not a table ({error}); `dvc repro` makes it again") from None


def expect(what: str, found: object, expected: object, remedy: str = REMEDY) -> None:
    """Raises UserError, starting with `what`, unless `found` equals `expected`."""
    if found != expected:
        raise UserError(f"{what}: found {found}, expected {expected}; {remedy}")


def expect_file(path: str | Path, what: str, digest: str) -> None:
    """Raises UserError unless the file has this digest. `what` describes the file's role."""
    expect(f"{path}, {what}", artifact.digest(path), digest)
