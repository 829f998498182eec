"""Adversarial training of the first of a student's two steps, whose errors the second cannot mend.

The first step predicts an image from pure noise, and the sampler adds fresh noise to it: x_s. If
x_s had the distribution of noisy training images, the second step would work as well as on those.
So a discriminator compares noisy predictions with noisy training images, at timesteps from s on (as
in Sauer et al. 2024, "Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion
Distillation", and Yin et al. 2024, "Improved Distribution Matching Distillation"). Its features are
those of the way down of the trained network. The losses are relativistic (Jolicoeur-Martineau 2019;
Huang et al. 2024, "The GAN is dead"), with the gradient penalty approximated by differences (Lin et
al. 2025, "Diffusion Adversarial Post-Training").
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.dataset import Dataset
from ..common.errors import UserError
from ..common.randomness import derive, generator
from ..diffusion.denoiser import Denoiser
from ..diffusion.unet import normalised
from ..params import Train
from ..training.batches import Batches
from ..training.replicas import Replicas, replica_count
from ..training.trainer import Step, average, lr_factor, optimizers, times
from .halving import ddim_step

Player = Literal["discriminator", "student"]

HIGHEST = 0.8  # share of the timesteps that the discriminator sees: beyond it all is noise
JITTER = 0.05  # standard deviation of the noise of the gradient penalty
PENALTY = 0.003  # its weight
ANCHOR, SECOND_ANCHOR = 5.0, 1000.0  # weights of the two losses in Game._anchor
RATES: dict[Player, float] = {"student": 0.33, "discriminator": 1.7}  # times the learning rates
HEAD_START = 50  # steps of the discriminator alone, at most half of all


class Discriminator(nn.Module):
    """How real noisy images look, given timestep and class: a logit for each, (B,).

    Takes images (B, C, H, W), timesteps (B,) and labels (B,) or None.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.unet = copy.deepcopy(denoiser.unet)
        self.precision = denoiser.precision
        self.unet.up, self.unet.upsample = nn.ModuleList(), nn.ModuleList()
        self.unet.head = nn.Identity()  # no way up
        config = self.unet.config
        width = config.base_channels * config.multipliers[-1]
        self.out = nn.Linear(width, 1)
        # Each class has a direction of its own (Miyato and Koyama 2018).
        self.classes = nn.Embedding(config.classes + 1, width)
        nn.init.zeros_(self.classes.weight)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        mixed = self.precision == "bfloat16"
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=mixed):
            h, _, _ = self.unet.way_down(x_t, t, label)
            h = F.silu(normalised(h))
        h = h.float().mean(dim=(2, 3))
        if label is None:
            label = torch.full_like(t, self.unet.config.classes)
        return self.out(h).squeeze(1) + (self.classes(label) * h).sum(dim=1)


