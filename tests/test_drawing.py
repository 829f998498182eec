import copy
from multiprocessing.pool import ThreadPool

import pytest
import torch

from src.common.dataset import to_pixels
from src.common.errors import UserError
from src.diffusion import denoiser as denoisers
from src.drawing import Sampler, batches, choose_labels, draw, draw_classes, open_model, parts, walk
from tests.conftest import denoiser

SAMPLER = Sampler("dpmsolver++", 6, "logsnr", guidance=1.5, guidance_interval=(-4.0, 2.0))


def test_an_image_depends_on_the_seed_and_its_number_alone():
    model, labels = denoiser(), torch.arange(12) % 10
    images = draw(model, SAMPLER, 0, 12, labels)
    assert images.shape == (12, 1, 8, 8) and images.dtype == torch.uint8
    assert (draw(model, SAMPLER, 0, 5, labels[:5]).int() - images[:5].int()).abs().max() <= 1
    assert not torch.equal(draw(model, SAMPLER, 1, 12, labels), images)


def test_batches_come_in_order_with_the_way_of_the_first():
    model, labels = denoiser(), torch.arange(7)
    found = list(batches(model, SAMPLER, 0, labels, parts(7, 3), ways=4))
    assert [batch.first for batch in found] == [1, 4, 7] and found[2].way is None
    assert torch.equal(torch.cat([batch.images for batch in found]), draw(model, SAMPLER, 0, 7, labels))
    way = torch.cat([batch.way for batch in found[:2]], dim=1)
    assert way.shape == (7, 4, 1, 8, 8) and torch.equal(way[-1], draw(model, SAMPLER, 0, 7, labels)[:4])
    steps = list(walk(model, SAMPLER, 0, range(1, 8), labels))
    assert [step.t for step in steps] == model.schedule.sampling_timesteps(6, "logsnr")
    assert torch.equal(way[:-1, 0], torch.stack([to_pixels(step.x_t[0]) for step in steps]))


def test_any_batches_may_be_drawn_in_any_order():
    model, labels = denoiser(), torch.arange(7)
    whole = list(batches(model, SAMPLER, 0, labels, parts(7, 3), ways=4))
    rest = list(batches(model, SAMPLER, 0, labels, [range(7, 8), range(4, 7)], ways=4))
    assert [batch.first for batch in rest] == [7, 4]
    for found, expected in zip(rest[::-1], whole[1:], strict=True):
        assert torch.equal(found.images, expected.images)


def test_drawing_leaves_the_number_of_threads_alone():
    def of_a_new_thread() -> int:  # what one thread sets, later ones inherit
        with ThreadPool(1) as pool:
            return pool.apply(torch.get_num_threads)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        draw(denoiser(), SAMPLER, 0, 4, torch.arange(4))
        assert torch.get_num_threads() == 2 and of_a_new_thread() == 2
    finally:
        torch.set_num_threads(before)


