"""Muon: gradient descent with momentum that orthogonalises the update of each weight matrix.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". Unlike
torch.optim.Muon it also accepts convolution kernels, as matrices (outputs, inputs x positions).
It updates all matrices of one shape at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import starmap

import torch
from torch import Tensor, nn

# a, b, c of s -> a s + b s^3 + c s^5, which moves singular values into [0.7, 1.2] in five rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Approximate U V^T for matrices U S V^T (N, rows, columns), by Newton-Schulz iteration.

    The result has the shape and dtype of `matrices`. All steps are computed in that dtype.
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
    """Weights (outputs, inputs, ...) as a matrix (outputs, inputs x positions).

    The columns follow channels-last memory order. Any order gives the same update.
    """
    return weight.movedim(1, -1).flatten(1)


class Muon(torch.optim.Optimizer):
    """Optimiser for hidden weights with two or more dimensions, (outputs, inputs, ...).

    Use AdamW for all other weights. The spectral norm of an update is about
    lr * sqrt(max(1, rows / columns)). The orthogonalisation computes in `dtype`. Weight decay is
    decoupled, as in AdamW. The matrices of a shape are updated in `parts`, by `starmap`.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
        parts: int = 1,
        starmap: Callable = starmap,
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype, self.parts, self.starmap = dtype, parts, starmap

    @torch.no_grad()
    def step(self) -> None:
        """Take one step. Every weight must have a gradient."""
        for group in self.param_groups:
            weights = group["params"]
            gradients = [weight.grad for weight in weights]
            momenta = [self._momentum(weight) for weight in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            directions = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            pairs_by_shape = defaultdict(list)
            for weight, direction in zip(weights, directions, strict=True):
                pairs_by_shape[weight.shape].append((weight, matrix(direction)))
            jobs = [
                (*zip(*pairs[part :: self.parts], strict=True), group["lr"])
                for pairs in pairs_by_shape.values()
                for part in range(min(self.parts, len(pairs)))
            ]
            list(self.starmap(self._update, jobs))

    @torch.no_grad()  # per thread
    def _update(self, weights: tuple[Tensor, ...], matrices: tuple[Tensor, ...], lr: float) -> None:
        """Orthogonalise `matrices` and subtract them from `weights`, which have one shape."""
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
