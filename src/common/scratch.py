"""Where an interrupted computation continues: a folder that DVC and git do not see."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch


def place(name: str, key: list) -> Path:
    """A path for the unfinished work of `name`, for one `key` (values with a faithful repr).

    The code and the version of torch belong to the key, so that no run continues what another
    began. `dvc exp run --temp` and the queue run in copies of the repository that are deleted
    afterwards; they name the repository itself as DVC_ROOT. Equal keys mean equal results, so two
    workers may share a place.
    """
    digest = hashlib.sha256(repr((key, torch.__version__)).encode())
    for source in sorted([*Path("src").rglob("*.py"), *Path("stages").glob("*.py")]):
        digest.update(source.read_bytes())
    root = os.environ.get("DVC_ROOT", ".")
    return Path(root, ".scratch", name, digest.hexdigest()[:16])
