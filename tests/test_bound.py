import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from src.bound import bits_per_dim, prior_nats, reconstruction_nats
from src.common.dataset import to_float
from src.diffusion.schedule import Schedule, ScheduleConfig
from tests.conftest import denoiser


class Always(nn.Module):
    """A network that sees the same clean image everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, t, label=None):
        return self.value.expand_as(x)


IMAGE = (torch.arange(64) * 4 % 256).to(torch.uint8).view(1, 1, 8, 8)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_steps_cost_the_divergence_of_the_two_posteriors(name):
    """Every timestep once, with a network of a known answer, against Gaussians written down as in DDPM, eqs. 6 and 7."""
    model = denoiser("x0", name)
    model.unet = Always(0.25)
    schedule, x0 = model.schedule, to_float(IMAGE).double()
    T = len(schedule)
    expected = 0.0
    for t in range(1, T):
        beta, now, before = schedule.betas[t], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
        deviation = ((1 - before) / (1 - now) * beta).sqrt()
        x_t = torch.randn(x0.shape, dtype=torch.float64)

        def posterior(clean, beta=beta, now=now, before=before, x_t=x_t, deviation=deviation):
            mean = before.sqrt() * beta / (1 - now) * clean + (1 - beta).sqrt() * (1 - before) / (1 - now) * x_t
            return Normal(mean, deviation)

        expected += float(kl_divergence(posterior(x0), posterior(torch.full_like(x0, 0.25))).sum())
    found = bits_per_dim(model, IMAGE.expand(T - 1, -1, -1, -1), torch.zeros(T - 1, dtype=torch.long), seed=0)
    assert found.diffusion == pytest.approx(expected / 64 / math.log(2), rel=1e-4)
    assert found.total == found.prior + found.diffusion + found.reconstruction and found.standard_error > 0


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_prior_costs_the_divergence_from_the_standard_normal(name):
    schedule = Schedule(ScheduleConfig(name, 100, 1e-4, 0.02, 0.008))
    alpha_bar = schedule.alpha_bar[-1]
    last = Normal(alpha_bar.sqrt() * to_float(IMAGE).double(), (1 - alpha_bar).sqrt())
    assert float(prior_nats(schedule, IMAGE)) == pytest.approx(float(kl_divergence(last, Normal(0.0, 1.0)).sum()), rel=1e-6)


def test_grey_levels_are_certain_without_noise_and_cost_their_entropy_under_much():
    images = IMAGE.expand(50, -1, -1, -1)
    schedules = (Schedule(ScheduleConfig("linear", 10, beta, 0.5, 0.0)) for beta in (1e-7, 0.4))
    sharp, dim = (reconstruction_nats(schedule, images, torch.Generator().manual_seed(0)).mean() for schedule in schedules)
    assert float(sharp) == pytest.approx(0, abs=1e-3) and 0.8 * 64 * math.log(256) < float(dim) < 1.1 * 64 * math.log(256)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_grey_levels_cost_what_numerical_integration_over_the_noise_says(name):
    schedule = Schedule(ScheduleConfig(name, 1000, 1e-4, 0.02, 0.008))
    alpha_bar = float(schedule.alpha_bar[0])
    noise = math.sqrt((1 - alpha_bar) / alpha_bar) * 255 / 2  # of x_0 / sqrt(alpha_bar), in grey levels
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    grey, expected = torch.arange(256, dtype=torch.float64), 0.0
    for value in IMAGE.flatten().tolist():
        likelihood = Normal(grey, noise).log_prob((value + noise * z)[:, None])  # of every grey level, (noises, 256)
        posterior = likelihood - torch.logsumexp(likelihood, dim=1, keepdim=True)
        expected -= float((density * posterior[:, value]).sum())
    found = reconstruction_nats(schedule, IMAGE.expand(2000, -1, -1, -1), torch.Generator().manual_seed(0))
    assert float(found.mean()) == pytest.approx(expected, rel=0.01) and expected > 1


def test_a_better_guess_needs_fewer_bits():
    model = denoiser("x0")
    white = torch.full((60, 1, 8, 8), 255, dtype=torch.uint8)
    needed = []
    for guess in (1.0, 0.9, 0.5):
        model.unet = Always(guess)
        needed.append(bits_per_dim(model, white, torch.zeros(60, dtype=torch.long), seed=0).diffusion)
    assert needed[0] == 0 and needed == sorted(needed) and needed[-1] > 1


def test_few_images_give_the_bound_of_all_timesteps_in_the_mean():
    """Two at a time see two of nine steps."""
    model = denoiser("x0")
    model.schedule, model.unet = Schedule(ScheduleConfig("cosine", 10, 1e-4, 0.02, 0.008)), Always(0.25)
    labels = torch.zeros(9, dtype=torch.long)
    whole = bits_per_dim(model, IMAGE.expand(9, -1, -1, -1), labels, seed=0).diffusion
    found = [bits_per_dim(model, IMAGE.expand(2, -1, -1, -1), labels[:2], seed=seed).diffusion for seed in range(300)]
    assert sum(found) / len(found) == pytest.approx(whole, rel=0.2) and min(found) < whole / 2
