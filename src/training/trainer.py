"""The training loop: batches, optimiser, learning rate, weight average, held-out loss, and a state to resume from.

A generator of steps: what is logged, saved or drawn meanwhile is the caller's affair. All randomness of a step follows
from (seed, step), so a run that is stopped and resumed takes the same steps as one that is not.
"""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from src.common import device as devices
from src.common.dataset import to_float
from src.common.errors import UserError
from src.common.randomness import derive, generator
from src.diffusion.denoiser import Denoiser
from src.params import Train
from src.training.muon import Muon
from src.training.processes import Processes


@dataclass(frozen=True)
class Step:
    """What one optimiser step did; `step` counts from 1."""

    step: int
    loss: float
    lr: float
    grad_norm: float


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which an epoch shows `count` images: (count,) int64."""
    return torch.randperm(count, generator=generator(seed, "epoch", epoch))


class Batches(TorchDataset):
    """Item k is the whole batch of optimiser step k: a pure function of (seed, k), whichever process computes it.

    Images are uint8 (B, C, H, W), labels int64 (B,) or None. Each epoch is a fresh permutation; batches run across
    epochs, so that every image is seen equally often whatever the batch size.
    """

    def __init__(
        self, images: Tensor, labels: Tensor | None, classes: int, settings: Train, label_dropout: float, seed: int
    ):
        self.images, self.labels, self.no_class = images, labels, classes
        self.settings, self.label_dropout, self.seed = settings, label_dropout, seed

    def indices(self, step: int) -> Tensor:
        """Positions (B,) int64 of the images of this step."""
        first, size = step * self.settings.batch_size, self.settings.batch_size
        epochs = range(first // len(self.images), (first + size - 1) // len(self.images) + 1)
        start = first - epochs[0] * len(self.images)
        return torch.cat([permutation(self.seed, epoch, len(self.images)) for epoch in epochs])[start : start + size]

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        random = generator(self.seed, "batch", step)
        chosen = self.indices(step)
        x0 = to_float(self.images[chosen])
        x0 = augment(x0, self.settings.augment_rotation, self.settings.augment_shift, random)
        # One time from each of B equal ranges of [0, 1): less noise in the gradient (Kingma et al. 2021, appendix I.1).
        u = (torch.arange(len(x0)) + torch.rand(len(x0), generator=random)) / len(x0)
        t = focused(u, self.settings.focus, self.settings.focus_at)
        batch = {"x0": x0, "eps": torch.randn(x0.shape, generator=random), "t": t}
        if self.labels is not None:
            dropped = torch.rand(len(x0), generator=random) < self.label_dropout
            batch["label"] = self.labels[chosen].masked_fill(dropped, self.no_class)
        return batch


def focused(u: Tensor, focus: float, at: float) -> Tensor:
    """Times from uniform `u` in [0, 1), such that those around `at` come more often: they 1 / (1 - focus) times as often as
    at focus 0, those half a unit away, seen as on a circle, 1 / (1 + focus). (B,) float32 in [0, 1]."""
    return (u + focus / (2 * math.pi) * torch.sin(2 * math.pi * u) + at - 0.5) % 1


def augment(images: Tensor, rotation: float, shift: float, random: torch.Generator) -> Tensor:
    """Rotate each image by at most `rotation` degrees and shift it by at most `shift` pixels; never flip.

    images (B, C, H, W) in [-1, 1]; what comes into view is background, taken to be -1.
    """
    if not rotation and not shift:
        return images
    B, _, H, W = images.shape
    uniform = torch.rand(B, 3, generator=random) * 2 - 1
    angle = uniform[:, 0] * math.radians(rotation)
    moved = uniform[:, 1:] * shift * 2 / torch.tensor([W, H])  # affine_grid measures in half image sides
    rotated = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(B, 2, 2)
    theta = torch.cat([rotated, moved[:, :, None]], dim=2)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1


def limited(settings: Train, count: int) -> Train:
    """`settings` with no more steps than max_epochs passes over `count` images take."""
    most = math.ceil(settings.max_epochs * count / settings.batch_size)
    return settings.model_copy(update={"steps": min(settings.steps, most)})


def annealing(step: int, settings: Train) -> float:
    """Share of the peak learning rate: linear warm-up, of a short training at most half, then a straight line that would be at
    zero one step after the last (Bergsma et al. 2025, "Straight to Zero"). `step` counts from 0.
    """
    warmup = min(settings.warmup_steps, settings.steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    return 1 - (step - warmup) / (settings.steps - warmup)


def optimizers(denoiser: Denoiser, settings: Train) -> list[torch.optim.Optimizer]:
    """AdamW for all weights, or Muon for the matrices inside the network and AdamW for the rest."""
    matrices = denoiser.unet.matrices() if settings.muon_lr else []
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in denoiser.parameters() if id(weight) not in chosen]
    found = [torch.optim.AdamW(others, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)]
    if matrices:
        dtype = getattr(torch, denoiser.precision)
        found.append(Muon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay, dtype=dtype))
    return found


def ema_decay(step: int, length: float) -> float:
    """Decay of the weight average after `step` steps: it reaches back over the share `length` of them."""
    return 1 - 1 / (1 + length * step)


def leave_signals_alone(worker: int) -> None:
    """For a process that loads batches: a Ctrl-C reaches it, too, but it has to serve until the step is finished."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Trainer:
    """Trains `denoiser` in place; `averaged` is the copy to evaluate and keep (the same one if EMA is off).

    Of several `processes` each takes its share of every batch, and all end in the same weights.
    """

    def __init__(
        self, denoiser: Denoiser, images: Tensor, labels: Tensor | None, settings: Train, seed: int,
        device: torch.device | str, processes: Processes | None = None,
    ):
        self.processes = processes or Processes()
        shares = self.processes.count * settings.accumulation
        if settings.batch_size % shares:
            raise UserError(
                f"train.batch_size ({settings.batch_size}) must be a multiple of train.accumulation times the "
                f"{self.processes.count} processes: {shares}"
            )
        self.device = torch.device(device)
        self.denoiser = denoiser.to(self.device)
        self.denoiser.precision = devices.precision(settings.precision, self.device)
        self.averaged = copy.deepcopy(denoiser).eval().requires_grad_(False) if settings.ema else denoiser
        self.settings, self.seed = settings, seed
        self.batches = Batches(
            images, labels if denoiser.conditional else None, denoiser.config.unet.classes, settings,
            denoiser.config.label_dropout, seed,
        )
        self.optimizers = optimizers(denoiser, settings)
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.step = 0

    def run(self) -> Iterator[Step]:
        """Take the remaining steps, yielding after each. Raises UserError if the loss or gradient is not finite."""
        loader = DataLoader(
            self.batches, batch_size=None, sampler=range(self.step, self.settings.steps),
            num_workers=self.settings.workers, pin_memory=self.device.type == "cuda", worker_init_fn=leave_signals_alone,
        )
        for batch in loader:
            yield self._take(batch)

    def _take(self, batch: dict[str, Tensor]) -> Step:
        self.denoiser.train()  # a caller may have evaluated it
        share = annealing(self.step, self.settings)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.param_groups[0]["lr"] = share * peak
        steps = len(self.denoiser.schedule)
        batch = self.processes.mine(batch)
        batch["t"] = (batch["t"] * steps).long().clamp(0, steps - 1)  # float32 rounds the last of [0, 1) up to 1
        total = 0.0
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            # Dropout layers take no generator.
            torch.manual_seed(derive(self.seed, "dropout", self.step, self.processes.rank))
            for part in zip(*(value.chunk(self.settings.accumulation) for value in batch.values()), strict=True):
                inputs = dict(zip(batch, (value.to(self.device, non_blocking=True) for value in part), strict=True))
                x0 = inputs["x0"].contiguous(memory_format=torch.channels_last)
                loss = self.denoiser.loss(x0, inputs["eps"], inputs["t"], inputs.get("label")).mean()
                (loss / self.settings.accumulation).backward()
                total += loss.item() / self.settings.accumulation
        if self.processes.count > 1:
            mean = torch.tensor([total], device=self.device)
            self.processes.average([mean, *(weight.grad for weight in self.denoiser.parameters() if weight.grad is not None)])
            total = mean.item()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.settings.grad_clip).item()
        if not math.isfinite(total) or not math.isfinite(grad_norm):
            raise self._diverged(f"loss {total}, gradient norm {grad_norm}")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.settings.ema:
            averaged, current = list(self.averaged.parameters()), list(self.denoiser.parameters())
            with torch.no_grad():
                torch._foreach_lerp_(averaged, current, 1 - ema_decay(self.step, self.settings.ema_length))
        return Step(self.step, total, share * self.settings.lr, grad_norm)

    def _diverged(self, found: str) -> UserError:
        rates = [f"{optimizer.param_groups[0]['lr']:.3g} ({type(optimizer).__name__})" for optimizer in self.optimizers]
        return UserError(
            f"training diverged at step {self.step + 1}: {found}, at learning rates of {', '.join(rates)}; try lower train.lr "
            f"and train.muon_lr, more train.warmup_steps or a smaller train.grad_clip; the last checkpoint is as it was"
        )

    def state_dict(self) -> dict:
        """Everything that later steps depend on, for `load_state_dict` of a trainer built alike.

        Raises UserError if a weight is not finite: such a state is not worth keeping.
        """
        for weights in (*self.denoiser.parameters(), *self.averaged.parameters()):
            if not weights.isfinite().all():
                raise self._diverged("weights that are not finite")
        return {
            "step": self.step,
            "denoiser": self.denoiser.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict) -> None:
        self.denoiser.load_state_dict(state["denoiser"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]


@torch.inference_mode()
def loss_by_noise_level(
    denoiser: Denoiser, images: Tensor, labels: Tensor | None, seed: int, levels: int = 10, limit: int = 2000,
    batch_size: int = 250,
) -> Tensor:
    """Held-out loss in `levels` equal ranges of t, least noise first: (levels,) float64; its mean is the held-out loss.

    `limit` of the images (uint8) are each seen once (of few images, repeatedly), at timesteps spread evenly. Images, timesteps
    and noise follow from `seed`: any two models are compared on the same inputs. There are no more levels than timesteps.
    Leaves the denoiser in evaluation mode.
    """
    denoiser.eval()
    device = next(denoiser.parameters()).device
    levels = min(levels, len(denoiser.schedule))
    n, random = max(min(len(images), limit), 10 * levels), generator(seed, "heldout")
    some = torch.randperm(len(images), generator=random)[:limit]  # the first may be of one class, or the neat ones
    chosen = some[torch.arange(n) % len(some)]
    t = ((torch.arange(n) + 0.5) / n * len(denoiser.schedule)).long()[torch.randperm(n, generator=random)]
    noise = torch.randn(n, *images.shape[1:], generator=random)
    losses = torch.empty(n, dtype=torch.float64)
    for part in torch.arange(n).split(batch_size):
        x0 = to_float(images[chosen[part]]).to(device, memory_format=torch.channels_last)
        label = labels[chosen[part]].to(device) if denoiser.conditional else None
        losses[part] = denoiser.loss(x0, noise[part].to(device), t[part].to(device), label).double().cpu()
    level = t * levels // len(denoiser.schedule)
    return torch.stack([losses[level == i].mean() for i in range(levels)])
