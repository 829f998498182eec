"""Model files: safetensors with a JSON header that says what the file is. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from src.common.errors import UserError
from src.common.files import save_tensors
from src.common.mapped import mapped_tensors


def save(path: str | Path, kind: str, weights: dict[str, Tensor], header: dict) -> None:
    """Write `weights` and `header` (JSON values); `kind` tells model files of this project apart."""
    # A single metadata key: safetensors writes several in no fixed order, and equal models are to be equal files.
    metadata = {"header": json.dumps({"kind": kind, **header}, sort_keys=True)}
    save_tensors(path, weights, metadata)


def load(path: str | Path, kind: str, remedy: str) -> tuple[dict, dict[str, Tensor]]:
    """(header, weights) of a file written by `save`; weights are mapped, to be read only. Raises UserError, ending in `remedy`,
    for anything else, OSError if the system refuses the file."""
    try:
        metadata, weights = mapped_tensors(path)
        header = json.loads(metadata.get("header", "{}"))
        if not isinstance(header, dict):
            raise ValueError(f"its header is a {type(header).__name__}")
        for name, value in weights.items():
            if not (value.isfinite().all() if value.is_floating_point() else value.dtype == torch.int64):
                raise ValueError(f"{name} holds values that are not finite, or {value.dtype}")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); {remedy}") from None
    if header.get("kind") != kind:
        raise UserError(f"{path}: expected a {kind}, found {header.get('kind', 'no header of ours')!r}; {remedy}")
    return header, weights


def fit(build: Callable[[], nn.Module], weights: dict[str, Tensor]) -> None:
    """See that the module that `build` makes has weights of these names and shapes. Raises ValueError that names the first
    that differs.

    Nothing is allocated: however large a network a file claims to hold, opening it takes no more memory than the file.
    """
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{name}: expected {expected.get(name, 'none')}, found {found.get(name, 'none')}")


def digest(path: str | Path) -> str:
    """First 12 hex digits of the file's sha256: the name by which metrics refer to a model."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            found.update(chunk)
    return found.hexdigest()[:12]
