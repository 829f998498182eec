"""The yardstick: a classifier that is the same for everybody, with moments of its data set.

Values measured with it compare between machines and between forks. It belongs to one data set.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .common import reports
from .common.errors import UserError
from .common.schema import parse

File = Literal["classifier.safetensors", "digits.npz", "imagenet.npz"]
REMEDY = "`git checkout yardstick` brings it back"


@dataclass(frozen=True)
class Yardstick:
    """Of yardstick/about.json."""

    name: str
    dataset: str
    dataset_fingerprint: str
    floors: dict[str, float]  # of fd_imagenet, for "heldout" and "train"
    sha256: dict[File, str]

    def file(self, folder: Path, name: File) -> Path:
        """Path of a file in `folder`. Raises UserError unless it has its sha256."""
        path = folder / name
        expected = self.sha256.get(name, "none")
        if not path.is_file():
            raise UserError(f"{path}: not found; {REMEDY}")
        actual = sha256(path)
        if actual != expected:
            raise UserError(f"{path}: expected the sha256 {expected}, found {actual}; {REMEDY}")
        return path

    def has_classifier(self, path: Path) -> bool:
        """Whether the file is the yardstick's classifier."""
        return sha256(path) == self.sha256["classifier.safetensors"]

    def save(self, folder: Path) -> None:
        """Write about.json."""
        reports.write_json(folder / "about.json", vars(self))


def find(folder: Path, fingerprint: str) -> Yardstick | None:
    """The yardstick in `folder`; None if it belongs to another data set.

    `fingerprint` is that of the data set. Raises UserError if about.json is missing or damaged.
    """
    yardstick = load(folder)
    return yardstick if yardstick.dataset_fingerprint == fingerprint else None


def load(folder: Path) -> Yardstick:
    """The yardstick in `folder`. Raises UserError if about.json is missing or damaged."""
    path = folder / "about.json"
    try:
        return parse(Yardstick, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}; {REMEDY}") from None


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
