"""The demo leafs through what the pipeline would draw, whoever else draws meanwhile."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from src.common.dataset import to_pixels
from src.demo.trajectory import compute
from src.diffusion.samplers import Sampler
from src.drawing import draw, steps
from tests.helpers import denoiser

LABELS = torch.arange(6)
STOCHASTIC = Sampler("sde-dpmsolver++", 7, "logsnr", 1.0, 1.5, (-4.0, 0.0))


def test_a_trajectory_ends_in_the_images_that_the_pipeline_draws():
    model = denoiser()
    trajectory = compute(model, STOCHASTIC, 3, 6, LABELS)
    drawn = draw(model, STOCHASTIC, 3, 6, LABELS)
    assert trajectory.x_t.shape == trajectory.x0.shape == (8, 6, 1, 8, 8)
    assert trajectory.x_t.dtype == torch.uint8 and len(trajectory) == 7
    for last in (trajectory.x_t[-1], trajectory.x0[-1]):
        assert (last.int() - drawn.int()).abs().max() <= 1  # other threads may round otherwise


def test_a_trajectory_keeps_every_step_and_its_noise_level():
    model, progress = denoiser(), []
    trajectory = compute(model, STOCHASTIC, 3, 6, LABELS, progress.append)
    taken = list(steps(model, STOCHASTIC, 3, range(1, 7), LABELS))
    assert progress == [1, 2, 3, 4, 5, 6, 7]
    assert trajectory.timesteps == [step.t for step in taken]
    log_snr = [float(model.schedule.log_snr[step.t]) for step in taken]
    assert trajectory.log_snr == log_snr
    sigma = [math.sqrt(1 / (1 + math.exp(level))) for level in log_snr]
    assert trajectory.sigma == pytest.approx(sigma, rel=1e-6)
    for i, step in enumerate(taken):
        assert torch.equal(trajectory.x_t[i], to_pixels(step.x_t))
        assert torch.equal(trajectory.x0[i], to_pixels(step.x0))


def test_samplers_with_one_seed_start_from_one_noise():
    one, other = (
        compute(denoiser(), Sampler(method, 4, "trailing"), 5, 6, LABELS)
        for method in ("ddim", "dpmsolver++")
    )
    assert torch.equal(one.x_t[0], other.x_t[0]) and not torch.equal(one.x_t[-1], other.x_t[-1])


def test_trajectories_computed_at_the_same_time_do_not_disturb_each_other():
    model, before = denoiser(), torch.get_rng_state()

    def states(seed: int) -> torch.Tensor:
        return compute(model, STOCHASTIC, seed, 6, LABELS).x_t

    alone = [states(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(states, range(4)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
