import pytest
import torch

from src.drawing import Sampler, choose_labels, draw, walks
from src.errors import UserError
from tests.conftest import denoiser

SAMPLER = Sampler("dpmsolver++", 6, "logsnr", guidance=1.5, guidance_interval=(-4.0, 2.0))


def test_an_image_depends_on_the_seed_and_its_number_alone():
    model, labels = denoiser(), torch.arange(12) % 10
    images = draw(model, SAMPLER, 0, 12, labels)
    assert images.shape == (12, 1, 8, 8) and images.dtype == torch.uint8
    assert (draw(model, SAMPLER, 0, 5, labels[:5]).int() - images[:5].int()).abs().max() <= 1
    assert not torch.equal(draw(model, SAMPLER, 1, 12, labels), images)


def test_walks_number_the_images_and_take_every_step():
    seen = [(numbers, [step.t for step in walk]) for numbers, walk in walks(denoiser(), SAMPLER, 0, 7, None, batch_size=3)]
    timesteps = denoiser().schedule.sampling_timesteps(6, "logsnr")
    assert seen == [(range(1, 4), timesteps), (range(4, 7), timesteps), (range(7, 8), timesteps)]


@pytest.mark.parametrize("guidance, interval", [(1.0, (-4.0, 2.0)), (1.5, (-4.0, 2.0)), (1.5, None), (1.5, (100.0, 200.0))])
def test_evaluations_are_those_that_the_network_sees(guidance, interval):
    model, sampler, seen = denoiser(), Sampler("ddim", 10, "trailing", 0.0, guidance, interval), []
    model.unet.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    draw(model, sampler, 0, 4, torch.zeros(4, dtype=torch.long))
    assert sum(seen) == 4 * sampler.evaluations(model)


def test_guidance_outside_its_interval_changes_nothing():
    model, labels = denoiser(), torch.arange(4)
    plain, off, on = (
        draw(model, Sampler("ddim", 5, "trailing", 0.0, guidance, interval), 0, 4, labels)
        for guidance, interval in ((1.0, None), (3.0, (100.0, 200.0)), (3.0, None))
    )
    assert torch.equal(plain, off) and not torch.equal(plain, on)


def test_classes_are_cycled_drawn_or_absent():
    assert choose_labels([7, 1], [5] * 10, 0, 5).tolist() == [7, 1, 7, 1, 7]
    drawn = choose_labels(None, [0, 30, 10], 0, 2000)
    assert torch.bincount(drawn, minlength=3)[0] == 0 and (drawn == 1).double().mean() == pytest.approx(0.75, abs=0.05)
    assert choose_labels(None, [], 0, 5) is None


@pytest.mark.parametrize("classes, counts", [([3], [1, 1]), ([0], [])])
def test_classes_that_the_model_does_not_have_are_refused(classes, counts):
    with pytest.raises(UserError, match="sample.classes"):
        choose_labels(classes, counts, 0, 5)
