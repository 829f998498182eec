"""Networks that were trained elsewhere, and the moments of their features.

Each gives a Frechet distance. Its name in params.yaml is its key in the section `fid`, and the name
of its files in reference/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..common import device
from ..common.errors import UserError
from . import efficientnet, inception
from .frechet import Moments, MomentSums

Mode = Literal["auto", "always", "never"]
BLOCK = 1000  # rows of features at a time: sums of few rows take long
SHOWN_FROM = 5000  # images; fewer show no progress bar


@dataclass(frozen=True)
class Extractor:
    """A network that turns uint8 images (B, C, H, W), C 1 or 3, into features (B, dims) float32."""

    name: str  # in params.yaml, and of the files in reference/
    metric: str  # the name of its Frechet distance
    dims: int
    images_per_second: int  # on two CPU cores; for the estimate in a message
    slow: bool  # so slow that mode "auto" leaves it out on a CPU
    batch_size: int | None  # images at a time; None: fid.batch_size
    saved_as: type[np.floating]  # of the covariance in a file
    load: Callable[[], nn.Module]
    fetch: Callable[[], str]  # gets and checks the weights; returns their sha256

    def weights_hash(self) -> str:
        """First 12 hex digits of the weights' sha256, for the metrics."""
        return self.fetch()[:12]


IMAGENET = Extractor(
    name="imagenet",
    metric="fd_imagenet",
    dims=efficientnet.DIMS,
    images_per_second=200,
    slow=False,
    batch_size=efficientnet.BATCH_SIZE,
    saved_as=np.float32,  # half the size; changes the distance by 2e-6
    load=efficientnet.load,
    fetch=efficientnet.check_weights,
)
INCEPTION = Extractor(
    name="inception",
    metric="fid",
    dims=inception.DIMS,
    images_per_second=17,
    slow=True,
    batch_size=None,
    saved_as=np.float64,
    load=inception.load,
    fetch=inception.fetch_weights,
)
EXTRACTORS = (IMAGENET, INCEPTION)


@dataclass(frozen=True)
class Decision:
    """Whether to compute features, and why or why not."""

    compute: bool
    why: str


def decide(extractor: Extractor, mode: Mode, ready_made: bool, images: int) -> Decision:
    """Decide whether to compute features. If so, fetch the weights if missing.

    `mode` is the extractor's value in params.yaml, `ready_made` says whether moments of the real
    images exist, and `images` is the number of images to process. Raises UserError if `mode` is
    "always" and the weights are missing.
    """
    key = f"fid.{extractor.name}"
    if mode == "never":
        return Decision(False, f"{key} is never")
    if mode == "auto" and extractor.slow and not ready_made and not torch.cuda.is_available():
        minutes = images / extractor.images_per_second / 60
        return Decision(
            False,
            f"there is no GPU, and {extractor.name.capitalize()} would take about {minutes:.0f} "
            f"minutes for {images} images on a two-core CPU. `dvc exp run -S {key}=always` "
            f"measures it anyway; with fid.statistics it skips the training images",
        )
    try:
        extractor.fetch()
    except UserError as error:
        if mode == "always":
            raise
        return Decision(
            False,
            f"{error}. Then run `dvc repro --single-item --force reference fid`, "
            f"since DVC does not track the weights",
        )
    return Decision(True, f"weights of {extractor.name} are present")


class LoadedExtractor:
    """An extractor's network on the best device, and sums of features."""

    def __init__(
        self, extractor: Extractor, batch_size: int = 50, network: nn.Module | None = None
    ):
        """`batch_size` is fid.batch_size, `network` the loaded one (default: the extractor's).

        Raises UserError if the weights are missing.
        """
        self.extractor = extractor
        self.batch_size = extractor.batch_size or batch_size
        self.network = network or extractor.load().to(device.best())

    def batches(self, images: Tensor, chosen: Tensor | None = None) -> Iterator[Tensor]:
        """Yield features (B, dims) float32 of uint8 images (N, C, H, W), on the CPU.

        B is about BLOCK, whatever the network gets at a time. `chosen` (M,) int64 has the positions
        of the images to use (default: all).
        """
        positions = torch.arange(len(images)) if chosen is None else chosen
        at = next(self.network.parameters()).device
        for block in positions.split(BLOCK):
            with torch.inference_mode():
                parts = [images[part].to(at) for part in block.split(self.batch_size)]
                features = torch.cat([self.network(part).cpu() for part in parts])
            yield features

    def features(self, images: Tensor, chosen: Tensor | None = None) -> Tensor:
        """The features (N, dims) of uint8 images, all in memory; `chosen` as in `batches`."""
        return self._joined(list(self.batches(images, chosen)))

    def add(
        self, sums: MomentSums, images: Tensor, chosen: Tensor | None = None, keep: int = 0
    ) -> Tensor:
        """Add the features of uint8 images to `sums`; `chosen` as in `batches`.

        Returns the features of the first `keep` images. Shows a bar if there are many.
        """
        kept = []
        count = len(images) if chosen is None else len(chosen)
        name, hidden = self.extractor.name, count < SHOWN_FROM
        with tqdm(desc=name, unit="image", total=count, disable=hidden) as bar:
            for features in self.batches(images, chosen):
                sums.add(features.numpy())
                kept.append(features[:keep])
                keep = max(0, keep - len(features))
                bar.update(len(features))
        return self._joined(kept)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts) if parts else torch.empty(0, self.extractor.dims)

    def moments(self, images: Tensor) -> Moments:
        """Moments of the features of uint8 images (N, C, H, W)."""
        sums = MomentSums()
        for features in self.batches(images):
            sums.add(features.numpy())
        return sums.moments()
