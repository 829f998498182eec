"""pytorch-fid's Inception network: where its weights are, whether to use it, and its features.

The network is pytorch-fid's own, so that `fid` means what its command prints. Loading is ours: the weights are checked
against the hash in their name before they are read, and read without unpickling code. So is the order of the arithmetic:
the same sums with less work.
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

from src import torchvision_remedy  # noqa: F401 (before pytorch_fid, which imports torchvision)
from src.common.errors import UserError
from src.frechet import Moments, MomentSums

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
    """Where pytorch-fid keeps the weights, too: below TORCH_HOME."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(pytorch_fid_inception.FID_WEIGHTS_URL).name


def decide(mode: str, ready_made: bool, images: int) -> Decision:
    """`mode` is fid.inception; `ready_made`: a statistics file is named; `images`: how many it would have to see.

    Fetches the weights where they are wanted and missing. Raises UserError if the mode is "always" and they cannot be had.
    """
    if mode == "never":
        return Decision(False, "fid.inception is never")
    if mode == "auto" and not ready_made and not torch.cuda.is_available():
        minutes = images / CPU_IMAGES_PER_SECOND / 60
        return Decision(
            False,
            f"no GPU, and {images} images through Inception would take about {minutes:.0f} minutes on a two-core CPU; "
            f"`dvc exp run -S fid.inception=always` does it all the same (fid.statistics saves the training images' part)",
        )
    try:
        fetch_weights()
    except UserError as error:
        if mode == "always":
            raise
        return Decision(False, f"{error}; then `dvc repro --force reference fid`, since DVC does not track those weights")
    return Decision(True, f"Inception weights at {weights_path()}")


def fetch_weights() -> None:
    """See that the weights are there and are the right ones. Raises UserError otherwise."""
    path = weights_path()
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(pytorch_fid_inception.FID_WEIGHTS_URL, str(path), hash_prefix=SHA256_PREFIX)
        except (OSError, URLError, RuntimeError) as error:
            raise UserError(
                f"{path}: Inception weights missing, and fetching them failed ({error}); put the file there by hand (from "
                f"{pytorch_fid_inception.FID_WEIGHTS_URL}), or set fid.inception to never"
            ) from None
    found = weights_hash()
    if not found.startswith(SHA256_PREFIX):
        raise UserError(f"{path}: expected a sha256 that starts with {SHA256_PREFIX}, found {found}; delete it to fetch it anew")


def weights_hash() -> str:
    """First 12 hex digits of the weights' sha256."""
    return hashlib.sha256(weights_path().read_bytes()).hexdigest()[:12]


class Features(nn.Module):
    """pytorch-fid's InceptionV3 with the same sums done in less work: equal features to rounding.

    Each batch norm is folded into its convolution and the scaling to [-1, 1] into the first one, which looks at one
    channel where all three are equal; memory is channels-last.
    """

    def __init__(self, network: pytorch_fid_inception.InceptionV3):
        super().__init__()
        for module in network.modules():
            if isinstance(module, BasicConv2d):
                module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
        first, *rest = (layer for block in network.blocks for layer in block)
        self.stride = first.conv.stride
        self.kernel = nn.Parameter(2 * first.conv.weight)  # conv(2x - 1) = 2 conv(x) - conv(1); there is no padding
        self.bias = nn.Parameter(first.conv.bias - first.conv.weight.sum(dim=(1, 2, 3)))
        self.rest = nn.Sequential(*rest)
        self.to(memory_format=torch.channels_last).requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, dims) float32 of uint8 images (B, C, H, W), C 1 or 3; grey is RGB with equal channels."""
        grey = bool((images == images[:, :1]).all())
        x = (images[:, :1] if grey else images).float() / 255
        kernel = self.kernel.sum(dim=1, keepdim=True) if grey else self.kernel
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        x = F.conv2d(x.contiguous(memory_format=torch.channels_last), kernel, self.bias, self.stride).relu_()
        return self.rest(x).mean(dim=(2, 3))  # pooled already at 2048: (B, dims, 1, 1) -> (B, dims)


def load(dims: int = DIMS) -> Features:
    """The network up to its layer of `dims` (64, 192, 768 or 2048) features, in evaluation mode on the CPU."""
    fetch_weights()
    try:
        weights = torch.load(weights_path(), map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base for what a bad file raises
        raise UserError(f"{weights_path()}: cannot be read ({error}); delete it to fetch it anew") from None
    with mock.patch.object(pytorch_fid_inception, "load_state_dict_from_url", lambda *args, **kwargs: weights):
        network = pytorch_fid_inception.InceptionV3([pytorch_fid_inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]])
    return Features(network.eval())


@torch.inference_mode()
def add(sums: MomentSums, network: Features, images: Tensor, batch_size: int) -> None:
    """Take the features of uint8 images (N, C, H, W), C 1 or 3, into `sums`, at most `batch_size` of them at a time."""
    device = next(network.parameters()).device
    for batch in images.split(batch_size):
        sums.add(network(batch.to(device)).cpu().numpy())


def moments(
    network: Features, images: Tensor, batch_size: int, sums: MomentSums | None = None, chosen: Tensor | None = None
) -> Moments:
    """Moments of the features of such images, or of those at the positions `chosen` (M,) int64, together with those that
    `sums` had seen before."""
    sums = sums or MomentSums()
    chosen = torch.arange(len(images)) if chosen is None else chosen
    for part in tqdm(chosen.split(batch_size), desc="Inception", unit="batch"):
        add(sums, network, images[part], batch_size)
    return sums.moments()
