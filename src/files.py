"""Writing a file so that a reader sees the old one or the new one, whole, never a part; arrays larger than memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

DTYPES = {"U8": torch.uint8, "I64": torch.int64, "F32": torch.float32}  # of the tensors that are mapped


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder; what was written there takes the place of `path` at the end of the block.

    If the block raises, `path` is as it was and the temporary file is gone. OSError passes through.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _settle(path.parent)


def publish(folder: str | Path, target: str | Path) -> None:
    """Move a finished folder to `target`, in place of what was there: its files are on the disk before the name is."""
    os.sync()  # once, rather than each of ten thousand small files
    shutil.rmtree(target, ignore_errors=True)
    Path(folder).rename(target)
    _settle(Path(target).absolute().parent)


def _settle(folder: Path) -> None:
    """See that the names in `folder` are on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace `path` by a safetensors file. Raises OSError where it cannot be written, a full disk for instance."""
    with replacing(path) as temporary:
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if not number:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def mapped_tensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, mapped into memory, to be read only: they may be larger than it.

    safetensors' own reader maps them privately writable, which Linux refuses beyond its memory. Raises what that reader raises.
    """
    with safe_open(path, framework="numpy") as file:  # checks the header, reads no tensor
        metadata, names = file.metadata() or {}, set(file.keys())
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    raw = np.memmap(path, np.uint8, "r", offset=8 + size)
    tensors = {}
    for name in names:
        (start, end), shape = header[name]["data_offsets"], header[name]["shape"]
        tensors[name] = _read_only(raw[start:end]).view(DTYPES[header[name]["dtype"]]).view(shape)
    return metadata, tensors


def _read_only(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


class SpoolError(OSError):
    """A spool's own, never that of a file that is read: names its folder."""


class Spool:
    """Rows that go to an unnamed file in `folder` as they come, and come back as one tensor that is mapped, to be read only.

    The file lives as long as the spool or a tensor of it does. Raises SpoolError, of a full disk for instance.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder
        with self._errors():
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed with the last tensor of it)

    def add(self, rows: Tensor | bytes) -> None:
        with self._errors():
            self.file.write(rows if isinstance(rows, bytes) else rows.contiguous().numpy())

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
        """All rows so far, which are this many values of `dtype`, at least one."""
        with self._errors():
            self.file.flush()
            return _read_only(np.memmap(self.file, np.uint8, "r")).view(dtype).view(shape)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpoolError(error.errno, error.strerror, str(self.folder)) from None
