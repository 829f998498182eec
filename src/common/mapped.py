"""Arrays larger than memory: tensors mapped from a file, and rows collected on disk."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

DTYPES = {"U8": torch.uint8, "I64": torch.int64, "F32": torch.float32}


def mapped_tensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Map a safetensors file. Returns its metadata and its tensors, which are read-only.

    The safetensors library would map them as private and writable, which Linux refuses if they
    are larger than its memory. Raises ValueError unless the file holds tensors of the types in
    DTYPES, OSError if the system cannot read it.
    """
    if Path(path).is_dir():
        raise ValueError("it is a folder")
    with open(path, "rb") as file:  # first, since safetensors reports each OSError as "not found"
        try:
            with safe_open(path, framework="numpy") as checked:  # reads only the header
                metadata, names = checked.metadata() or {}, checked.keys()
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            raw = np.memmap(file, np.uint8, "r", offset=8 + size)
            tensors = {name: _tensor(raw, header[name]) for name in names}
        except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        except MemoryError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from None
        except OSError as error:  # from mmap, without a file name
            number, reason = error.errno or errno.EIO, error.strerror or str(error)
            raise OSError(number, reason, str(path)) from None
    return metadata, tensors


def _tensor(raw: np.ndarray, entry: dict) -> Tensor:
    """The tensor that `entry` of the header describes; `raw` has the file's bytes after it."""
    start, end = entry["data_offsets"]
    return _read_only(raw[start:end]).view(DTYPES[entry["dtype"]]).view(entry["shape"])


def _read_only(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


class SpoolError(OSError):
    """A spool could not be written or mapped. The error names the spool's folder."""


class Spool:
    """Collects rows in an unnamed file in `folder`, and returns them as one mapped tensor.

    The system deletes the file when the spool and its tensors are gone. Raises SpoolError, for
    example if the disk is full.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder
        with self._errors():
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (its tensors close it)

    def add(self, rows: Tensor | bytes) -> None:
        with self._errors():
            self.file.write(rows if isinstance(rows, bytes) else rows.contiguous().numpy())

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
        """All rows so far as one read-only tensor. There must be at least one value."""
        with self._errors():
            self.file.flush()
            return _read_only(np.memmap(self.file, np.uint8, "r")).view(dtype).view(shape)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpoolError(error.errno, error.strerror, str(self.folder)) from None
