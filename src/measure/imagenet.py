"""Kernel distance in features of EfficientNet: for fewer images than fd_imagenet needs.

A thousand images have no covariance of 1,280 features, but a kernel distance without bias.
"""

from __future__ import annotations

from torch import Tensor

from .extractors import IMAGENET, LoadedExtractor
from .kernel import KernelDistance
from .reference import Features
from .scores import floor_of_sets


class Imagenet:
    """Computes kid_imagenet; None if fd_imagenet is not measured."""

    def __init__(self, real: Features):
        self.heldout = real.imagenet_heldout
        self.network, self.kernel = None, None
        if len(real.imagenet_train) > 1:
            self.network = LoadedExtractor(IMAGENET)
            self.kernel = KernelDistance(real.imagenet_train)

    def distance(self, images: Tensor) -> float | None:
        """kid_imagenet of uint8 images (N, C, H, W), N at least 2."""
        if self.network is None or self.kernel is None:
            return None
        return self.kernel.distance(self.network.features(images))

    def floors(self, size: int) -> dict[str, float | None]:
        """Mean and standard deviation of kid_imagenet of sets of `size` held-out images."""
        mean, deviation = None, None
        if self.kernel is not None:
            _, mean, deviation = floor_of_sets(self.heldout, self.kernel.distance, size)
        return {
            "kid_imagenet_floor_heldout": mean,
            "kid_imagenet_floor_heldout_sd": deviation,
        }
