"""The network: a U-Net from a noisy image, a timestep and a class to a tensor of the same shape.

It does not depend on the noise schedule or on the prediction. The design follows Ho et al. 2020
(DDPM), with the scale-and-shift conditioning of Dhariwal and Nichol 2021. A space-to-depth stem
lowers the resolution, which saves most of the work on a small CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """The settings of the network. The data set determines the first three."""

    image_size: int
    image_channels: int
    classes: int  # 0: unconditional
    patch_size: int
    base_channels: int
    multipliers: tuple[int, ...]
    res_blocks: int
    attention_resolutions: tuple[int, ...]
    heads: int
    dropout: float
    time_width: int

    @property
    def resolutions(self) -> list[int]:
        """Side length of the feature maps at each level, finest first.

        Raises ValueError unless patch_size * 2^(levels - 1) divides the image size.
        """
        factor = self.patch_size * 2 ** (len(self.multipliers) - 1)
        if self.image_size % factor:
            raise ValueError(
                f"multipliers, patch_size: images of {self.image_size}x{self.image_size} cannot be "
                f"divided by {factor} = patch_size * 2^(levels - 1). Shorten multipliers or change "
                f"patch_size"
            )
        side = self.image_size // self.patch_size
        return [side // 2**level for level in range(len(self.multipliers))]


def sinusoidal_embedding(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017).

    (B,) -> (B, width) float32.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def normalised(x: Tensor) -> Tensor:
    """Normalise each image of (B, C, H, W) to mean 0 and variance 1 over all its values.

    This is group norm (Wu and He 2018) with one group. A layer norm over channels-last memory
    computes it fastest on CPUs, above all in bfloat16.
    """
    last = x.permute(0, 2, 3, 1)
    return F.layer_norm(last, last.shape[1:]).permute(0, 3, 1, 2)


def zeroed(layer: nn.Module) -> nn.Module:
    """Set all parameters of `layer` to 0. A residual branch that ends in it starts at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """SiLU, conv, norm, scale and shift by the embedding, SiLU, dropout, conv; plus the input.

    (B, in_channels, H, W) and embedding (B, time_width) -> (B, out_channels, H, W). Only
    the output of the first convolution is normalised.
    """

    def __init__(self, in_channels: int, out_channels: int, time_width: int, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(time_width, 2 * out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(x))
        # (B, 2C) -> 2 x (B, C, 1, 1)
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, normalised(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """Self-attention among all positions of a feature map, plus the input: (B, C, H, W) -> same.

    Raises ValueError unless `heads` divides `channels`.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(
                f"heads: {heads} does not divide the {channels} channels at an attention level"
            )
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = normalised(x).permute(0, 2, 3, 1).reshape(B, H * W, C)
        qkv = self.qkv(tokens).view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # each (B, heads, H*W, C/heads)
        # Written out, because on CPUs the fused kernel has a slower backward pass in bfloat16.
        # Autocast is off, because it would compute in float32.
        with torch.autocast(x.device.type, enabled=False):
            attended = (q / math.sqrt(C // self.heads) @ k.transpose(-1, -2)).softmax(dim=-1) @ v
        out = self.out(attended.transpose(1, 2).reshape(B, H * W, C))
        return x + out.view(B, H, W, C).permute(0, 3, 1, 2)


class Block(nn.Module):
    """One residual block, then self-attention if `attention`."""

    def __init__(self, in_channels: int, out_channels: int, attention: bool, config: UNetConfig):
        super().__init__()
        self.block = ResidualBlock(in_channels, out_channels, config.time_width, config.dropout)
        self.attention = SelfAttention(out_channels, config.heads) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class UNet(nn.Module):
    """Noisy images (B, C, H, W), timesteps (B,) and classes (B,) or None -> (B, C, H, W).

    The class `config.classes` means "no class": label dropout trains it, guidance needs it.

    Each resolution in `attention_resolutions` has self-attention once: in its last block before
    downsampling, or in the middle block if it is the coarsest. More attention costs time and does
    not lower the loss.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths = [config.base_channels * m for m in config.multipliers]
        attends = [size in config.attention_resolutions for size in config.resolutions]
        stem_channels = config.image_channels * config.patch_size**2
        width = config.time_width

        self.time_embedding = nn.Sequential(
            nn.Linear(config.base_channels, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.class_embedding = nn.Embedding(config.classes + 1, width) if config.classes else None
        self.stem = nn.Conv2d(stem_channels, widths[0], 3, padding=1)

        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        channels = widths[0]
        skips = [channels]
        for i, out_channels in enumerate(widths):
            for block in range(config.res_blocks):
                last = block == config.res_blocks - 1 and i < len(widths) - 1
                self.down.append(Block(channels, out_channels, attends[i] and last, config))
                channels = out_channels
                skips.append(channels)
            if i < len(widths) - 1:
                self.downsample.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)

        self.middle = Block(channels, channels, attends[-1], config)

        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for i, out_channels in reversed(list(enumerate(widths))):
            for _ in range(config.res_blocks + 1):
                self.up.append(Block(channels + skips.pop(), out_channels, False, config))
                channels = out_channels
            if i > 0:
                self.upsample.append(nn.Conv2d(channels, channels, 3, padding=1))

        self.head = zeroed(nn.Conv2d(channels, stem_channels, 3, padding=1))

    def matrices(self) -> list[nn.Parameter]:
        """Kernels and matrices of hidden layers: all that see no pixels, timesteps or classes."""
        outside = [self.stem, self.head, self.time_embedding[0], self.class_embedding]
        others = {
            id(weight) for module in outside if module is not None for weight in module.parameters()
        }
        return [w for w in self.parameters() if w.ndim > 1 and id(w) not in others]

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        config, blocks = self.config, self.config.res_blocks
        last = len(config.multipliers) - 1
        h, skips, embedding = self.way_down(x, t, label)
        for i in range(last + 1):
            for block in self.up[i * (blocks + 1) : (i + 1) * (blocks + 1)]:
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
            if i < last:
                h = self.upsample[i](F.interpolate(h, scale_factor=2, mode="nearest"))

        return F.pixel_shuffle(self.head(F.silu(normalised(h))), config.patch_size)

    def way_down(
        self, x: Tensor, t: Tensor, label: Tensor | None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """The coarsest feature map, the maps for the way up, and the embedding."""
        config, blocks = self.config, self.config.res_blocks
        last = len(config.multipliers) - 1
        embedding = self.time_embedding(sinusoidal_embedding(t, config.base_channels))
        if self.class_embedding is not None:
            if label is None:
                label = torch.full_like(t, config.classes)
            embedding = embedding + self.class_embedding(label)
        embedding = F.silu(embedding)

        # (B, C, H, W) -> (B, C p^2, H/p, W/p) -> (B, width, H/p, W/p)
        h = self.stem(F.pixel_unshuffle(x, config.patch_size))
        skips = [h]
        for i in range(last + 1):
            for block in self.down[i * blocks : (i + 1) * blocks]:
                h = block(h, embedding)
                skips.append(h)
            if i < last:
                h = self.downsample[i](h)
                skips.append(h)
        return self.middle(h, embedding), skips, embedding
