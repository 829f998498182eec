"""The state of an interrupted run in a scratch folder that DVC and git do not see.

It is keyed by everything that determines the result, so it never leaks into a run with other
parameters, data or code.
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

DIGEST_BYTES = 32  # of a sha256


class Checkpoint:
    """One state in a file; see `scratch.place`.

    Its name has the numbers of processes and threads, on which the last bits depend.
    """

    def __init__(self, name: str, key: list, processes: int = 1):
        self.key, self.processes = place(name, key), processes
        threads = torch.get_num_threads()
        self.path = self.key.with_name(f"{self.key.name}-{processes}x{threads}.pt")

    def _from_others(self) -> list[tuple[Path, int]]:
        """The files of runs with another number of processes, and that number.

        Those of as many processes with other threads are left out.
        """
        paths = sorted(self.key.parent.glob(f"{self.key.name}-*.pt"))
        counts = [int(path.stem.rpartition("-")[2].partition("x")[0]) for path in paths]
        pairs = zip(paths, counts, strict=True)
        return [(path, count) for path, count in pairs if count != self.processes]

    def load(self) -> dict | None:
        """The state last saved; None if there is none or it is damaged: then start anew.

        If another number of processes left one, the run goes on from that and says what it means.
        """
        for path, processes in [(self.path, self.processes), *self._from_others()]:
            if not path.exists():
                continue
            try:
                state = _read(path)
            except Exception as error:  # torch names no common base for what a bad file raises
                print(f"{path}: cannot be read ({error}); starting anew")
                continue
            if path != self.path:
                warnings.warn(
                    f"{path}: begun by {processes} processes, goes on with {self.processes}: the "
                    f"result will be that of an undisturbed run to rounding, not to the last bit; "
                    f"if that matters, stop, delete that file, and start again",
                    Caution,
                    stacklevel=2,
                )
            return state
        return None

    def save(self, state: dict) -> None:
        """Replace the state: tensors, numbers, strings, lists and dicts of them.

        Raises OSError, for example if the disk is full.
        """
        content = io.BytesIO()  # torch, given a file, raises RuntimeError for each of its errors
        torch.save(state, content)
        with replacing(self.path) as temporary, open(temporary, "wb") as file:
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.write(content.getbuffer())

    def remove(self) -> None:
        """Delete all that this run has left here, also with other numbers of processes."""
        others = [path for path, _ in self._from_others()]
        for path in [self.path, *others, *leftovers(self.path)]:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict:
    """The state in a file. Raises ValueError if its digest differs, and torch's errors."""
    content = path.read_bytes()
    digest, state = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(state).digest() != digest:
        raise ValueError("its sha256 is another")
    return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
