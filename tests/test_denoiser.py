import copy

import pytest
import torch
from torch import nn

from src.common.dataset import to_pixels
from src.diffusion.denoiser import Denoiser, DenoiserConfig
from tests.helpers import denoiser, schedule_config, unet_config


class Fixed(nn.Module):
    """A network that always gives the same answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, label=None):
        return self.answer


def with_guide(**unet) -> Denoiser:
    """A small denoiser with a guide that is worse."""
    model = denoiser(**unet)
    model.guide = copy.deepcopy(model.unet)
    with torch.no_grad():
        for weights in model.guide.parameters():
            weights.mul_(0.8)
    return model


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0", "velocity"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("t", [0, 100, 600])
def test_a_perfect_network_has_no_loss_and_finds_the_clean_image(prediction, schedule, t):
    model = denoiser(prediction, schedule)
    x0, eps, times = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(3, 1, 8, 8), torch.full((3,), t)
    model.unet = Fixed(model.target(x0, eps, times))
    assert model.loss(x0, eps, times, None).max() == 0
    predicted = model.predict_x0(model.schedule.add_noise(x0, eps, times), t)
    torch.testing.assert_close(predicted, x0, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_guidance_goes_from_no_class_through_the_class_and_beyond():
    model = denoiser("x0")
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([4, 7])
    conditional, unconditional = model.predict_x0(x, 500, label), model.predict_x0(x, 500, None)
    none = model.predict_x0(x, 500, label, guidance=0.0)
    torch.testing.assert_close(none, unconditional)
    beyond = model.predict_x0(x, 500, label, guidance=3.0)
    torch.testing.assert_close(beyond, unconditional + 3 * (conditional - unconditional))


@torch.inference_mode()
def test_autoguidance_goes_on_from_the_guide_through_the_model():
    model, x, label = with_guide(), torch.randn(3, 1, 8, 8), torch.tensor([0, 4, 9])
    worse = denoiser()
    worse.unet = model.guide
    own, guide = model.predict_x0(x, 500, label), worse.predict_x0(x, 500, label)
    unconditional = model.predict_x0(x, 500, torch.full_like(label, 10))
    assert not torch.allclose(own, guide)
    torch.testing.assert_close(model.predict_x0(x, 500, label, autoguidance=0.0), guide)
    beyond = model.predict_x0(x, 500, label, autoguidance=2.5)
    torch.testing.assert_close(beyond, guide + 2.5 * (own - guide))
    both = model.predict_x0(x, 500, label, guidance=1.5, autoguidance=2.5)
    torch.testing.assert_close(both, own + 0.5 * (own - unconditional) + 1.5 * (own - guide))


def test_autoguidance_needs_no_class():
    model, worse, x = with_guide(classes=0), denoiser(classes=0), torch.randn(3, 1, 8, 8)
    worse.unet = model.guide
    own, guide = model.predict_x0(x, 500), worse.predict_x0(x, 500)
    beyond = model.predict_x0(x, 500, autoguidance=3.0)
    torch.testing.assert_close(beyond, guide + 3 * (own - guide))


def test_autoguidance_of_a_model_without_a_guide_is_refused():
    with pytest.raises(ValueError, match=r"^autoguidance: expected 1\.0 .*got 2\.0.*guide_at"):
        denoiser().predict_x0(torch.randn(1, 1, 8, 8), 5, torch.tensor([1]), autoguidance=2.0)


def test_guidance_of_a_model_without_label_dropout_is_refused():
    model = denoiser(label_dropout=0.0)
    with pytest.raises(ValueError, match=r"^guidance: expected 1\.0 .*got 2\.0.*label_dropout"):
        model.predict_x0(torch.randn(1, 1, 8, 8), 5, torch.tensor([1]), guidance=2.0)


def test_an_unknown_prediction_is_refused_by_name():
    with pytest.raises(
        ValueError, match="^prediction: expected one of epsilon, v, x0, velocity, got 'y'"
    ):
        DenoiserConfig(unet_config(), schedule_config(), "y", 0.1)


def test_a_margin_moves_black_alone_and_the_clip_takes_it_back():
    model = denoiser(margin=0.1)
    x0 = torch.tensor([-1.0, -0.99, 0.5, 1.0]).view(1, 1, 2, 2)
    encoded = model.encode(x0)
    torch.testing.assert_close(encoded, torch.tensor([-1.1, -0.99, 0.5, 1.0]).view(1, 1, 2, 2))
    assert torch.equal(to_pixels(encoded), to_pixels(x0))
    assert torch.equal(to_pixels(encoded + 0.09)[..., 0, 0], torch.zeros(1, 1, dtype=torch.uint8))
    assert denoiser().encode(x0) is x0


def test_the_loss_is_that_of_encoded_images():
    model, plain = denoiser(margin=0.2), denoiser()
    x0, eps = torch.full((3, 1, 8, 8), -1.0), torch.randn(3, 1, 8, 8)
    t = torch.tensor([5, 300, 900])
    expected = plain.loss(x0 - 0.2, eps, t, None)
    torch.testing.assert_close(model.loss(x0, eps, t, None), expected)


def test_a_margin_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="^margin: expected 0 to 1, got 1.5"):
        DenoiserConfig(unet_config(), schedule_config(), "v", 0.1, 1.5)
