"""The batch of every optimiser step: a pure function of (seed, step)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..common.dataset import to_float
from ..common.randomness import generator
from ..diffusion.times import Times
from ..params import Train


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, count: int) -> Tensor:
    """The order of the `count` images in an epoch: (count,) int64."""
    return torch.randperm(count, generator=generator(seed, "epoch", epoch))


class Batches(Dataset):
    """Item k is the whole batch of optimiser step k, the same in every process.

    Images are uint8 (N, C, H, W), labels int64 (N,) or None. Each epoch is a new permutation. A
    batch can span epochs, so every image is used equally often with any batch size.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        classes: int,
        settings: Train,
        label_dropout: float,
        times: Times,
        seed: int,
    ):
        self.images, self.labels = images, labels
        self.no_class = classes
        self.settings = settings
        self.label_dropout, self.times = label_dropout, times
        self.seed = seed

    def indices(self, step: int) -> Tensor:
        """Positions of the images in the batch of this step: (B,) int64."""
        size, count = self.settings.batch_size, len(self.images)
        first = step * size
        epochs = range(first // count, (first + size - 1) // count + 1)
        start = first - epochs[0] * count
        order = torch.cat([permutation(self.seed, epoch, count) for epoch in epochs])
        return order[start : start + size]

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """The batch of this step: x0, eps, time, and label if there are labels.

        x0 and eps are (B, C, H, W) float32, time (B,) float32 in [0, 1], a share of the timesteps.
        label is (B,) int64; the number of classes stands for "no class".
        """
        random = generator(self.seed, "batch", step)
        chosen = self.indices(step)
        x0 = to_float(self.images[chosen])
        x0 = augment(x0, self.settings.augment_rotation, self.settings.augment_shift, random)
        # One t from each of B equal ranges of [0, 1) gives less noise in the gradient (Kingma et
        # al. 2021, appendix I.1).
        u = (torch.arange(len(x0)) + torch.rand(len(x0), generator=random)) / len(x0)
        eps = torch.randn(x0.shape, generator=random)
        batch = {"x0": x0, "eps": eps, "time": self.times.quantile(u)}
        if self.labels is not None:
            dropped = torch.rand(len(x0), generator=random) < self.label_dropout
            batch["label"] = self.labels[chosen].masked_fill(dropped, self.no_class)
        return batch


def augment(images: Tensor, rotation: float, shift: float, random: torch.Generator) -> Tensor:
    """Rotate each image by at most `rotation` degrees and shift it by at most `shift` pixels.

    images (B, C, H, W) float32 in [-1, 1]. Never flips. Fills empty pixels with background, -1.
    """
    if not rotation and not shift:
        return images
    B, _, H, W = images.shape
    uniform = torch.rand(B, 3, generator=random) * 2 - 1
    angle = uniform[:, 0] * math.radians(rotation)
    # The unit of affine_grid is half an image side.
    offset = uniform[:, 1:] * shift * 2 / torch.tensor([W, H])
    rotated = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
    theta = torch.cat([rotated.view(B, 2, 2), offset[:, :, None]], dim=2)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1
