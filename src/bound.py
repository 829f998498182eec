"""How many bits the model needs per pixel value: the variational bound on the negative log-likelihood.

Unlike the training loss it means the same for every schedule and prediction, so that these can be compared by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from src.common.dataset import to_float
from src.common.randomness import generator
from src.diffusion.denoiser import Denoiser
from src.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Bound:
    """Bits per dimension (pixel and channel), each a mean over images; lower is better."""

    prior: float  # what is left of the image at t = T - 1
    diffusion: float  # all the steps between, where the network matters
    reconstruction: float  # from t = 0 to the 256 grey levels
    standard_error: float  # of their sum, over images and timesteps drawn

    @property
    def total(self) -> float:
        return self.prior + self.diffusion + self.reconstruction


@torch.inference_mode()
def bits_per_dim(denoiser: Denoiser, images: Tensor, labels: Tensor | None, seed: int, batch_size: int = 500) -> Bound:
    """The bound (DDPM, eq. 5) for uint8 images (N, C, H, W), each seen at one timestep: one from each of N equal ranges of them.

    A step from t to t - 1 costs (SNR(t - 1) - SNR(t)) |x0 - predicted x0|^2 / 2 nats, with the posterior's variance for the
    reverse one (Kingma et al. 2021, "Variational diffusion models", eq. 13); predictions are clipped to [-1, 1]. The last
    decodes each value by itself: p(x | x_0) proportional to q(x_0 | x) over the 256 grey levels (the same, eq. 8).
    """
    denoiser.eval()
    device, T, N = next(denoiser.parameters()).device, len(denoiser.schedule), len(images)
    random = generator(seed, "bound")
    u = (torch.randperm(N, generator=random) + torch.rand(N, generator=random, dtype=torch.float64)) / N
    t = (1 + u * (T - 1)).long()
    steps = []
    for part in torch.arange(N).split(batch_size):
        x0 = to_float(images[part])
        x_t = denoiser.schedule.add_noise(x0, torch.randn(x0.shape, generator=random), t[part])
        label = labels[part].to(device) if denoiser.conditional else None
        x_t = x_t.to(device, memory_format=torch.channels_last)
        predicted = denoiser.predict_x0(x_t, t[part].to(device), label).clamp(-1, 1).cpu()
        steps.append((x0 - predicted).double().square().sum(dim=(1, 2, 3)))
    snr = denoiser.schedule.log_snr.exp()
    diffusion = (T - 1) * (snr[t - 1] - snr[t]) / 2 * torch.cat(steps)
    prior, reconstruction = prior_nats(denoiser.schedule, images), reconstruction_nats(denoiser.schedule, images, random)
    unit = 1 / (math.log(2) * images[0].numel())
    total = prior + diffusion + reconstruction
    return Bound(
        prior=float(prior.mean() * unit), diffusion=float(diffusion.mean() * unit),
        reconstruction=float(reconstruction.mean() * unit), standard_error=float(total.std() / N**0.5 * unit),
    )


def prior_nats(schedule: Schedule, images: Tensor) -> Tensor:
    """KL divergence from q(x_T | x0) to the standard normal, for each uint8 image (N, C, H, W): (N,) float64."""
    alpha_bar = schedule.alpha_bar[-1]
    energy = torch.cat([to_float(part).double().square().sum(dim=(1, 2, 3)) for part in images.split(100)])
    return (alpha_bar * energy - images[0].numel() * (alpha_bar + torch.log1p(-alpha_bar))) / 2


def reconstruction_nats(schedule: Schedule, images: Tensor, random: torch.Generator) -> Tensor:
    """Cost of the exact grey levels given x_t at t = 0, for each uint8 image (N, C, H, W): (N,) float64."""
    level = math.sqrt((1 - schedule.alpha_bar[0]) / schedule.alpha_bar[0]) * 127.5  # noise in grey levels
    grey = torch.arange(256, dtype=torch.float64)
    found = []
    for part in images.split(max(1, 2**14 // images[0].numel())):  # takes 256 times their memory, in float64
        seen = part.double() + level * torch.randn(part.shape, generator=random, dtype=torch.float64)
        logits = -((seen[..., None] - grey) ** 2) / (2 * level**2)
        found.append(-logits.log_softmax(-1).gather(-1, part.long()[..., None]).sum(dim=(1, 2, 3, 4)))
    return torch.cat(found)
