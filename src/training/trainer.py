"""The training loop: optimiser, learning rate, weight average, and a state to resume from.

`Trainer.run` is a generator of steps; the caller logs, saves and draws. (seed, step) fixes all
randomness of a step, so a resumed run takes the same steps as an uninterrupted one.
"""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..common import device as devices
from ..common.errors import UserError
from ..common.processes import Processes
from ..common.randomness import derive
from ..diffusion.denoiser import Denoiser
from ..diffusion.times import DEFAULT_TIMES, Times
from ..diffusion.unet import UNet
from ..diffusion.weighting import Weighting
from ..params import Train
from .batches import Batches
from .muon import Muon
from .replicas import Replicas, replica_count

ADVICE = (
    "Try a lower train.lr and train.muon_lr, more train.warmup_steps, or a lower train.grad_clip"
)
BATCH_TIMEOUT = 300  # seconds for worker processes to prepare a batch


@dataclass(frozen=True)
class Step:
    """The result of one optimiser step; `step` counts from 1. `loss` is not weighted."""

    step: int
    loss: float
    lr: float
    grad_norm: float


def limited(settings: Train, count: int) -> Train:
    """`settings`, with no more steps than max_epochs passes over `count` images take."""
    most = math.ceil(settings.max_epochs * count / settings.batch_size)
    return settings.model_copy(update={"steps": min(settings.steps, most)})


