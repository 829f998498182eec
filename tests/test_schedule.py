import itertools
import math

import numpy as np
import pytest
import torch
from flow_matching.path import AffineProbPath, CondOTProbPath
from flow_matching.path.scheduler import CosineScheduler

from src.common import torchvision_remedy  # noqa: F401 (before diffusers imports torchvision)
from src.diffusion.schedule import Schedule
from tests.helpers import denoiser, schedule_config

from diffusers import (  # isort: skip
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
)

DIFFUSERS_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def oracle(kind, name: str, **more):
    return kind(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=DIFFUSERS_NAMES[name],
        **more,
    )


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_noise_levels_equal_those_of_diffusers(name):
    alpha_bar = Schedule(schedule_config(name)).alpha.numpy() ** 2
    expected = oracle(DDPMScheduler, name).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(alpha_bar, expected, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_tables_are_of_one_variance_preserving_schedule(name):
    schedule = Schedule(schedule_config(name))
    alpha, sigma = schedule.alpha, schedule.sigma
    assert len(schedule) == len(alpha) == 1000 and alpha.dtype == sigma.dtype == torch.float64
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-14, atol=0)
    torch.testing.assert_close(schedule.log_snr, 2 * (alpha / sigma).log(), rtol=0, atol=1e-9)
    assert (schedule.log_snr.diff() < 0).all()


def test_cosine_schedule_follows_its_closed_form_where_it_is_not_capped():
    t = np.arange(1, 900)
    start = np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    closed = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2 / start
    alpha = Schedule(schedule_config("cosine")).alpha[:899].numpy()
    np.testing.assert_allclose(alpha**2, closed, rtol=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_added_noise_has_the_variance_the_schedule_says(name):
    schedule, random = Schedule(schedule_config(name)), torch.Generator().manual_seed(0)
    x0, eps = torch.ones(50, 1, 32, 32) * 0.5, torch.randn(50, 1, 32, 32, generator=random)
    for t in (0, 300, 999):
        x_t = schedule.add_noise(x0, eps, torch.full((50,), t))
        alpha_bar = schedule.alpha[t].item() ** 2
        assert x_t.mean().item() == pytest.approx(0.5 * math.sqrt(alpha_bar), abs=0.02)
        assert x_t.var().item() == pytest.approx(1 - alpha_bar, rel=0.02)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 20, 50, 100, 250, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_spacings_equal_those_of_diffusers(steps, spacing):
    scheduler = oracle(DDIMScheduler, "cosine", timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    timesteps = Schedule(schedule_config()).sampling_timesteps(steps, spacing)
    assert timesteps == scheduler.timesteps.tolist()


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "logsnr", "karras"])
def test_every_step_count_gives_that_many_distinct_descending_timesteps(name, spacing):
    schedule = Schedule(schedule_config(name))
    for steps in [*range(1, 60), 100, 333, 999, 1000]:
        chosen = schedule.sampling_timesteps(steps, spacing)
        assert len(chosen) == steps and chosen[0] <= 999 and chosen[-1] >= 0
        assert all(a > b for a, b in itertools.pairwise(chosen))


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_log_snr_spacing_strides_evenly_where_images_take_shape(name):
    schedule = Schedule(schedule_config(name))
    first, *rest = schedule.sampling_timesteps(16, "logsnr")
    strides = schedule.log_snr[rest].diff()
    assert first == 999 and schedule.log_snr[rest[0]] == pytest.approx(-6, abs=0.05)
    expected = torch.full((14,), 0.8, dtype=torch.float64)
    torch.testing.assert_close(strides, expected, rtol=0, atol=0.06)


@pytest.mark.parametrize("steps", [4, 18])
def test_karras_spacing_is_that_of_diffusers_to_the_nearest_timestep(steps):
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7)
    theirs.set_timesteps(steps)
    schedule = Schedule(schedule_config("flow", timesteps=100_000))
    chosen = schedule.sampling_timesteps(steps, "karras")
    levels = (schedule.sigma / schedule.alpha)[chosen]
    assert chosen[0] == 99_999
    torch.testing.assert_close(levels[1:], theirs.sigmas[1:-1].double(), rtol=0.005, atol=0)


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_slopes_are_the_derivatives_by_time(name):
    schedule = Schedule(schedule_config(name))
    for table, slope in (
        (schedule.alpha, schedule.alpha_slope),
        (schedule.sigma, schedule.sigma_slope),
    ):
        integral = table[100] + torch.cumulative_trapezoid(slope[100:900], dx=1 / 1000)
        torch.testing.assert_close(integral, table[101:900], rtol=0, atol=1e-4)


def test_path_and_target_of_flow_equal_those_of_flow_matching():
    """Theirs goes from noise at time 0 to the image at time 1."""
    model, theirs = denoiser("velocity", "flow"), CondOTProbPath()
    x0, eps, t = torch.rand(5, 1, 8, 8), torch.randn(5, 1, 8, 8), torch.arange(50, 1000, 200)
    sample = theirs.sample(x_0=eps, x_1=x0, t=1 - model.schedule.sigma[t].float())
    torch.testing.assert_close(model.schedule.add_noise(x0, eps, t), sample.x_t)
    torch.testing.assert_close(model.target(x0, eps, t), -sample.dx_t)


def test_velocity_of_the_cosine_schedule_equals_that_of_flow_matching():
    """Up to its offset near t = 0, our cosine schedule is theirs at the time 1 - t / T."""
    model, theirs = denoiser("velocity", "cosine"), AffineProbPath(CosineScheduler())
    x0, eps, t = torch.rand(4, 1, 8, 8), torch.randn(4, 1, 8, 8), torch.arange(200, 1000, 200)
    angle = torch.asin(model.schedule.sigma[t]).float()
    sample = theirs.sample(x_0=eps, x_1=x0, t=1 - angle / (math.pi / 2))
    torch.testing.assert_close(model.schedule.add_noise(x0, eps, t), sample.x_t)
    torch.testing.assert_close(model.target(x0, eps, t), -sample.dx_t, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match=f"^steps: expected 1 to 1000 .*got {steps}"):
        Schedule(schedule_config()).sampling_timesteps(steps, "trailing")


def test_a_schedule_that_leaves_no_signal_is_refused_before_it_is_trained_with():
    with pytest.raises(ValueError, match="^timesteps: only .* of the signal is left"):
        Schedule(schedule_config("linear", timesteps=10_000))


@pytest.mark.parametrize("timesteps", [1, 100_001, 1000.0])
def test_a_number_of_timesteps_that_makes_no_schedule_is_refused(timesteps):
    with pytest.raises(ValueError, match=f"^timesteps: expected an integer .*got {timesteps}"):
        Schedule(schedule_config(timesteps=timesteps))


def test_unknown_schedules_and_spacings_are_refused_by_name():
    with pytest.raises(ValueError, match="^schedule: expected one of linear, .*flow, got 'cubic'"):
        Schedule(schedule_config("cubic"))
    with pytest.raises(ValueError, match="^spacing: expected one of leading, .*got 'even'"):
        Schedule(schedule_config()).sampling_timesteps(5, "even")


def test_diffusers_takes_our_log_snr_timesteps_as_they_are():
    """Guards the comparison in test_samplers.py: the oracle must visit the timesteps we give it."""
    timesteps = Schedule(schedule_config()).sampling_timesteps(9, "logsnr")
    scheduler = oracle(DPMSolverMultistepScheduler, "cosine", final_sigmas_type="zero")
    scheduler.set_timesteps(timesteps=timesteps)
    assert scheduler.timesteps.tolist() == timesteps
