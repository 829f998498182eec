"""Write files atomically: a reader sees the whole old file or the whole new one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder. It replaces `path` at the end of the block.

    If the block raises, `path` is unchanged and the temporary file is deleted. Those of killed
    processes are deleted at the start. Raises OSError if the system cannot write the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in leftovers(path.parent, path.name):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_names(path.parent)


def leftovers(folder: str | Path, name: str | None = None) -> list[Path]:
    """Temporary files in `folder` that killed processes left while they were replacing a file.

    `name` is that of the file (default: any).
    """
    pattern = re.compile(rf"\.{re.escape(name) if name else '.+'}\.(\d{{1,9}})\.tmp")
    matches = [(path, pattern.fullmatch(path.name)) for path in Path(folder).iterdir()]
    return [path for path, match in matches if match and not psutil.pid_exists(int(match[1]))]


def publish(folder: str | Path, target: str | Path) -> None:
    """Move a finished folder to `target`, and delete the folder that was there.

    All files are on the disk before the folder gets its new name. `target` may be on another file
    system.
    """
    folder, target = Path(folder), Path(target).absolute()
    if folder.stat().st_dev != target.parent.stat().st_dev:
        near = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(near, ignore_errors=True)
        shutil.copytree(folder, near)
        shutil.rmtree(folder)
        folder = near
    os.sync()  # once for all files, since ten thousand single syncs take longer
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    _sync_names(target.parent)


def _sync_names(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk. Windows cannot be asked for that."""
    if os.name == "nt":
        return
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


def copy(path: str | Path, target: str | Path) -> None:
    """Replace `target` with a copy of the file `path`."""
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
