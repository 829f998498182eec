"""Writing a file so that a reader sees the old one or the new one, whole, never a part."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


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


def leftovers(path: str | Path) -> list[Path]:
    """What a kill left of `replacing` this path: temporary files whose processes are gone."""
    def alive(process: int) -> bool:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    found = Path(path).parent.glob(f".{Path(path).name}.*.tmp")
    return [left for left in found if not alive(int(left.suffixes[-2][1:]))]


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
