"""pytorch-fid's Inception network: its weights and its features.

The network comes from pytorch-fid, so that `fid` equals the output of that command up to rounding.
The weights are checked against the hash in their file name, and read without unpickling code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..common.errors import UserError

if TYPE_CHECKING:
    from types import ModuleType

    from pytorch_fid.inception import InceptionV3

DIMS = 2048
# pytorch-fid states the first 8 digits, in the file's name. Several public projects that keep this
# file state all 64, and agree.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def pytorch_fid() -> ModuleType:
    """pytorch-fid's module `inception`. Few runs use it, and its import takes seconds."""
    from ..common import torchvision_remedy  # noqa: F401 (before pytorch_fid imports torchvision)

    from pytorch_fid import inception  # isort: skip

    return inception


def weights_path() -> Path:
    """Path of the weights, where pytorch-fid keeps them below TORCH_HOME."""
    name = Path(pytorch_fid().FID_WEIGHTS_URL).name
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def fetch_weights() -> str:
    """Fetch the weights if they are missing, and check them. Returns their sha256, in hex.

    Raises UserError if the download fails or the hash is wrong.
    """
    path, url = weights_path(), pytorch_fid().FID_WEIGHTS_URL
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=SHA256)
        except (OSError, URLError, RuntimeError) as error:
            raise UserError(
                f"{path}: Inception weights missing, and the download failed ({error}). "
                f"Download {url} to this path, "
                f"or set fid.inception to never"
            ) from None
    actual = weights_sha256()
    if actual != SHA256:
        raise UserError(
            f"{path}: expected the sha256 {SHA256}, found {actual}. "
            f"Delete the file to download it again"
        )
    return actual


def weights_sha256() -> str:
    return hashlib.sha256(weights_path().read_bytes()).hexdigest()


class Features(nn.Module):
    """pytorch-fid's InceptionV3 with less work. Its features are equal up to rounding.

    Each batch norm is folded into its convolution. The scaling to [-1, 1] is folded into the first
    convolution, which reads one channel if all three are equal. Memory is channels-last.
    """

    def __init__(self, network: InceptionV3):
        super().__init__()
        from torchvision.models.inception import BasicConv2d  # imported with `network` already

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
        """Features (B, dims) float32 of uint8 images (B, C, H, W), with C 1 or 3.

        Grey images are treated as RGB with equal channels.
        """
        grey = bool((images == images[:, :1]).all())
        x = (images[:, :1] if grey else images).float() / 255
        kernel = self.kernel.sum(dim=1, keepdim=True) if grey else self.kernel
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, kernel, self.bias, self.stride).relu_()
        return self.rest(x).mean(dim=(2, 3))  # for 2048 features H and W are 1 already


def load(dims: int = DIMS) -> Features:
    """The network up to its layer with `dims` features (64, 192, 768 or 2048).

    In evaluation mode on the CPU. Raises UserError if the weights are missing or damaged.
    """
    fetch_weights()
    try:
        weights = torch.load(weights_path(), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no base class for its errors
        raise UserError(
            f"{weights_path()}: cannot be read ({error}). Delete it to download it again"
        ) from None
    peer = pytorch_fid()
    with mock.patch.object(peer, "load_state_dict_from_url", lambda *args, **kwargs: weights):
        network = peer.InceptionV3([peer.InceptionV3.BLOCK_INDEX_BY_DIM[dims]])
    return Features(network.eval())
