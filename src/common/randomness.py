"""Random numbers that depend on a seed and a purpose, never on earlier random numbers."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive(seed: int, *key: str | int) -> int:
    """Derive a 63-bit seed from `seed` and `key` (purpose, step, image number ...)."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *key: str | int) -> torch.Generator:
    """A CPU generator for one purpose, such as generator(seed, "noise", step).

    It gives the same numbers on every device.
    """
    return torch.Generator().manual_seed(derive(seed, *key))


class ImageNoise:
    """Standard normal noise for the images with these `numbers`, counted from 1.

    Each call returns the next noise, (B, C, H, W) float32. The noise of image k depends only on
    (seed, k), not on the rest of the batch.
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
