import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from src.common.errors import UserError
from src.diffusion.schedule import Schedule
from tests.conftest import schedule_config

DIFFUSERS_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def oracle(kind, name: str, **more):
    return kind(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule=DIFFUSERS_NAMES[name], **more)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_noise_levels_equal_those_of_diffusers(name):
    ours = Schedule(schedule_config(name)).alpha_bar
    np.testing.assert_allclose(ours.numpy(), oracle(DDPMScheduler, name).alphas_cumprod.double().numpy(), rtol=2e-4, atol=1e-9)


def test_cosine_schedule_follows_its_closed_form_where_it_is_not_capped():
    t = np.arange(1, 900)
    closed = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(Schedule(schedule_config("cosine")).alpha_bar[:899].numpy(), closed, rtol=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_added_noise_has_the_variance_the_schedule_says(name):
    schedule = Schedule(schedule_config(name))
    x0, eps = torch.ones(50, 1, 32, 32) * 0.5, torch.randn(50, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for t in (0, 300, 999):
        x_t = schedule.add_noise(x0, eps, torch.full((50,), t))
        assert x_t.mean().item() == pytest.approx(0.5 * schedule.alpha_bar[t].sqrt().item(), abs=0.02)
        assert x_t.var().item() == pytest.approx(1 - schedule.alpha_bar[t].item(), rel=0.02)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 20, 50, 100, 250, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_spacings_equal_those_of_diffusers(steps, spacing):
    scheduler = oracle(DDIMScheduler, "cosine", timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert Schedule(schedule_config()).sampling_timesteps(steps, spacing) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "logsnr"])
def test_every_step_count_gives_that_many_distinct_descending_timesteps(name, spacing):
    schedule = Schedule(schedule_config(name))
    for steps in [*range(1, 60), 100, 333, 999, 1000]:
        chosen = schedule.sampling_timesteps(steps, spacing)
        assert len(chosen) == steps and chosen[0] <= 999 and chosen[-1] >= 0
        assert all(a > b for a, b in itertools.pairwise(chosen))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_log_snr_spacing_strides_evenly_where_images_take_shape(name):
    schedule = Schedule(schedule_config(name))
    first, *rest = schedule.sampling_timesteps(16, "logsnr")
    strides = schedule.log_snr[rest].diff()
    assert first == 999 and schedule.log_snr[rest[0]] == pytest.approx(-6, abs=0.05)
    torch.testing.assert_close(strides, torch.full((14,), 0.8, dtype=torch.float64), rtol=0, atol=0.06)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(UserError, match="sample.steps.*1 to 1000"):
        Schedule(schedule_config()).sampling_timesteps(steps, "trailing")


def test_a_schedule_that_leaves_no_signal_is_refused_before_it_is_trained_with():
    with pytest.raises(UserError, match="beta_end, timesteps"):
        Schedule(schedule_config("linear", timesteps=10_000))


def test_diffusers_takes_our_log_snr_timesteps_as_they_are():
    """Guards the comparison in test_samplers.py: the oracle must walk exactly the timesteps that we give it."""
    timesteps = Schedule(schedule_config()).sampling_timesteps(9, "logsnr")
    scheduler = oracle(DPMSolverMultistepScheduler, "cosine", final_sigmas_type="zero")
    scheduler.set_timesteps(timesteps=timesteps)
    assert scheduler.timesteps.tolist() == timesteps
