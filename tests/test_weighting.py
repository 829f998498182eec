"""The weights of the loss, each derived from another one."""

import pytest
import torch

from src.diffusion.weighting import Weighting
from tests.helpers import denoiser
from tests.test_denoiser import Fixed

T = torch.arange(0, 1000, 37)
PATHS = [(p, s) for p in ("epsilon", "v", "x0", "velocity") for s in ("linear", "cosine", "flow")]


def error_of_x0(prediction: str, schedule: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a network that is wrong everywhere, and the squared error of its x0."""
    model = denoiser(prediction, schedule)
    random = torch.Generator().manual_seed(0)
    x0, eps, wrong = torch.randn(3, len(T), 1, 8, 8, generator=random, dtype=torch.float64)
    model.unet = Fixed(wrong)
    error = model.predict_x0(model.schedule.add_noise(x0, eps, T), T) - x0
    return model.loss(x0, eps, T, None), error.square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("prediction, schedule", PATHS)
def test_the_loss_is_the_weighted_error_of_x0(prediction, schedule):
    loss, error = error_of_x0(prediction, schedule)
    model = denoiser(prediction, schedule)
    torch.testing.assert_close(loss, model.output_weight[T] * error, rtol=1e-6, atol=0)
    alpha, sigma, snr = model.schedule.alpha, model.schedule.sigma, model.schedule.log_snr.exp()
    known = {
        "epsilon": snr,
        "x0": torch.ones_like(snr),
        "v": ((alpha**2 + sigma**2) / sigma) ** 2,  # SNR + 1 where the variance is preserved
        "velocity": sigma**-2,  # on the flow path
    }
    if prediction != "velocity" or schedule == "flow":
        torch.testing.assert_close(model.output_weight, known[prediction], rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction, schedule", PATHS)
def test_min_snr_weights_the_error_of_x0_alike_for_all_predictions(prediction, schedule):
    loss, error = error_of_x0(prediction, schedule)
    model = denoiser(prediction, schedule)
    weighted = Weighting("min-snr 5", model)(loss, T)
    expected = model.schedule.log_snr.exp()[T].clamp(max=5) * error
    torch.testing.assert_close(weighted, expected, rtol=1e-5, atol=0)


def test_an_infinite_limit_of_min_snr_is_the_uniform_loss_of_epsilon():
    loss, _ = error_of_x0("epsilon", "cosine")
    weighting = Weighting("min-snr 1e300", denoiser("epsilon", "cosine"))
    torch.testing.assert_close(weighting(loss, T), loss, rtol=1e-6, atol=0)
    assert Weighting("uniform", denoiser())(loss, T) is loss


def test_the_learned_weight_finds_the_loss_of_each_noise_level():
    """u is least where e^u is the mean loss, so every noise level then counts 1."""
    weighting = Weighting("learned", denoiser())
    t = torch.arange(1000)
    loss = torch.exp(-3 + 2 * torch.sin(t / 300))
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        weighting(loss, t).mean().backward()
        optimizer.step()
    with torch.no_grad():
        weights = (weighting(2 * loss, t) - weighting(loss, t)) / loss
    torch.testing.assert_close(weights * loss, torch.ones(1000), rtol=0, atol=0.1)


@pytest.mark.parametrize("name", ["", "snr", "min-snr", "min-snr 0", "min-snr nan", "learned 1"])
def test_other_weightings_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^expected uniform.*found '{name}'$"):
        Weighting(name, denoiser())
