from types import SimpleNamespace

import pytest

from src.training import outlook
from src.training.outlook import IGNORED, TIMED, Outlook, duration
from tests.helpers import denoiser


def messages(monkeypatch, seconds: float, steps: int) -> list[str]:
    """What a run prints whose steps take so long; the first ones take longer."""
    clock = [0.0]
    monkeypatch.setattr(outlook, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    settings = SimpleNamespace(batch_size=128, steps=steps)
    device = SimpleNamespace(type="cpu")
    trainer = SimpleNamespace(settings=settings, device=device, denoiser=denoiser(), step=0)
    run, printed = Outlook(trainer), []
    for _ in range(min(steps, 60)):
        clock[0] += 10 * seconds if trainer.step < IGNORED else seconds
        trainer.step += 1
        printed += [message] if (message := run.after_step()) else []
    return printed


def test_the_first_steps_tell_how_long_training_will_take(monkeypatch):
    [message] = messages(monkeypatch, 0.64, 10_000)
    assert "200 images a second in float32" in message
    left = 10_000 - IGNORED - TIMED
    assert f"{left:,} steps take about 1 h 46 min" in message
    assert f"train.steps={IGNORED + TIMED + left // 4} takes 27 min" in message


def test_a_short_training_has_no_outlook(monkeypatch):
    assert messages(monkeypatch, 0.01, 1000) == []


@pytest.mark.parametrize(
    "seconds, text", [(40, "40 s"), (720, "12 min"), (7500, "2 h 5 min"), (3599, "1 h 0 min")]
)
def test_times_are_short(seconds, text):
    assert duration(seconds) == text
