"""Every random number's origin: a generator that follows from a seed and from what it is for, never from what ran before."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *key: str | int) -> int:
    """A 63-bit seed that follows from `seed` and `key` (purpose, step, image number ...), different for each."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *key: str | int) -> torch.Generator:
    """A CPU generator for one purpose, such as generator(seed, "noise", step). The same on every device."""
    return torch.Generator().manual_seed(derive(seed, *key))
