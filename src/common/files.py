"""Write files atomically: a reader sees the whole old file or the whole new one."""

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
    """Yield a temporary path in the same folder. It replaces `path` at the end of the block.

    If the block raises, `path` is unchanged and the temporary file is deleted. Raises OSError if
    the system cannot write the file.
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
    _sync_names(path.parent)


def leftovers(path: str | Path) -> list[Path]:
    """Temporary files that killed processes left while they were replacing `path`."""
    path = Path(path)
    temporary = path.parent.glob(f".{path.name}.*.tmp")
    return [left for left in temporary if not _alive(int(left.suffixes[-2][1:]))]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def publish(folder: str | Path, target: str | Path) -> None:
    """Move a finished folder to `target`, and delete the folder that was there.

    All files are on the disk before the folder gets its new name.
    """
    os.sync()  # once for all files, since ten thousand single syncs take longer
    shutil.rmtree(target, ignore_errors=True)
    Path(folder).rename(target)
    _sync_names(Path(target).absolute().parent)


def _sync_names(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_tensors(
    path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Replace `path` with a safetensors file. Raises OSError, for example if the disk is full."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if not number:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
