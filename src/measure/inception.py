"""pytorch-fid's Inception network: its weights, whether to use it, and its features.

The network is pytorch-fid's own, so that `fid` has the meaning of that command's output. Loading is
ours: the weights are checked against the hash in their name, then read without unpickling code. The
order of the arithmetic is also ours: the same sums with less work.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

# The remedy must come before pytorch_fid, which imports torchvision.
from ..common import torchvision_remedy  # noqa: F401
from ..common.errors import UserError
from .frechet import Moments, MomentSums

from pytorch_fid import inception as pytorch_fid_inception  # isort: skip
from torchvision.models.inception import BasicConv2d  # isort: skip

DIMS = 2048
SHA256_PREFIX = "6726825d"
CPU_IMAGES_PER_SECOND = 17  # on two cores, for saying how long it would take


@dataclass(frozen=True)
class Decision:
    """Whether Inception features are computed, and the sentence that says why or why not."""

    compute: bool
    why: str


def weights_path() -> Path:
    """Path of the weights: where pytorch-fid keeps them, below TORCH_HOME."""
    name = Path(pytorch_fid_inception.FID_WEIGHTS_URL).name
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def decide(mode: str, ready_made: bool, images: int) -> Decision:
    """Decide whether to compute Inception features, and fetch missing weights if so.

    `mode` is fid.inception, `ready_made` says whether a statistics file is named, and `images` is
    the number of images to compute. Raises UserError if the mode is "always" and the weights are
    missing.
    """
    if mode == "never":
        return Decision(False, "fid.inception is never")
    if mode == "auto" and not ready_made and not torch.cuda.is_available():
        minutes = images / CPU_IMAGES_PER_SECOND / 60
        return Decision(
            False,
            f"no GPU, and {images} images through Inception would take about {minutes:.0f} minutes "
            f"on a two-core CPU; `dvc exp run -S fid.inception=always` does it all the same "
            f"(fid.statistics saves the training images' part)",
        )
    try:
        fetch_weights()
    except UserError as error:
        if mode == "always":
            raise
        return Decision(
            False,
            f"{error}; then `dvc repro --force reference fid`, "
            f"since DVC does not track those weights",
        )
    return Decision(True, f"Inception weights at {weights_path()}")


def fetch_weights() -> None:
    """Fetch the weights if they are missing, and check them.

    Raises UserError if they cannot be fetched or are not the expected ones.
    """
    path = weights_path()
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                pytorch_fid_inception.FID_WEIGHTS_URL, str(path), hash_prefix=SHA256_PREFIX
            )
        except (OSError, URLError, RuntimeError) as error:
            raise UserError(
                f"{path}: Inception weights missing, and fetching them failed ({error}); "
                f"put the file there by hand (from {pytorch_fid_inception.FID_WEIGHTS_URL}), "
                f"or set fid.inception to never"
            ) from None
    sha256 = weights_hash()
    if not sha256.startswith(SHA256_PREFIX):
        raise UserError(
            f"{path}: expected a sha256 that starts with {SHA256_PREFIX}, found {sha256}; "
            f"delete it to fetch it anew"
        )


def weights_hash() -> str:
    """First 12 hex digits of the weights' sha256."""
    return hashlib.sha256(weights_path().read_bytes()).hexdigest()[:12]


class Features(nn.Module):
    """pytorch-fid's InceptionV3 with less work: features are equal up to rounding.

    Each batch norm is folded into its convolution. The scaling to [-1, 1] is folded into the first
    convolution, which reads one channel where all three are equal. Memory is channels-last.
    """

    def __init__(self, network: pytorch_fid_inception.InceptionV3):
        super().__init__()
        for module in network.modules():
            if isinstance(module, BasicConv2d):
                module.conv = fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
        first, *rest = (layer for block in network.blocks for layer in block)
        self.stride = first.conv.stride
        # conv(2x - 1) = 2 conv(x) - conv(1); there is no padding.
        self.kernel = nn.Parameter(2 * first.conv.weight)
        self.bias = nn.Parameter(first.conv.bias - first.conv.weight.sum(dim=(1, 2, 3)))
        self.rest = nn.Sequential(*rest)
        self.to(memory_format=torch.channels_last).requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W), C 1 or 3 -> features (B, dims) float32.

        Grey images are treated as RGB with equal channels.
        """
        grey = bool((images == images[:, :1]).all())
        x = (images[:, :1] if grey else images).float() / 255
        kernel = self.kernel.sum(dim=1, keepdim=True) if grey else self.kernel
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, kernel, self.bias, self.stride).relu_()
        return self.rest(x).mean(dim=(2, 3))  # pooled already at 2048: (B, dims, 1, 1) -> (B, dims)


def load(dims: int = DIMS) -> Features:
    """The network up to its layer of `dims` (64, 192, 768 or 2048) features.

    In evaluation mode on the CPU. Raises UserError if the weights are missing or damaged.
    """
    fetch_weights()
    try:
        weights = torch.load(weights_path(), map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base for what a bad file raises
        raise UserError(
            f"{weights_path()}: cannot be read ({error}); delete it to fetch it anew"
        ) from None
    with mock.patch.object(
        pytorch_fid_inception, "load_state_dict_from_url", lambda *args, **kwargs: weights
    ):
        block = pytorch_fid_inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]
        network = pytorch_fid_inception.InceptionV3([block])
    return Features(network.eval())


@torch.inference_mode()
def add(sums: MomentSums, network: Features, images: Tensor, batch_size: int) -> None:
    """Add the features of uint8 images (N, C, H, W), C 1 or 3, to `sums`.

    The network gets at most `batch_size` images at a time.
    """
    device = next(network.parameters()).device
    for batch in images.split(batch_size):
        sums.add(network(batch.to(device)).cpu().numpy())


def moments(
    network: Features,
    images: Tensor,
    batch_size: int,
    sums: MomentSums | None = None,
    chosen: Tensor | None = None,
) -> Moments:
    """Moments of the features of uint8 images (N, C, H, W), C 1 or 3.

    `chosen` (M,) int64 has the positions of the images to take (default: all). `sums` has features
    of earlier images; they count too, and the new features are added to it.
    """
    sums = sums or MomentSums()
    chosen = torch.arange(len(images)) if chosen is None else chosen
    for part in tqdm(chosen.split(batch_size), desc="Inception", unit="batch"):
        add(sums, network, images[part], batch_size)
    return sums.moments()
