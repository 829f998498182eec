"""How much the loss at each noise level counts in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .denoiser import Denoiser
from .unet import sinusoidal_embedding

WIDTH = 32  # of the embedding of t that the learned weight sees


class Weighting(nn.Module):
    """Weight the loss of each image: Denoiser.loss (B,) and t (B,) int64 -> (B,).

    The loss is the squared error of x0, times output_weight (`Denoiser.output_weight`). So

    uniform        weights the error of x0 by output_weight: SNR for epsilon, 1 for x0, SNR + 1 for
                   v where the variance is preserved, 1 / sigma^2 for velocity on the flow path
    min-snr GAMMA  weights the error of x0 by min(SNR, GAMMA), whatever the prediction (Hang et al.
                   2023)
    learned        divides the loss by its expected value e^u at each noise level. u is learned:
                   loss / e^u + u is least where e^u is the mean loss (Karras et al. 2024,
                   "Analyzing and improving the training dynamics", eq. 21)

    How often training sees each noise level (`Times`) weights it too. Raises ValueError for other
    names.
    """

    def __init__(self, name: str, denoiser: Denoiser):
        super().__init__()
        kind, gamma = parse(name)
        self.weights: Tensor | None = None
        self.log_loss: nn.Linear | None = None
        if kind == "min-snr":
            snr = denoiser.schedule.log_snr.exp()
            self.weights = (snr.clamp(max=gamma) / denoiser.output_weight).float()
        if kind == "learned":
            self.log_loss = nn.Linear(WIDTH, 1)
            nn.init.zeros_(self.log_loss.weight)
            nn.init.zeros_(self.log_loss.bias)

    def forward(self, loss: Tensor, t: Tensor) -> Tensor:
        if self.weights is not None:
            return loss * self.weights[t.cpu()].to(loss)
        if self.log_loss is not None:
            u = self.log_loss(sinusoidal_embedding(t, WIDTH)).squeeze(1)
            return loss * torch.exp(-u) + u
        return loss


def parse(name: str) -> tuple[str, float]:
    """The kind of weighting, and GAMMA if it has one. Raises ValueError."""
    kind, _, number = name.partition(" ")
    try:
        gamma = float(number) if number else 0.0
    except ValueError:
        gamma = -1.0
    if not (name in ("uniform", "learned") or (kind == "min-snr" and 0 < gamma < float("inf"))):
        raise ValueError(f'expected uniform, "min-snr GAMMA" or learned, found {name!r}')
    return kind, gamma
