"""Where an interrupted computation continues: a place in a scratch folder that DVC and git do not see.

Keyed by everything that determines the result, so that it never leaks into a run with other parameters, data or code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from src.files import replacing

SCRATCH = Path(".scratch")


def place(name: str, key: list) -> Path:
    """A path for what `name` has so far, in a run determined by `key` (values with a faithful repr), the code and torch."""
    digest = hashlib.sha256(repr((key, torch.__version__)).encode())
    for source in sorted([*Path("src").glob("*.py"), *Path("stages").glob("*.py")]):
        digest.update(source.read_bytes())
    return SCRATCH / name / digest.hexdigest()[:16]


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
        """Replace the state: tensors, numbers, strings, lists and dicts of them."""
        with replacing(self.path) as temporary:
            torch.save(state, temporary)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
