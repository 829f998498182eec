"""Muon: momentum descent that makes every update of a weight matrix orthogonal first.

After Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". Unlike
torch.optim.Muon it also takes convolution kernels, as matrices of outputs by (inputs x positions).
It works on all matrices of a shape at once.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

# Of the quintic that drives singular values into [0.7, 1.2] in five rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, rounds: int = 5) -> Tensor:
    """About U V^T of each matrix U S V^T (N, rows, columns), by Newton-Schulz iteration.

    Computes in the type of `matrices`.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def matrix(weight: Tensor) -> Tensor:
    """Weights (outputs, inputs, ...) as a matrix (outputs, all the rest).

    Columns follow the order of channels-last memory. Any order would do.
    """
    return weight.movedim(1, -1).flatten(1)


class Muon(torch.optim.Optimizer):
    """For weights inside a network with at least two dimensions, (outputs, inputs, ...).

    Other weights want AdamW. The orthogonalisation computes in `dtype`. `lr` is about the spectral
    norm of an update of a wide matrix; for a tall one it grows with the root of its proportions.
    Weight decay is decoupled, as in AdamW.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients, which every weight must have."""
        for group in self.param_groups:
            weights = group["params"]
            gradients = [weight.grad for weight in weights]
            momenta = [self._momentum(weight) for weight in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            directions = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            pairs_by_shape = defaultdict(list)
            for weight, direction in zip(weights, directions, strict=True):
                pairs_by_shape[weight.shape].append((weight, matrix(direction)))
            for pairs in pairs_by_shape.values():
                alike, matrices = zip(*pairs, strict=True)
                self._update(alike, matrices, group["lr"])

    def _update(self, weights: tuple[Tensor, ...], matrices: tuple[Tensor, ...], lr: float) -> None:
        """Move `weights` of one shape along `matrices`, made orthogonal."""
        updates = orthogonalised(torch.stack(matrices).to(self.dtype)).to(weights[0].dtype)
        scale = max(1, updates.shape[1] / updates.shape[2]) ** 0.5
        kernels = updates.view(-1, *weights[0].movedim(1, -1).shape).movedim(-1, 2)
        torch._foreach_add_(weights, list(kernels), alpha=-lr * scale)

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        """The weight's momentum, zero before the first step."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]
