"""The processes that share one computation: which of them this is, and what they tell each other.

One, unless a launcher such as `torchrun` started several; then accelerate connects them, by NCCL between GPUs and by gloo
between CPUs. Knows nothing of what is computed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from src.common import device
from src.common.errors import UserError


class Processes:
    """All calls are collective: every process makes the same ones in the same order. Of a single process they do nothing.

    Raises UserError where another process has ended before its time.
    """

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.count > 1:
            from accelerate import PartialState  # takes a second to import

            PartialState(cpu=not torch.cuda.is_available())

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks to the user."""
        return self.rank == 0

    def mine(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """This process's share of a batch of tensors (B, ...), equal where `count` divides B."""
        return {name: value.chunk(self.count)[self.rank] for name, value in batch.items()}

    def average(self, tensors: list[Tensor]) -> None:
        """Replace floating-point tensors, of one type and device, by their means over the processes."""
        if self.count > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            with _together():
                torch.distributed.all_reduce(flat)
            flat /= self.count
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.count == 1:
            return value
        found = torch.tensor(value, device=device.best())
        with _together():
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found)

    def gathered(self, value: object) -> list:
        """The processes' values, of kinds that JSON has, in order of rank."""
        if self.count == 1:
            return [value]
        own = json.dumps(value).encode().ljust(self.largest(len(json.dumps(value))))
        found = [torch.empty(len(own), dtype=torch.uint8, device=device.best()) for _ in range(self.count)]
        with _together():
            torch.distributed.all_gather(found, torch.frombuffer(bytearray(own), dtype=torch.uint8).to(device.best()))
        return [json.loads(bytes(some.tolist())) for some in found]

    def wait(self) -> None:
        """Until all processes are here."""
        self.gathered(None)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of which torch's DistBackendError is one
        raise UserError(
            f"another process of this run has ended or cannot be reached ({str(error).splitlines()[0]}); see above for its own "
            f"message; `dvc repro` goes on from the last checkpoint"
        ) from None