class Game(nn.Module):
    """The loss of the player whose turn it is, for a student of two steps.

    A batch has images x0, noise z, eps_real and eps_fake, all (B, C, H, W), timesteps t >= s (B,)
    and maybe a label; and jitter_real and jitter_fake, which the discriminator alone uses.
    Dropout is off.
    """

    def __init__(self, student: Denoiser, discriminator: Discriminator):
        super().__init__()
        self.student, self.discriminator = student, discriminator
        self.before = copy.deepcopy(student).eval().requires_grad_(False)
        self.start, self.end = student.schedule.sampling_timesteps(2, "trailing")
        self.turn("discriminator")

    def turn(self, player: Player) -> None:
        """Let this player learn, and no other."""
        self.player: Player = player
        self.discriminator.requires_grad_(player == "discriminator")
        self.student.requires_grad_(player == "student")

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss, and the adversarial part alone: means over the batch."""
        label, t, schedule = batch.get("label"), batch["t"], self.student.schedule
        x0 = batch["x0"].contiguous(memory_format=torch.channels_last)
        real = schedule.add_noise(self.student.encode(x0), batch["eps_real"], t)
        with torch.set_grad_enabled(self.player == "student"):
            predicted = self.student.predict_x0(batch["z"], self.start, label)
            fake = schedule.add_noise(self.student.clip(predicted), batch["eps_fake"], t)
        if self.player == "student":
            with torch.no_grad():
                real_logit = self.discriminator(real, t, label)
            loss = F.softplus(real_logit - self.discriminator(fake, t, label)).mean()
            return loss + self._anchor(batch, predicted), loss.detach()
        x, times = torch.cat([real, fake]), t.repeat(2)
        labels = None if label is None else label.repeat(2)
        logits = self.discriminator(x, times, labels)
        real_logit, fake_logit = logits.chunk(2)
        loss = F.softplus(fake_logit - real_logit).mean()
        jitter = JITTER * torch.cat([batch["jitter_real"], batch["jitter_fake"]])
        slope = (self.discriminator(x + jitter, times, labels) - logits) / JITTER
        return loss + PENALTY * slope.square().mean(), loss.detach()

    def _anchor(self, batch: dict[str, Tensor], predicted: Tensor) -> Tensor:
        """Keep the first prediction near the image that the student drew in two steps before this
        training, and keep the second step unchanged.
        """
        label, schedule, before = batch.get("label"), self.student.schedule, self.before
        s = torch.full_like(batch["t"], self.end)
        with torch.no_grad():
            x0 = self.student.clip(before.predict_x0(batch["z"], self.start, label))
            t = torch.full_like(s, self.start)
            x_s = ddim_step(schedule, batch["z"], x0, t, s)
            drawn = self.student.clip(before.predict_x0(x_s, self.end, label))
        half = len(predicted) // 2
        real = schedule.add_noise(
            self.student.encode(batch["x0"][:half]), batch["eps_real"][:half], s[:half]
        )
        labels = None if label is None else label[:half]
        with torch.no_grad():
            second = before.predict_x0(real, self.end, labels)
        moved = self.student.predict_x0(real, self.end, labels) - second
        first_loss = (predicted - drawn).square().mean()
        return ANCHOR * first_loss + SECOND_ANCHOR * moved.square().mean()


class AdversarialTrainer:
    """Trains `student`, which takes two steps, in place; `averaged` has the averaged weights.

    As in Trainer, (seed, step) fixes all randomness of a step, and without EMA the averaged weights
    are the student's. The discriminator begins with the weights of `teacher`.
    """

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        data: Dataset,
        settings: Train,
        seed: int,
    ):
        self.device = next(student.parameters()).device
        self.settings, self.seed = settings, seed
        self.averaged = student
        if settings.ema:
            self.averaged = copy.deepcopy(student).eval().requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "discriminator"))
            discriminator = Discriminator(teacher).to(self.device)
        self.game = Game(student, discriminator)
        count = replica_count(settings.batch_size // settings.accumulation, self.device)
        self.replicas = Replicas(self.game.eval(), count)
        self.players: dict[Player, Denoiser | Discriminator] = {
            "discriminator": discriminator,
            "student": student,
        }
        self.optimizers = {
            name: optimizers(
                list(player.parameters()), player.unet, settings, player.precision, self.replicas
            )
            for name, player in self.players.items()
        }
        self.peaks = [one.param_groups[0]["lr"] for one in self.optimizers["student"]]
        classes = student.config.unet.classes
        picks = times(student, settings)
        labels = data.labels if student.conditional else None
        self.batches = Batches(data.images, labels, classes, settings, 0.0, picks, seed)
        self.step = 0

    def run(self) -> Iterator[Step]:
        """Take the remaining steps and yield each. Raises UserError if a loss is not finite."""
        with self.replicas:
            while self.step < self.settings.steps:
                with self.replicas.step():
                    result = self._take()
                yield result

    def _take(self) -> Step:
        """A step of the discriminator, then, after its head start, one of the student."""
        share, loss, norm = lr_factor(self.step, self.settings), 0.0, 0.0
        alone = min(HEAD_START, self.settings.steps // 2)
        for player, network in self.players.items():
            if player == "student" and self.step < alone:
                continue
            for game in self.replicas.models:
                game.turn(player)
            parts = self.settings.accumulation
            loss = self.replicas.accumulate(self._batch(player), parts, self.device)
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), self.settings.grad_clip)
            norm = norm.item()
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise UserError(
                    f"distill: the adversarial training diverged at step {self.step + 1}; "
                    f"try a lower distill.lr"
                )
            for optimizer, peak in zip(self.optimizers[player], self.peaks, strict=True):
                optimizer.param_groups[0]["lr"] = RATES[player] * share * peak
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.replicas.follow()
        self.step += 1
        if self.settings.ema:
            average(self.averaged, self.game.student, self.step, self.settings.ema_length)
        return Step(self.step, loss, share * RATES["student"] * self.settings.lr, norm)

    def _batch(self, player: Player) -> dict[str, Tensor]:
        """Images with noise for all that this player's loss needs. Half of the times are s."""
        batch = self.batches[self.step]
        random = generator(self.seed, player, self.step)
        for name in ("z", "eps_real", "eps_fake", "jitter_real", "jitter_fake"):
            batch[name] = torch.randn(batch["x0"].shape, generator=random)
        steps = len(self.game.student.schedule)
        share = batch.pop("time") * (torch.rand(len(batch["x0"]), generator=random) < 0.5)
        batch["t"] = self.game.end + (share * (HIGHEST * steps - self.game.end)).long()
        return batch

    def state_dict(self) -> dict:
        """Everything that later steps depend on."""
        return {
            "step": self.step,
            "game": self.game.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": {
                name: [optimizer.state_dict() for optimizer in both]
                for name, both in self.optimizers.items()
            },
        }

    def load_state_dict(self, state: dict) -> None:
        self.game.load_state_dict(state["game"])
        self.averaged.load_state_dict(state["averaged"])
        for name, both in self.optimizers.items():
            for optimizer, saved in zip(both, state["optimizers"][name], strict=True):
                optimizer.load_state_dict(saved)
        self.step = state["step"]
