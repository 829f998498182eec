"""Muon: gradient descent with momentum whose every update of a weight matrix is made orthogonal first.

After Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". Unlike torch.optim.Muon it takes
convolution kernels too, as matrices of outputs by (inputs x positions), and works on all matrices of a shape at once.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values into [0.7, 1.2] in five rounds


def orthogonalised(matrices: Tensor, rounds: int = 5) -> Tensor:
    """About U V^T of each matrix U S V^T: (N, rows, columns), by Newton-Schulz iteration in the matrices' own type."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def matrix(weight: Tensor) -> Tensor:
    """Weights (outputs, inputs, ...) as (outputs, all the rest), in the order of channels-last memory: any would do."""
    return weight.movedim(1, -1).flatten(1)


class Muon(torch.optim.Optimizer):
    """For weights of at least two dimensions, (outputs, inputs, ...), inside a network; others want AdamW.

    `dtype` is what the orthogonalisation computes in. `lr` is the spectral norm of an update of a wide matrix, about; a
    tall one's grows with the root of its proportions. Weight decay is decoupled, as in AdamW.
    """

    def __init__(
        self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients, which every weight must have."""
        for group in self.param_groups:
            weights = group["params"]
            gradients, momenta = [weight.grad for weight in weights], [self._momentum(weight) for weight in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            directions = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            alike = defaultdict(list)
            for weight, direction in zip(weights, directions, strict=True):
                alike[weight.shape].append((weight, matrix(direction)))
            for pairs in alike.values():
                weights, matrices = zip(*pairs, strict=True)
                updates = orthogonalised(torch.stack(matrices).to(self.dtype)).to(weights[0].dtype)
                scale = max(1, updates.shape[1] / updates.shape[2]) ** 0.5
                kernels = updates.view(-1, *weights[0].movedim(1, -1).shape).movedim(-1, 2)
                torch._foreach_add_(weights, list(kernels), alpha=-group["lr"] * scale)

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]