def lr_factor(step: int, settings: Train) -> float:
    """Share of the peak learning rate at `step`, which counts from 0.

    It rises linearly during warmup_steps, but at most half of the steps. Then it falls linearly to
    zero one step after the last (Bergsma et al. 2025, "Straight to Zero").
    """
    warmup = min(settings.warmup_steps, settings.steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    return 1 - (step - warmup) / (settings.steps - warmup)


def times(denoiser: Denoiser, settings: Train) -> Times:
    """How training picks times; `auto` depends on the schedule."""
    name = settings.times
    return Times.named(DEFAULT_TIMES[denoiser.config.schedule.name] if name == "auto" else name)


def optimizers(
    weights: list[nn.Parameter],
    unet: UNet,
    settings: Train,
    precision: Literal["float32", "bfloat16"],
    replicas: Replicas,
) -> list[torch.optim.Optimizer]:
    """AdamW for all `weights`, or Muon for the matrices inside `unet` and AdamW for the others.

    Muon computes in `precision`, in the threads of `replicas`.
    """
    matrices = unet.matrices() if settings.muon_lr else []
    inside = {id(weight) for weight in matrices}
    others = [weight for weight in weights if id(weight) not in inside]
    decay = settings.weight_decay
    adamw = torch.optim.AdamW(others, lr=settings.lr, weight_decay=decay, fused=True)
    if not settings.muon_lr:
        return [adamw]
    muon = Muon(
        matrices,
        lr=settings.muon_lr,
        weight_decay=decay,
        dtype=getattr(torch, precision),
        parts=len(replicas.models),
        starmap=replicas.starmap,
    )
    return [adamw, muon]


def ema_decay(step: int, length: float) -> float:
    """Decay of the weight average after `step` steps: it spans about length * step of them.

    In a long run this is the power-function average of Karras et al. 2024, "Analyzing and improving
    the training dynamics of diffusion models", with gamma + 1 = 1 / length.
    """
    return 1 - 1 / (1 + length * step)


@torch.no_grad()
def average(averaged: nn.Module, current: nn.Module, step: int, length: float) -> None:
    """Move the averaged weights towards the current ones, after `step` steps."""
    pairs = [list(model.parameters()) for model in (averaged, current)]
    torch._foreach_lerp_(*pairs, 1 - ema_decay(step, length))


def ignore_signals(worker: int) -> None:
    """Make a data-loading process ignore SIGINT and SIGTERM.

    Ctrl-C reaches these processes too, but training still needs the batch of the current step.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Losses(nn.Module):
    """The weighted loss of a batch, and the loss itself: both means over the images."""

    def __init__(self, denoiser: Denoiser, weighting: Weighting):
        super().__init__()
        self.denoiser, self.weighting = denoiser, weighting

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x0 = batch["x0"].contiguous(memory_format=torch.channels_last)
        losses = self.denoiser.loss(x0, batch["eps"], batch["t"], batch.get("label"))
        return self.weighting(losses, batch["t"]).mean(), losses.mean()


class Trainer:
    """Train `denoiser` in place; `averaged` has the averaged weights, to evaluate and save.

    Without EMA both are the same object. Each of several `processes` takes its share of every
    batch, and all get the same weights. Images are uint8 (N, C, H, W), labels int64 (N,) or None.
    `losses` of `denoiser` may replace those of training: see Replicas. `advice` is the way out if
    training diverges.

    Raises UserError if batch_size is no multiple of accumulation times the number of processes.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        images: Tensor,
        labels: Tensor | None,
        settings: Train,
        seed: int,
        device: torch.device | str,
        processes: Processes | None = None,
        losses: nn.Module | None = None,
        advice: str = ADVICE,
    ):
        self.processes = processes or Processes()
        shares = self.processes.count * settings.accumulation
        if settings.batch_size % shares:
            raise UserError(
                f"train.batch_size: expected a multiple of {shares} (train.accumulation times the "
                f"{self.processes.count} processes), got {settings.batch_size}"
            )
        self.device = torch.device(device)
        self.denoiser = denoiser.to(self.device)
        self.denoiser.precision = devices.precision(settings.precision, self.device)
        self.averaged = denoiser
        if settings.ema:
            self.averaged = copy.deepcopy(denoiser).eval().requires_grad_(False)
        self.settings, self.seed, self.advice = settings, seed, advice
        self.batches = Batches(
            images,
            labels if denoiser.conditional else None,
            denoiser.config.unet.classes,
            settings,
            denoiser.config.label_dropout,
            times(denoiser, settings),
            seed,
        )
        self.weighting = Weighting(settings.weighting, denoiser).to(self.device)
        losses = losses or _Losses(denoiser, self.weighting)
        self.replicas = Replicas(losses, self._replica_count())
        weights = [*denoiser.parameters(), *self.weighting.parameters()]
        precision = self.denoiser.precision
        self.optimizers = optimizers(weights, denoiser.unet, settings, precision, self.replicas)
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.step = 0

    def _replica_count(self) -> int:
        """How many copies compute a batch. Dropout draws from one generator, so it takes one."""
        if self.denoiser.config.unet.dropout:
            return 1
        images = self.settings.batch_size // self.processes.count // self.settings.accumulation
        return replica_count(images, self.device)

    def run(self) -> Iterator[Step]:
        """Take the remaining steps and yield each.

        Raises UserError if the loss or the gradient is not finite, or if workers fail.
        """
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.step, self.settings.steps),
            num_workers=self.settings.workers,
            pin_memory=self.device.type == "cuda",
            timeout=BATCH_TIMEOUT if self.settings.workers else 0,
            worker_init_fn=ignore_signals,
        )
        with self.replicas:
            for batch in self._loaded(loader):
                with self.replicas.step():
                    result = self._take(batch)
                yield result

    def _loaded(self, loader: DataLoader) -> Iterator[dict[str, Tensor]]:
        """Yield the loader's batches. Raises UserError if its worker processes fail."""
        try:
            yield from loader
        except (OSError, RuntimeError) as error:
            if not self.settings.workers:
                raise
            raise UserError(
                f"train.workers: a batch did not arrive ({error}). The worker processes send "
                f"batches through /dev/shm: make it larger (docker run --shm-size=1g), or set "
                f"train.workers to 0"
            ) from None

    def _take(self, batch: dict[str, Tensor]) -> Step:
        """One optimiser step."""
        self.denoiser.train()  # the caller may have set evaluation mode
        share = lr_factor(self.step, self.settings)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.param_groups[0]["lr"] = share * peak
        loss = self._average_gradients(self._backward(self.processes.share(batch)))
        norm = torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.settings.grad_clip)
        grad_norm = norm.item()
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise self._diverged(f"loss {loss}, gradient norm {grad_norm}")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.settings.ema:
            average(self.averaged, self.denoiser, self.step, self.settings.ema_length)
        return Step(self.step, loss, share * self.settings.lr, grad_norm)

    def _backward(self, batch: dict[str, Tensor]) -> float:
        """Accumulate gradients over this process's share of the batch; returns the mean loss."""
        steps = len(self.denoiser.schedule)
        # float32 can round a time just below 1 up to 1.
        t = (batch.pop("time") * steps).long().clamp(0, steps - 1)
        batch = batch | {"t": t}
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            # Dropout layers take no generator, so seed the global one.
            torch.manual_seed(derive(self.seed, "dropout", self.step, self.processes.rank))
            return self.replicas.accumulate(batch, self.settings.accumulation, self.device)

    def _average_gradients(self, loss: float) -> float:
        """Average gradients and loss over the processes; returns the loss."""
        if self.processes.count == 1:
            return loss
        mean = torch.tensor([loss], device=self.device)
        weights = [*self.denoiser.parameters(), *self.weighting.parameters()]
        gradients = [w.grad for w in weights if w.grad is not None]
        self.processes.average([mean, *gradients])
        return mean.item()

    def _diverged(self, values: str) -> UserError:
        rates = ", ".join(
            f"{optimizer.param_groups[0]['lr']:.3g} ({type(optimizer).__name__})"
            for optimizer in self.optimizers
        )
        return UserError(
            f"training diverged at step {self.step + 1}: {values}, at learning rates of {rates}. "
            f"{self.advice}. The last checkpoint is unchanged"
        )

    def state_dict(self) -> dict:
        """Everything that later steps depend on.

        `load_state_dict` of a trainer with the same arguments restores it. Raises UserError if a
        weight is not finite, so that no checkpoint has such weights.
        """
        for weights in (*self.denoiser.parameters(), *self.averaged.parameters()):
            if not weights.isfinite().all():
                raise self._diverged("weights that are not finite")
        return {
            "step": self.step,
            "denoiser": self.denoiser.state_dict(),
            "averaged": self.averaged.state_dict(),
            "weighting": self.weighting.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict) -> None:
        self.denoiser.load_state_dict(state["denoiser"])
        self.averaged.load_state_dict(state["averaged"])
        self.weighting.load_state_dict(state["weighting"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]
