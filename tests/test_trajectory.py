"""What the demo leafs through is what the pipeline would draw, whoever else draws meanwhile."""

from concurrent.futures import ThreadPoolExecutor

import torch

from src.common.dataset import to_pixels
from src.drawing import Sampler, draw, walk
from src.trajectory import compute
from tests.conftest import denoiser

LABELS = torch.arange(6)
STOCHASTIC = Sampler("sde-dpmsolver++", 7, "logsnr", 1.0, 1.5, (-4.0, 0.0))


def test_a_trajectory_ends_in_the_images_that_the_pipeline_draws():
    model = denoiser()
    found, drawn = compute(model, STOCHASTIC, 3, 6, LABELS), draw(model, STOCHASTIC, 3, 6, LABELS)
    assert found.x_t.shape == found.x0.shape == (8, 6, 1, 8, 8) and found.x_t.dtype == torch.uint8 and len(found) == 7
    for last in (found.x_t[-1], found.x0[-1]):
        assert (last.int() - drawn.int()).abs().max() <= 1  # other threads may round otherwise


def test_a_trajectory_keeps_every_step_and_its_noise_level():
    model, told = denoiser(), []
    found = compute(model, STOCHASTIC, 3, 6, LABELS, told.append)
    steps = list(walk(model, STOCHASTIC, 3, range(1, 7), LABELS))
    assert told == [1, 2, 3, 4, 5, 6, 7] and found.timesteps == [step.t for step in steps]
    assert found.log_snr == [float(model.schedule.log_snr[step.t]) for step in steps]
    for i, step in enumerate(steps):
        assert torch.equal(found.x_t[i], to_pixels(step.x_t)) and torch.equal(found.x0[i], to_pixels(step.x0))


def test_samplers_with_one_seed_start_from_one_noise():
    one, other = (compute(denoiser(), Sampler(method, 4, "trailing"), 5, 6, LABELS) for method in ("ddim", "dpmsolver++"))
    assert torch.equal(one.x_t[0], other.x_t[0]) and not torch.equal(one.x_t[-1], other.x_t[-1])


def test_walks_at_the_same_time_do_not_disturb_each_other():
    model, before = denoiser(), torch.get_rng_state()
    alone = [compute(model, STOCHASTIC, seed, 6, LABELS).x_t for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: compute(model, STOCHASTIC, seed, 6, LABELS).x_t, range(4)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
