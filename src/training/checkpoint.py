"""Save and load the state of an interrupted run, in a folder that DVC and git ignore.

The key of a checkpoint has everything that determines the result. So a run with other parameters,
data or code never loads it.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import torch

from ..common.errors import Caution
from ..common.files import leftovers, replacing
from ..common.scratch import place

DIGEST_BYTES = 32  # length of a sha256


class Checkpoint:
    """The last saved state of a run, in one file; `scratch.place` makes its path from `key`.

    The file name has the numbers of processes and threads, because the last bits of the result
    depend on them.
    """

    def __init__(self, name: str, key: list, processes: int = 1):
        self.key, self.processes = place(name, key), processes
        threads = torch.get_num_threads()
        self.path = self.key.with_name(f"{self.key.name}-{processes}x{threads}.pt")

    def _from_others(self) -> list[tuple[Path, int]]:
        """Files of this run from another number of processes, each with that number.

        Leaves out files from the same number of processes with another number of threads.
        """
        paths = sorted(self.key.parent.glob(f"{self.key.name}-*.pt"))
        counts = [int(path.stem.rpartition("-")[2].partition("x")[0]) for path in paths]
        pairs = zip(paths, counts, strict=True)
        return [(path, count) for path, count in pairs if count != self.processes]

    def load(self) -> dict | None:
        """The last saved state; None if there is none, or if its file is damaged.

        Also loads a state that another number of processes saved, with a warning.
        """
        for path, processes in [(self.path, self.processes), *self._from_others()]:
            if not path.exists():
                continue
            try:
                state = _read(path)
            except Exception as error:  # torch.load has no base class for its errors
                print(f"{path}: cannot be read ({error}); ignoring this checkpoint")
                continue
            if path != self.path:
                warnings.warn(
                    f"{path}: saved by {processes} processes, resuming with {self.processes}. "
                    f"The result will equal that of an uninterrupted run up to rounding, not bit "
                    f"for bit. If that matters, stop, delete this file and start again",
                    Caution,
                    stacklevel=2,
                )
            return state
        return None

    def save(self, state: dict) -> None:
        """Replace the saved state. It may hold tensors, numbers, strings, lists and dicts.

        Raises OSError, for example if the disk is full.
        """
        content = io.BytesIO()  # torch.save to a file would turn OSError into RuntimeError
        torch.save(state, content)
        with replacing(self.path) as temporary, open(temporary, "wb") as file:
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.write(content.getbuffer())

    def remove(self) -> None:
        """Delete all files of this run, including those from other numbers of processes."""
        others = [path for path, _ in self._from_others()]
        for path in [self.path, *others, *leftovers(self.path.parent, self.path.name)]:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict:
    """The state in a file. Raises ValueError for a wrong sha256, and the errors of torch.load."""
    content = path.read_bytes()
    digest, state = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(state).digest() != digest:
        raise ValueError("its content does not match its sha256")
    return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
