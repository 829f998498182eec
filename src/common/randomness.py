"""Random numbers follow from a seed and a purpose, never from what ran before."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive(seed: int, *key: str | int) -> int:
    """A 63-bit seed from `seed` and `key` (purpose, step, image number ...)."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *key: str | int) -> torch.Generator:
    """A CPU generator for one purpose, such as generator(seed, "noise", step).

    It gives the same numbers on every device.
    """
    return torch.Generator().manual_seed(derive(seed, *key))


class ImageNoise:
    """Standard normal noise for images numbered from 1; image k's follows from (seed, k) alone.

    Each call returns the next (B, C, H, W) float32 draw, whatever else is in the batch.
    """

    def __init__(
        self,
        seed: int,
        numbers: range,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ):
        self.generators = [generator(seed, "image", k) for k in numbers]
        self.shape = shape
        self.device = device

    def __call__(self) -> Tensor:
        draws = [torch.randn(self.shape, generator=g) for g in self.generators]
        return torch.stack(draws).to(self.device, memory_format=torch.channels_last)
