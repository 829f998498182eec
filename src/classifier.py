"""The classifier, a small convolutional network. fd_digits is measured in its features.

Without labels it learns to recognise four rotations of each image (Gidaris et al. 2018), so that
there are features to measure with. `pretext` says whether it learned labels or rotations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .common import artifact
from .common.dataset import to_float
from .common.errors import UserError
from .common.randomness import derive, generator
from .common.schema import parse
from .params import Classifier as Settings

FEATURES = 128
BATCH, BATCH_PIXELS = 1000, 800_000  # at most in one batch: images, and pixels of all of them


@dataclass(frozen=True)
class ClassifierConfig:
    """The settings of the network, and its task: labels, or four rotations."""

    image_size: int
    image_channels: int
    classes: int
    pretext: Literal["labels", "rotations"]
    dropout: float


class Classifier(nn.Module):
    """Four convolutions and two linear layers. Images are float32 (B, C, H, W) in [-1, 1]."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = config.image_channels
        for width, stride in [(32, 1), (32, 2), (64, 1), (64, 2)]:
            layers += [
                nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        side = (config.image_size + 3) // 4
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.penultimate = nn.Linear(64 * side * side, FEATURES)
        self.dropout = nn.Dropout(config.dropout)
        self.last = nn.Linear(FEATURES, config.classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 128): the input of the last layer, without dropout."""
        return F.relu(self.penultimate(self.convolutions(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        return self.last(self.dropout(self.features(x)))


def _pretext_batch(images: Tensor, labels: Tensor | None, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The `chosen` images as floats, and the classes to learn.

    The classes are the labels. Without labels, each image appears in four rotations, which are
    the classes.
    """
    x = to_float(images[chosen])
    if labels is not None:
        return x, labels[chosen]
    rotated = torch.cat([x.rot90(k, (2, 3)) for k in range(4)])
    return rotated, torch.arange(4).repeat_interleave(len(x))


def train(
    images: Tensor, labels: Tensor | None, settings: Settings, device: torch.device | str
) -> Iterator[tuple[Classifier, float]]:
    """Train on uint8 images (N, C, H, W). Yields the classifier and the loss after each step.

    Uses AdamW with a one-cycle learning rate (Smith and Topin 2019). All randomness depends on
    settings.seed. Raises UserError if the loss is not finite.
    """
    steps = total_steps(len(images), settings)
    model = _untrained(images, labels, settings).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps)
    for step, chosen in enumerate(_batches(len(images), settings)):
        x, y = _pretext_batch(images, labels, chosen)
        loss = _loss(model, x, y, derive(settings.seed, "classifier dropout", step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if not math.isfinite(loss.item()):
            raise UserError(
                f"the classifier's training diverged at step {step + 1}: loss {loss.item()}, "
                f"at a learning rate of {optimizer.param_groups[0]['lr']:.3g}; "
                f"try a lower classifier.lr"
            )
        yield model, loss.item()


def _untrained(images: Tensor, labels: Tensor | None, settings: Settings) -> Classifier:
    """A new classifier for such images. settings.seed determines its weights."""
    config = ClassifierConfig(
        image_size=images.shape[-1],
        image_channels=images.shape[1],
        classes=4 if labels is None else int(labels.max()) + 1,
        pretext="rotations" if labels is None else "labels",
        dropout=settings.dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(settings.seed, "classifier"))
        return Classifier(config)


def _batches(count: int, settings: Settings) -> Iterator[Tensor]:
    """Yield the positions of the images for each step. Each epoch has its own random order."""
    for epoch in range(settings.epochs):
        random = generator(settings.seed, "classifier epoch", epoch)
        yield from torch.randperm(count, generator=random).split(settings.batch_size)


def _loss(model: Classifier, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Cross entropy for images x and classes y. `seed` determines the dropout."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        logits = model(x.to(device, memory_format=torch.channels_last))
        return F.cross_entropy(logits, y.to(device))


def fit(
    images: Tensor,
    labels: Tensor | None,
    settings: Settings,
    device: torch.device | str,
    what: str = "classifier",
) -> Classifier:
    """Train to the end and return the classifier, in evaluation mode.

    `what` is the text of the progress bar.
    """
    bar = tqdm(
        train(images, labels, settings, device),
        desc=what,
        unit="step",
        total=total_steps(len(images), settings),
    )
    for model, loss in bar:
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
    return model.eval()


def total_steps(count: int, settings: Settings) -> int:
    """Number of optimiser steps that `train` takes for `count` images."""
    return settings.epochs * -(-count // settings.batch_size)


@torch.inference_mode()
def accuracy(model: Classifier, images: Tensor, labels: Tensor | None) -> float:
    """Share of uint8 images (N, C, H, W) recognised as their label; in [0, 1].

    Without labels: share of their rotations recognised.
    """
    model.eval()
    device = next(model.parameters()).device
    right = total = 0
    for chosen in torch.arange(len(images)).split(_batch_size(images)):
        x, y = _pretext_batch(images, labels, chosen)
        predicted = model(x.to(device, memory_format=torch.channels_last)).argmax(dim=1).cpu()
        right += int((predicted == y).sum())
        total += len(y)
    return right / total


def features(model: Classifier, images: Tensor) -> Tensor:
    """Penultimate features of uint8 images (N, C, H, W): (N, 128) float32 on the CPU."""
    return torch.cat(list(feature_batches(model, images)))


@torch.inference_mode()
def feature_batches(model: Classifier, images: Tensor) -> Iterator[Tensor]:
    """Yield the result of `features` in batches (B, 128)."""
    model.eval()
    device = next(model.parameters()).device
    for batch in images.split(_batch_size(images)):
        yield model.features(to_float(batch).to(device, memory_format=torch.channels_last)).cpu()


def _batch_size(images: Tensor) -> int:
    """How many of such images (N, C, H, W) fit into a batch."""
    return max(1, min(BATCH, BATCH_PIXELS // (images.shape[2] * images.shape[3])))


def recognised(model: Classifier, features: Tensor, labels: Tensor | None) -> float | None:
    """Share of images recognised as their `labels` (N,), from `features` (N, 128); in [0, 1].

    None without labels, or if the classifier was trained without labels.
    """
    if labels is None or model.config.pretext != "labels":
        return None
    return float((predictions(model, features) == labels).double().mean())


@torch.inference_mode()
def predictions(model: Classifier, features: Tensor) -> Tensor:
    """The most likely class of each row of `features` (N, 128): (N,) int64."""
    device = next(model.parameters()).device
    return model.last(features.to(device)).argmax(dim=1).cpu()


def save(model: Classifier, path: str | Path, about: dict) -> None:
    """Write the classifier, its configuration and `about` (JSON values)."""
    header = {"config": asdict(model.config), "about": about}
    artifact.save(path, "classifier", model.state_dict(), header)


def load(path: str | Path) -> tuple[Classifier, dict]:
    """Read the classifier, in evaluation mode on the CPU, and `about`.

    Raises UserError if the file is missing or damaged, OSError if the system cannot read it.
    """
    header, weights = artifact.load(
        path, "classifier", remedy="`dvc pull` fetches it, `dvc repro classifier` makes it"
    )
    try:
        config = parse(ClassifierConfig, header["config"])
        artifact.check_fit(lambda: Classifier(config), weights)
        model = Classifier(config)
        model.load_state_dict(weights)
        about = header["about"]
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        raise UserError(
            f"{path}: its weights do not fit its configuration ({error}); train again"
        ) from None
    return model.eval().requires_grad_(False), about
