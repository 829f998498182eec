"""Model files: safetensors with a JSON header that says what the file holds. No pickles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import UserError
from .files import save_tensors
from .mapped import mapped_tensors

VERSION = 1  # format version of headers and manifests


def versioned(header: dict) -> dict:
    """Add the format version to `header`. Version 1 is written without a number."""
    return header if VERSION == 1 else {"version": VERSION, **header}


def check_version(header: dict, path: str | Path, remedy: str) -> None:
    """Raises UserError, ending in `remedy`, unless the header has format version VERSION.

    A header without a version has version 1.
    """
    version = header.get("version", 1)
    if type(version) is not int or version != VERSION:
        raise UserError(
            f"{path}: expected format version {VERSION}, got {version!r:.40}. Use it with the "
            f"version of this project that wrote it, or replace it: {remedy}"
        )


def save(path: str | Path, kind: str, weights: dict[str, Tensor], header: dict) -> None:
    """Write `weights` and `header` (JSON values). `kind` names the type of model file."""
    # Only one metadata key: safetensors writes several keys in no fixed order, and equal models
    # must give equal files.
    text = json.dumps(versioned({"kind": kind, **header}), sort_keys=True)
    save_tensors(path, weights, {"header": text})


def load(path: str | Path, kind: str, remedy: str) -> tuple[dict, dict[str, Tensor]]:
    """Read (header, weights) from a file that `save` wrote. Weights are mapped and read-only.

    Weights must be int64 or finite floats. Raises UserError, ending in `remedy`, if the file is
    missing, damaged or of another kind; OSError if the system cannot read it.
    """
    try:
        metadata, weights = mapped_tensors(path)
        header = json.loads(metadata.get("header", "{}"))
        if not isinstance(header, dict):
            raise ValueError(f"its header is a {type(header).__name__}")
        for name, value in weights.items():
            if value.is_floating_point():
                if not value.isfinite().all():
                    raise ValueError(f"{name} holds values that are not finite")
            elif value.dtype != torch.int64:
                raise ValueError(f"{name} holds {value.dtype}, expected int64 or floats")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); {remedy}") from None
    if header.get("kind") != kind:
        kind_found = header.get("kind", "a file without a kind")
        raise UserError(f"{path}: expected a {kind}, found {kind_found!r:.40}; {remedy}")
    check_version(header, path, remedy)
    return header, weights


class _NoInit(TorchFunctionMode):
    """Skips torch.nn.init: on the meta device, its normal_ would import PyTorch's compiler."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def check_fit(build: Callable[[], nn.Module], weights: dict[str, Tensor]) -> None:
    """Raises ValueError unless `build` makes a module with weights of these names and shapes.

    The module is built on the meta device, which allocates nothing. So a small file that claims
    to hold a huge network cannot fill the memory.
    """
    with torch.device("meta"), _NoInit():
        expected = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            wanted, got = expected.get(name, "none"), shapes.get(name, "none")
            raise ValueError(f"{name}: expected {wanted}, found {got}")


def digest(path: str | Path) -> str:
    """First 12 hex digits of the file's sha256. Metrics use it to name a model."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            sha256.update(chunk)
    return sha256.hexdigest()[:12]
