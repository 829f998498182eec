"""The processes that share one computation: their ranks, and the values that they exchange.

There is one process unless a launcher such as `torchrun` starts several. Then accelerate connects
them, with NCCL between GPUs and with gloo between CPUs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import device
from .errors import UserError


class Processes:
    """Connects this process with the others of the same run.

    `average`, `largest`, `gathered` and `wait` are collective: every process must call them in
    the same order. They raise UserError if another process has ended. A single process gets its
    own values back.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        if self.count > 1:
            from accelerate import PartialState  # takes a second to import

            PartialState(cpu=not torch.cuda.is_available())

    @property
    def first(self) -> bool:
        """Whether this process writes the files and prints the messages."""
        return self.rank == 0

    def share(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """This process's share of tensors (B, ...). All shares are equal if `count` divides B."""
        return {name: value.chunk(self.count)[self.rank] for name, value in batch.items()}

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes.

        The tensors are floating-point and have one dtype and device.
        """
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _connected():
            torch.distributed.all_reduce(flat)
        flat /= self.count
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def largest(self, value: int) -> int:
        """The largest `value` among the processes."""
        if self.count == 1:
            return value
        maximum = torch.tensor(value, device=device.best())
        with _connected():
            torch.distributed.all_reduce(maximum, torch.distributed.ReduceOp.MAX)
        return int(maximum)

    def gathered(self, value: object) -> list:
        """The `value` (JSON) of every process, in order of rank."""
        if self.count == 1:
            return [value]
        encoded = json.dumps(value).encode()
        own = torch.frombuffer(
            bytearray(encoded.ljust(self.largest(len(encoded)))), dtype=torch.uint8
        ).to(device.best())
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        with _connected():
            torch.distributed.all_gather(everyone, own)
        return [json.loads(bytes(one.tolist())) for one in everyone]

    def wait(self) -> None:
        """Wait until every process calls this."""
        self.gathered(None)


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # includes torch's DistBackendError
        raise UserError(
            f"another process of this run has ended or cannot be reached "
            f"({str(error).splitlines()[0]}); see its message above; "
            f"`dvc repro` continues from the last checkpoint"
        ) from None
