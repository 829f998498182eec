import math

import pytest
import torch
from scipy import stats

from src.diffusion.times import DEFAULT_TIMES, Times

U = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000


@pytest.mark.parametrize("focus, at", [(0.0, 0.5), (0.3, 0.5), (0.6, 0.5), (0.6, 0.7), (0.6, 0.0)])
def test_focus_favours_the_times_around_it_and_keeps_all(focus, at):
    t = Times.named(f"focus {focus} {at}").quantile(U)
    share = torch.histc(t, 100, 0, 1) / 1_000_000 * 100
    middle = (torch.arange(100) + 0.5) / 100
    nearest = ((middle - at + 0.5) % 1 - 0.5).abs()
    assert share.min() > 0.6 and share.sum().item() == pytest.approx(100)
    assert share[nearest < 0.03].mean().item() == pytest.approx(1 / (1 - focus), rel=0.05)
    assert share[nearest > 0.47].mean().item() == pytest.approx(1 / (1 + focus), rel=0.05)


def test_a_focus_without_strength_is_uniform():
    assert torch.equal(Times.named("uniform").quantile(U), U)
    torch.testing.assert_close(Times.named("focus 0 0.5").quantile(U), U)


@pytest.mark.parametrize("mean, deviation", [(0.0, 1.0), (0.5, 0.6)])
def test_logits_of_logit_normal_times_are_normal(mean, deviation):
    t = Times.named(f"logit-normal {mean} {deviation}").quantile(U[::100]).numpy()
    expected = stats.norm(mean, deviation)
    assert stats.kstest([math.log(x / (1 - x)) for x in t], expected.cdf).statistic < 1e-3


def test_the_first_time_is_a_number():
    t = Times.named("logit-normal 0 1").quantile(torch.tensor([0.0]))
    assert t.tolist() == [0.0]


@pytest.mark.parametrize(
    "text",
    ["", "normal", "focus", "focus 0.6", "focus 1 0.5", "focus 0.5 2", "focus a b", "uniform 1",
     "logit-normal 0", "logit-normal 0 0", "logit-normal nan 1"],
)  # fmt: skip
def test_other_times_are_refused_by_name(text):
    with pytest.raises(ValueError, match=f"^expected .uniform.*found '{text}'$"):
        Times.named(text)


@pytest.mark.parametrize("text", ["uniform", *DEFAULT_TIMES.values(), "logit-normal -0.5 1.2"])
def test_the_name_of_a_distribution_gives_it_again(text):
    assert str(Times.named(text)) == text
