"""The held-out loss by noise level."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.dataset import to_float
from ..common.randomness import generator
from ..diffusion.denoiser import Denoiser


@torch.inference_mode()
def loss_by_noise_level(
    denoiser: Denoiser,
    images: Tensor,
    labels: Tensor | None,
    seed: int,
    levels: int = 10,
    limit: int = 2000,
    batch_size: int = 250,
) -> Tensor:
    """Held-out loss in `levels` equal ranges of t, least noise first: (levels,) float64.

    Their mean is the held-out loss. At most `limit` of the uint8 images (N, C, H, W) are used, each
    once, unless there are fewer than 10 * `levels`: then they repeat. Timesteps are spread evenly.
    `seed` fixes images, timesteps and noise, so all models get the same inputs. There are at most
    as many levels as timesteps. Leaves the denoiser in evaluation mode.
    """
    denoiser.eval()
    device = next(denoiser.parameters()).device
    T = len(denoiser.schedule)
    levels = min(levels, T)
    n = max(min(len(images), limit), 10 * levels)
    random = generator(seed, "heldout")
    # Draw at random: the first images may all have one class, or be neater than the rest.
    drawn = torch.randperm(len(images), generator=random)[:limit]
    chosen = drawn[torch.arange(n) % len(drawn)]
    t = ((torch.arange(n) + 0.5) / n * T).long()[torch.randperm(n, generator=random)]
    noise = torch.randn(n, *images.shape[1:], generator=random)
    losses = torch.empty(n, dtype=torch.float64)
    for part in torch.arange(n).split(batch_size):
        x0 = to_float(images[chosen[part]]).to(device, memory_format=torch.channels_last)
        label = None
        if denoiser.conditional and labels is not None:
            label = labels[chosen[part]].to(device)
        loss = denoiser.loss(x0, noise[part].to(device), t[part].to(device), label)
        losses[part] = loss.double().cpu()
    level = t * levels // T
    return torch.stack([losses[level == i].mean() for i in range(levels)])


def level_edges(levels: int, timesteps: int) -> list[int]:
    """The first timestep of each range, then the end of the last range: levels + 1 integers."""
    return [-(-i * timesteps // levels) for i in range(levels + 1)]
