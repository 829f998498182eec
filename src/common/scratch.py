"""The folder .scratch/ for unfinished work, which an interrupted run continues later.

DVC does not track it, and git ignores it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch


def place(name: str, key: list) -> Path:
    """Path for the unfinished work of `name` with this `key`. Equal keys give equal paths.

    `key` lists all values that the result depends on; their repr must show them exactly. The path
    also depends on the code and on torch's version, so a run never continues work of other code.
    Equal keys mean equal results, so two workers may share a path.

    `dvc exp run --temp` and the queue run in copies of the repository, which DVC deletes
    afterwards. DVC_ROOT is then the repository itself, so the work outlives the copy.
    """
    digest = hashlib.sha256(repr((key, torch.__version__)).encode())
    for source in sorted([*Path("src").rglob("*.py"), *Path("stages").glob("*.py")]):
        digest.update(source.read_bytes())
    root = os.environ.get("DVC_ROOT", ".")
    return Path(root, ".scratch", name, digest.hexdigest()[:16])