def test_images_do_not_depend_on_the_number_of_cores():
    before, found = torch.get_num_threads(), []
    try:
        for cores in (1, 2, 3):
            torch.set_num_threads(cores)
            found.append(torch.cat([b.images for b in batches(denoiser(), SAMPLER, 0, torch.arange(9), parts(9, 2))]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("autoguidance, other", [(1.0, None), (1.5, None), (1.5, (-2.0, 0.0)), (1.5, (100.0, 200.0))])
@pytest.mark.parametrize("guidance, interval", [(1.0, (-4.0, 2.0)), (1.5, (-4.0, 2.0)), (1.5, None), (1.5, (100.0, 200.0))])
def test_evaluations_are_those_that_the_network_sees(guidance, interval, autoguidance, other):
    model, sampler, seen = denoiser(), Sampler("ddim", 10, "trailing", 0.0, guidance, interval, autoguidance, other), []
    model.guide = copy.deepcopy(model.unet)
    for network in (model.unet, model.guide):
        network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    draw(model, sampler, 0, 4, torch.zeros(4, dtype=torch.long))
    assert sum(seen) == 4 * sampler.evaluations(model)


def test_guidance_outside_its_interval_changes_nothing():
    model, labels, nowhere = denoiser(), torch.arange(4), (100.0, 200.0)
    model.guide = denoiser(base_channels=8, time_width=16).unet
    torch.nn.init.zeros_(next(model.guide.parameters()))
    plain, off, by_class, by_guide = (
        draw(model, Sampler("ddim", 5, "trailing", 0.0, *settings), 0, 4, labels)
        for settings in ((), (3.0, nowhere, 2.0, nowhere), (3.0, None, 2.0, nowhere), (3.0, nowhere, 2.0, None))
    )
    assert torch.equal(plain, off)
    assert not torch.equal(plain, by_class) and not torch.equal(plain, by_guide) and not torch.equal(by_class, by_guide)


def test_classes_are_cycled_drawn_or_absent():
    assert choose_labels([7, 1], [5] * 10, 0, 5).tolist() == [7, 1, 7, 1, 7]
    drawn = choose_labels(None, [0, 30, 10], 0, 2000)
    assert torch.bincount(drawn, minlength=3)[0] == 0 and (drawn == 1).double().mean() == pytest.approx(0.75, abs=0.05)
    assert choose_labels(None, [], 0, 5) is None


def test_the_class_of_an_image_depends_on_the_seed_and_its_number_alone():
    assert torch.equal(draw_classes([3, 1, 2], 0, range(1, 50))[9:19], draw_classes([3, 1, 2], 0, range(10, 20)))
    assert not torch.equal(draw_classes([3, 1, 2], 0, range(1, 50)), draw_classes([3, 1, 2], 1, range(1, 50)))


@pytest.mark.parametrize("counts", [[600, 300, 0, 100], [1] * 10, [0, 5, 1, 0]])
@pytest.mark.parametrize("count", [60, 1000, 10_000])
def test_every_class_is_drawn_as_often_as_in_the_training_data_to_a_few_images(counts, count):
    for seed in range(5):
        found = torch.bincount(draw_classes(counts, seed, range(1, count + 1)), minlength=len(counts))
        expected = torch.tensor(counts) * count / sum(counts)
        assert (found - expected).abs().max() < 5  # drawn one by one, 10,000 of ten classes are wrong by 50 or so
        assert (found[torch.tensor(counts) == 0] == 0).all()


@pytest.mark.parametrize("classes, counts", [([3], [1, 1]), ([0], [])])
def test_classes_that_the_model_does_not_have_are_refused(classes, counts):
    with pytest.raises(UserError, match="sample.classes"):
        choose_labels(classes, counts, 0, 5)


def test_the_sampler_of_the_parameters_guides_where_there_are_classes(params):
    asked = params.sample.model_copy(update={"guidance": 1.7, "autoguidance": 1.3, "autoguidance_interval": [-2, 0]})
    guided = Sampler.of(asked, denoiser())
    assert (guided.method, guided.steps, guided.eta) == (asked.method, asked.steps, asked.eta)
    assert (guided.guidance, guided.guidance_interval) == (1.7, asked.guidance_interval)
    assert (guided.autoguidance, guided.autoguidance_interval) == (1.3, [-2, 0])
    assert Sampler.of(asked, denoiser(classes=0)).guidance == 1.0


def test_a_model_is_opened_ready_to_draw(tmp_path):
    denoisers.save(denoiser(), tmp_path / "model.safetensors", {"step": 3})
    model, about = open_model(tmp_path / "model.safetensors", "bfloat16")
    assert about["step"] == 3 and model.precision == "bfloat16" and not model.training
    assert draw(model, SAMPLER, 0, 2, torch.tensor([1, 2])).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("labels, guidance, said", [
    (torch.tensor([0, 10]), 1.0, "expected classes from 0 to 9, found 0 to 10"),
    (torch.tensor([0, -1]), 1.0, "expected classes from 0 to 9, found -1 to 0"),
    (torch.tensor([5]), 1.0, "expected one for each image up to number 2, found 1"),
    (None, 1.5, "found none, but a guidance of 1.5 by class"),
])
def test_labels_that_do_not_fit_are_refused(labels, guidance, said):
    with pytest.raises(UserError, match=f"labels: {said}"):
        draw(denoiser(), Sampler("ddim", 2, "trailing", guidance=guidance), 0, 2, labels)
