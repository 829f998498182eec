"""Bits per dimension: the variational bound on the negative log-likelihood of images.

It has the same meaning for every schedule and prediction, unlike the training loss. Smaller steps
in log-SNR make it tighter. Near its clean end the flow schedule has large steps, at log-SNRs that
other schedules do not reach. So all begin at CLEANEST, where the noise decides grey levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.dataset import to_float
from ..common.randomness import generator
from ..diffusion.denoiser import Denoiser
from ..diffusion.schedule import Schedule

# The bound decodes grey levels from the first timestep with at most this log-SNR: t = 0 of the
# linear and cosine schedules with 1,000 timesteps.
CLEANEST = 10.1


@dataclass(frozen=True)
class Bound:
    """The terms of the bound in bits per dimension, each a mean over images; lower is better."""

    prior: float  # from the signal that is left at t = T - 1
    diffusion: float  # from the steps between, which depend on the network
    reconstruction: float  # from decoding x_t at the first timestep to 256 grey levels
    standard_error: float  # of the total, over images and random timesteps

    @property
    def total(self) -> float:
        return self.prior + self.diffusion + self.reconstruction


@torch.inference_mode()
def bits_per_dim(
    denoiser: Denoiser, images: Tensor, labels: Tensor | None, seed: int, batch_size: int = 500
) -> Bound:
    """The bound (DDPM, eq. 5) for uint8 images (N, C, H, W), labels int64 (N,) or None.

    The first timestep is that of CLEANEST. Each image is used at one later timestep, with one
    timestep in each of N equal ranges. The reverse step has the variance of the posterior. So a
    step from t to t - 1 costs

        (SNR(t - 1) - SNR(t)) |x0 - predicted x0|^2 / 2 nats

    (Kingma et al. 2021, "Variational diffusion models", eq. 13). Predictions are clipped to
    [-1 - margin, 1]. The last step decodes each value separately: p(x | z) is proportional to
    q(z | x) over the 256 grey levels, where z is x_t at the first timestep (eq. 8 there).
    """
    denoiser.eval()
    device = next(denoiser.parameters()).device
    labels = labels if denoiser.conditional else None
    schedule, T, N = denoiser.schedule, len(denoiser.schedule), len(images)
    first = first_timestep(schedule)
    steps = T - 1 - first
    random = generator(seed, "bound")
    order = torch.randperm(N, generator=random)
    u = (order + torch.rand(N, generator=random, dtype=torch.float64)) / N
    t = (first + 1 + u * steps).long()
    squared_errors = []
    for part in torch.arange(N).split(batch_size):
        x0 = denoiser.encode(to_float(images[part]))
        x_t = schedule.add_noise(x0, torch.randn(x0.shape, generator=random), t[part])
        x_t = x_t.to(device, memory_format=torch.channels_last)
        label = labels[part].to(device) if labels is not None else None
        predicted = denoiser.clip(denoiser.predict_x0(x_t, t[part].to(device), label)).cpu()
        squared_errors.append((x0 - predicted).double().square().sum(dim=(1, 2, 3)))
    snr = schedule.log_snr.exp()
    diffusion = steps * (snr[t - 1] - snr[t]) / 2 * torch.cat(squared_errors)
    prior = prior_nats(denoiser, images)
    signal_to_noise = float(schedule.alpha[first] / schedule.sigma[first])
    margin = denoiser.config.margin
    reconstruction = reconstruction_nats(signal_to_noise, images, random, margin)
    total = prior + diffusion + reconstruction
    unit = 1 / (math.log(2) * images[0].numel())
    return Bound(
        prior=float(prior.mean() * unit),
        diffusion=float(diffusion.mean() * unit),
        reconstruction=float(reconstruction.mean() * unit),
        standard_error=float(total.std() / N**0.5 * unit),
    )


def first_timestep(schedule: Schedule) -> int:
    """The timestep with the most signal up to CLEANEST, but not the last one."""
    return min(int((schedule.log_snr > CLEANEST).sum()), len(schedule) - 2)


def prior_nats(denoiser: Denoiser, images: Tensor) -> Tensor:
    """KL divergence from q(x_T | x0) to the standard normal, per image: (N,) float64.

    images (N, C, H, W) uint8. Per value it is (alpha^2 x0^2 + sigma^2 - 1 - log sigma^2) / 2.
    """
    schedule, parts = denoiser.schedule, images.split(100)
    encoded = (denoiser.encode(to_float(part)).double() for part in parts)
    energy = torch.cat([part.square().sum(dim=(1, 2, 3)) for part in encoded])
    log_variance = 2 * torch.log1p(schedule.sigma[-1] - 1)
    excess = torch.expm1(log_variance) - log_variance  # sigma^2 - 1 - log sigma^2
    return (schedule.alpha[-1] ** 2 * energy + images[0].numel() * excess) / 2


def reconstruction_nats(
    signal_to_noise: float, images: Tensor, random: torch.Generator, margin: float = 0.0
) -> Tensor:
    """Cost of the exact grey levels given x_t with this alpha / sigma, per image: (N,) float64.

    images (N, C, H, W) uint8. `margin` is that of Denoiser.encode.
    """
    noise_level = 1 / signal_to_noise * 127.5  # in grey levels
    grey_levels = torch.arange(256, dtype=torch.float64)
    grey_levels[0] -= margin * 127.5
    # Each value of a part takes 256 float64 values of memory, so parts are small. A small tensor
    # kept from each part would stop malloc from using the memory of the part again.
    size = max(1, 2**14 // images[0].numel())
    nats = torch.empty(len(images), dtype=torch.float64)
    for part, result in zip(images.split(size), nats.split(size), strict=True):
        noise = torch.randn(part.shape, generator=random, dtype=torch.float64)
        noisy = grey_levels[part.long()] + noise_level * noise
        logits = -((noisy[..., None] - grey_levels) ** 2) / (2 * noise_level**2)
        log_p = logits.log_softmax(-1).gather(-1, part.long()[..., None])
        result.copy_(-log_p.sum(dim=(1, 2, 3, 4)))
    return nats
