"""Where an interrupted computation continues: a place in a scratch folder that DVC and git do not see.

Keyed by everything that determines the result, so that it never leaks into a run with other parameters, data or code.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import torch

from src.files import replacing


def place(name: str, key: list) -> Path:
    """A path for what `name` has so far, in a run determined by `key` (values with a faithful repr), the code and torch.

    Below the repository's root: `dvc exp run --temp` and the queue run in copies of it that are gone afterwards, and give the
    root as DVC_ROOT. Two workers with equal keys have the same place, and equal results.
    """
    digest = hashlib.sha256(repr((key, torch.__version__)).encode())
    for source in sorted([*Path("src").glob("*.py"), *Path("stages").glob("*.py")]):
        digest.update(source.read_bytes())
    return Path(os.environ.get("DVC_ROOT", "."), ".scratch", name, digest.hexdigest()[:16])


class Checkpoint:
    """One state, in a file; see `place`."""

    def __init__(self, name: str, key: list):
        self.path = place(name, key).with_suffix(".pt")

    def load(self) -> dict | None:
        """The state last saved; None where there is none or it cannot be read (it is our own: then start anew)."""
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch names no common base for what a bad file raises
            print(f"{self.path}: cannot be read ({error}); starting anew")
            return None

    def save(self, state: dict) -> None:
        """Replace the state: tensors, numbers, strings, lists and dicts of them. Raises OSError, of a full disk for instance."""
        whole = io.BytesIO()  # torch, given a file, raises RuntimeError for each of its errors
        torch.save(state, whole)
        with replacing(self.path) as temporary:
            temporary.write_bytes(whole.getbuffer())

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
