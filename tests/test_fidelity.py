"""Denoising from the middle, and fidelity by noise level."""

import pytest
import torch

from src.common.dataset import to_float, to_pixels
from src.common.randomness import ImageNoise
from src.diffusion.samplers import Sampler, sample
from src.measure import fidelity
from tests.helpers import denoiser

DDIM = Sampler("ddim", 6, "logsnr")
IMAGES = torch.randint(
    0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
)
LABELS = torch.arange(5)


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_sampler_started_in_the_middle_goes_on_as_from_the_start(first):
    model = denoiser()
    noise = ImageNoise(0, range(1, 3), (1, 8, 8))
    whole = list(sample(model, noise, DDIM, LABELS[:2]))
    rest = list(sample(model, lambda: whole[first].x_t, DDIM, LABELS[:2], first=first))
    assert [step.t for step in rest] == [step.t for step in whole[first:]]
    assert torch.equal(rest[-1].x0, whole[-1].x0)


def test_a_step_that_the_sampler_does_not_have_is_refused():
    with pytest.raises(ValueError, match="first: expected 0 to 5, got 6"):
        sample(denoiser(), lambda: torch.zeros(1, 1, 8, 8), DDIM, first=6)


def test_the_last_step_predicts_the_image_from_its_noisy_version():
    model = denoiser()
    restored = fidelity.restored(model, DDIM, 5, IMAGES, LABELS, seed=7, batch_size=2)
    t = model.schedule.sampling_timesteps(6, "logsnr")[-1]
    eps = ImageNoise(7, range(1, 6), (1, 8, 8))()
    x_t = model.schedule.alpha[t] * to_float(IMAGES) + model.schedule.sigma[t] * eps
    with torch.inference_mode():
        x0 = model.predict_x0(x_t.float(), t, LABELS, 1.0, 1.0).clamp(-1, 1)
    assert (restored.int() - to_pixels(x0).int()).abs().max() <= 1


def test_an_image_does_not_depend_on_the_rest_of_its_batch():
    model = denoiser()
    sampler = Sampler("sa-solver", 6, "logsnr", eta=1.0)
    one = fidelity.restored(model, sampler, 2, IMAGES, LABELS, seed=0, batch_size=5)
    other = fidelity.restored(model, sampler, 2, IMAGES, LABELS, seed=0, batch_size=2)
    assert (one.int() - other.int()).abs().max() <= 1


def test_levels_are_the_samplers_nearest_steps_once_each_the_last_first():
    model = denoiser()
    steps = fidelity.nearest_steps(model, DDIM, [100, 90, -100, 0])
    assert steps[0] == 5 and steps[-1] == 0 and len(steps) == 3
    levels = [fidelity.log_snr(model, DDIM, step) for step in steps]
    assert levels == sorted(levels, reverse=True)
    timesteps = model.schedule.sampling_timesteps(6, "logsnr")
    nearest = min(timesteps, key=lambda t: abs(float(model.schedule.log_snr[t])))
    assert timesteps[steps[1]] == nearest
