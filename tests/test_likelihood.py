import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from src.common.dataset import to_float
from src.diffusion.schedule import Schedule, ScheduleConfig
from src.measure.likelihood import (
    CLEANEST,
    bits_per_dim,
    first_timestep,
    prior_nats,
    reconstruction_nats,
)
from tests.helpers import denoiser, schedule_config


class Always(nn.Module):
    """A network that sees the same clean image everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, t, label=None):
        return self.value.expand_as(x)


IMAGE = (torch.arange(64) * 4 % 256).to(torch.uint8).view(1, 1, 8, 8)


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_the_steps_cost_the_divergence_of_the_two_posteriors(name):
    """Every timestep once, with a network of a known answer.

    The Gaussians are those of Kingma et al. 2021, appendix A.2; in DDPM, eqs. 6 and 7.
    """
    model = denoiser("x0", name)
    model.unet = Always(0.25)
    T, alpha, variance = len(model.schedule), model.schedule.alpha, model.schedule.sigma**2
    x0 = to_float(IMAGE).double()

    def posterior(t: int, x_t: torch.Tensor, clean: torch.Tensor) -> Normal:
        kept = alpha[t] / alpha[t - 1]
        added = variance[t] - kept**2 * variance[t - 1]
        mean = (kept * variance[t - 1] * x_t + alpha[t - 1] * added * clean) / variance[t]
        return Normal(mean, (added * variance[t - 1] / variance[t]).sqrt())

    expected, first = 0.0, first_timestep(model.schedule)
    steps = T - 1 - first
    for t in range(first + 1, T):
        x_t = torch.randn(x0.shape, dtype=torch.float64)
        true, guessed = posterior(t, x_t, x0), posterior(t, x_t, torch.full_like(x0, 0.25))
        expected += float(kl_divergence(true, guessed).sum())
    labels = torch.zeros(steps, dtype=torch.long)
    bound = bits_per_dim(model, IMAGE.expand(steps, -1, -1, -1), labels, seed=0)
    assert bound.diffusion == pytest.approx(expected / 64 / math.log(2), rel=1e-4)
    assert bound.total == bound.prior + bound.diffusion + bound.reconstruction
    assert bound.standard_error > 0


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_the_prior_costs_the_divergence_from_the_standard_normal(name):
    model = denoiser(schedule=name, margin=0.1)
    model.schedule = Schedule(ScheduleConfig(name, 100, 1e-4, 0.02, 0.008))
    seen = torch.where(IMAGE == 0, -1.1, to_float(IMAGE)).double()
    last = Normal(model.schedule.alpha[-1] * seen, model.schedule.sigma[-1])
    expected = float(kl_divergence(last, Normal(0.0, 1.0)).sum())
    assert float(prior_nats(model, IMAGE)) == pytest.approx(expected, rel=1e-6)


def test_grey_levels_are_certain_without_noise_and_cost_their_entropy_under_much():
    images, entropy = IMAGE.expand(50, -1, -1, -1), 64 * math.log(256)
    sharp, dim = (
        reconstruction_nats(signal_to_noise, images, torch.Generator().manual_seed(0))
        for signal_to_noise in (3000.0, 1.2)
    )
    assert float(sharp.mean()) == pytest.approx(0, abs=1e-3)
    assert 0.8 * entropy < float(dim.mean()) < 1.1 * entropy


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_the_bound_begins_at_nearly_the_same_noise_level_on_every_schedule(name):
    schedule = Schedule(schedule_config(name))
    first = first_timestep(schedule)
    assert (first == 0) == (name != "flow")
    assert 9 < schedule.log_snr[first] <= CLEANEST


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_grey_levels_cost_what_numerical_integration_over_the_noise_says(name, margin):
    schedule = Schedule(ScheduleConfig(name, 1000, 1e-4, 0.02, 0.008))
    first = first_timestep(schedule)
    signal_to_noise = float(schedule.alpha[first] / schedule.sigma[first])
    noise = 255 / 2 / signal_to_noise  # of x_t / alpha at the first timestep, in grey levels
    z = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    grey, expected = torch.arange(256, dtype=torch.float64), 0.0
    grey[0] -= 127.5 * margin
    for value in IMAGE.flatten().tolist():
        # Of every grey level: (noises, 256).
        likelihood = Normal(grey, noise).log_prob((grey[value] + noise * z)[:, None])
        posterior = likelihood - torch.logsumexp(likelihood, dim=1, keepdim=True)
        expected -= float((density * posterior[:, value]).sum())
    images, random = IMAGE.expand(500, -1, -1, -1), torch.Generator().manual_seed(0)
    nats = reconstruction_nats(signal_to_noise, images, random, margin)
    assert float(nats.mean()) == pytest.approx(expected, rel=0.01) and expected > 1


def test_a_better_guess_needs_fewer_bits():
    model = denoiser("x0")
    white = torch.full((60, 1, 8, 8), 255, dtype=torch.uint8)
    labels, bits = torch.zeros(60, dtype=torch.long), []
    for guess in (1.0, 0.9, 0.5):
        model.unet = Always(guess)
        bits.append(bits_per_dim(model, white, labels, seed=0).diffusion)
    assert bits[0] == 0 and bits == sorted(bits) and bits[-1] > 1


def test_few_images_give_the_bound_of_all_timesteps_in_the_mean():
    """Two at a time see two of nine steps."""
    model = denoiser("x0")
    model.schedule = Schedule(ScheduleConfig("cosine", 10, 1e-4, 0.02, 0.008))
    model.unet = Always(0.25)
    nine, labels = IMAGE.expand(9, -1, -1, -1), torch.zeros(9, dtype=torch.long)
    whole = bits_per_dim(model, nine, labels, seed=0).diffusion
    few = [bits_per_dim(model, nine[:2], labels[:2], seed=seed).diffusion for seed in range(300)]
    assert sum(few) / len(few) == pytest.approx(whole, rel=0.2) and min(few) < whole / 2
