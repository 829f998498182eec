"""Copies of a model, one or more cores for each: each computes the gradient of a part of a batch.

The work on small feature maps is too little to share among cores. OpenMP's threads also busy-wait
for each other: next to another busy process, a step whose work they share takes many times as long.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import starmap
from multiprocessing.pool import ThreadPool

import torch
from torch import Tensor, nn

LEAST_IMAGES = 16  # that a copy gets of each batch; fewer are slower


def replica_count(images: int, device: torch.device) -> int:
    """How many copies compute a batch of `images`: on a CPU at most one for each core, else one."""
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    return max(1, min(cores, images // LEAST_IMAGES))


class Replicas:
    """`model` and copies of it, which share PyTorch's threads. Use it as a context manager.

    `model` maps a batch, a dict of tensors (B, ...), to two losses: the one to differentiate, and
    the one to report. Both are means over the batch. Equal counts and threads give equal bits.
    """

    def __init__(self, model: nn.Module, count: int):
        self.models = [model, *(copy.deepcopy(model) for _ in range(count - 1))]
        self.threads = torch.get_num_threads()
        self.share = max(1, self.threads // count)  # threads of each
        self._pool: ThreadPool | None = None

    def __enter__(self) -> Replicas:
        count = len(self.models)
        if count > 1:
            self._pool = ThreadPool(count, torch.set_num_threads, (self.share,))
            torch.set_num_threads(
                self.threads
            )  # the pool's setting also changed one of the process
        for replica in self.models[1:]:  # the weights may have been loaded
            replica.load_state_dict(self.models[0].state_dict())
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool.join()
            torch.set_num_threads(self.threads)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within it, this thread has no more of PyTorch's threads than each copy has.

        At its end, the copies get the weights of the model.
        """
        if self._pool is None:
            yield
            return
        torch.set_num_threads(self.share)
        try:
            yield
            self.follow()
        finally:
            torch.set_num_threads(self.threads)

    def backward(self, batch: dict[str, Tensor], weight: float) -> float:
        """Add `weight` times the batch's gradient to that of `model`; returns the reported loss."""
        size = len(batch["x0"])
        parts = [value.chunk(len(self.models)) for value in batch.values()]
        batches = [dict(zip(batch, part, strict=True)) for part in zip(*parts, strict=True)]
        shares = [len(part["x0"]) / size for part in batches]
        jobs = [
            (model, part, weight * share)
            for model, part, share in zip(self.models, batches, shares, strict=False)
        ]
        losses = self.starmap(_backward, jobs)
        self._gather(len(jobs))
        return sum(loss * share for loss, share in zip(losses, shares, strict=True))

    def accumulate(self, batch: dict[str, Tensor], parts: int, device: torch.device) -> float:
        """`backward` for `parts` of a batch, one after another, on the device of the model."""
        total = 0.0
        for part in zip(*(value.chunk(parts) for value in batch.values()), strict=True):
            on_device = (value.to(device, non_blocking=True) for value in part)
            inputs = dict(zip(batch, on_device, strict=True))
            total += self.backward(inputs, 1 / parts) / parts
        return total

    def starmap(self, function: Callable, jobs: Iterable[tuple]) -> list:
        """[function(*job) for job in jobs], in the threads of the copies."""
        if self._pool is None:
            return list(starmap(function, jobs))
        return self._pool.starmap(function, jobs, chunksize=1)

    def _gather(self, used: int) -> None:
        """Add the gradients of the first `used` models to those of the first, in their order."""
        own = [weights.grad for weights in _trained(self.models[0])]
        for replica in self.models[1:used]:
            torch._foreach_add_(own, [weights.grad for weights in _trained(replica)])
            replica.zero_grad(set_to_none=True)

    @torch.no_grad()
    def follow(self) -> None:
        """Give the copies the weights of the model, of those that are being trained."""
        for replica in self.models[1:]:
            torch._foreach_copy_(_trained(replica), _trained(self.models[0]))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weights for weights in model.parameters() if weights.requires_grad]


def _backward(model: nn.Module, batch: dict[str, Tensor], weight: float) -> float:
    loss, reported = model(batch)
    (loss * weight).backward()
    return reported.item()
