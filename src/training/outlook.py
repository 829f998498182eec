"""How long a training will take, from the speed of its first steps."""

from __future__ import annotations

import time

import torch

from .trainer import Trainer

IGNORED, TIMED = 5, 20  # steps


class Outlook:
    """Times the first steps of a run, and then has a message."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._taken = 0
        self._started = 0.0

    def after_step(self) -> str | None:
        """Call it after each step. Returns the message once, if many steps are left."""
        self._taken += 1
        if self._taken == IGNORED:
            self._started = time.perf_counter()
        if self._taken != IGNORED + TIMED:
            return None
        seconds = (time.perf_counter() - self._started) / TIMED
        left = self.trainer.settings.steps - self.trainer.step
        return self._message(seconds, left) if seconds * left > 60 else None

    def _message(self, seconds: float, left: int) -> str:
        settings, device = self.trainer.settings, self.trainer.device
        where = "GPU" if device.type == "cuda" else f"{torch.get_num_threads()} cores"
        precision = self.trainer.denoiser.precision
        text = (
            f"train: {settings.batch_size / seconds:,.0f} images a second in {precision} on "
            f"{where}; {left:,} steps take about {duration(seconds * left)}"
        )
        shorter = self.trainer.step + left // 4
        return (
            f"{text}. Shorter: train.steps={shorter} takes {duration(seconds * (left // 4))}; "
            f"`make run PRESET=quick` makes all figures with less of everything"
        )


def duration(seconds: float) -> str:
    """Seconds as text: "40 s", "12 min" or "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"
