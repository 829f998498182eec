"""Where an interrupted computation continues: a place in a scratch folder that DVC and git do not see.

Keyed by everything that determines the result, so that it never leaks into a run with other parameters, data or code.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from pathlib import Path

import torch

from src.common.errors import Caution
from src.common.files import leftovers, replacing

SUM = 32  # bytes of a sha256


def place(name: str, key: list) -> Path:
    """A path for what `name` has so far, in a run determined by `key` (values with a faithful repr), the code and torch.

    Below the repository's root: `dvc exp run --temp` and the queue run in copies of it that are gone afterwards, and give the
    root as DVC_ROOT. Two workers with equal keys have the same place, and equal results.
    """
    digest = hashlib.sha256(repr((key, torch.__version__)).encode())
    for source in sorted([*Path("src").rglob("*.py"), *Path("stages").glob("*.py")]):
        digest.update(source.read_bytes())
    return Path(os.environ.get("DVC_ROOT", "."), ".scratch", name, digest.hexdigest()[:16])


class Checkpoint:
    """One state, in a file; see `place`. Its name has the numbers of processes and threads, on which the last bits depend."""

    def __init__(self, name: str, key: list, processes: int = 1):
        self.key, self.processes = place(name, key), processes
        self.path = self.key.with_name(f"{self.key.name}-{processes}x{torch.get_num_threads()}.pt")

    def _from_others(self) -> list[tuple[Path, int]]:
        """What other numbers of processes have left, and how many they were; of as many with other threads: nothing."""
        paths = sorted(self.key.parent.glob(f"{self.key.name}-*.pt"))
        found = [(path, int(path.stem.rpartition("-")[2].partition("x")[0])) for path in paths]
        return [(path, processes) for path, processes in found if processes != self.processes]

    def load(self) -> dict | None:
        """The state last saved; None where there is none or it is damaged (it is our own: then start anew).

        Where another number of processes left one, the run goes on from that, and says what that means.
        """
        for path, processes in [(self.path, self.processes), *self._from_others()]:
            if not path.exists():
                continue
            try:
                whole = path.read_bytes()
                if hashlib.sha256(whole[SUM:]).digest() != whole[:SUM]:
                    raise ValueError("its sha256 is another")
                state = torch.load(io.BytesIO(whole[SUM:]), map_location="cpu", weights_only=True)
            except Exception as error:  # torch names no common base for what a bad file raises
                print(f"{path}: cannot be read ({error}); starting anew")
                continue
            if path != self.path:
                warnings.warn(
                    f"{path}: begun by {processes} processes, goes on with {self.processes}: the result will be that of an "
                    f"undisturbed run to rounding, not to the last bit; if that matters, stop, delete that file, and start again",
                    Caution, stacklevel=2,
                )
            return state
        return None

    def save(self, state: dict) -> None:
        """Replace the state: tensors, numbers, strings, lists and dicts of them. Raises OSError, of a full disk for instance."""
        whole = io.BytesIO()  # torch, given a file, raises RuntimeError for each of its errors
        torch.save(state, whole)
        with replacing(self.path) as temporary, open(temporary, "wb") as file:
            file.write(hashlib.sha256(whole.getbuffer()).digest())
            file.write(whole.getbuffer())

    def remove(self) -> None:
        """All that this run has left here, also where other numbers of processes began it or a kill cut it short."""
        others = [path for path, _ in self._from_others()]
        for path in [self.path, *others, *leftovers(self.path)]:
            path.unlink(missing_ok=True)
