import copy
from dataclasses import replace
from multiprocessing.pool import ThreadPool

import pytest
import torch

from src.common.dataset import to_pixels
from src.common.errors import UserError
from src.diffusion.samplers import Sampler
from src.drawing import batches, choose_labels, draw, draw_classes, fitted, parts, steps
from tests.helpers import denoiser

SAMPLER = Sampler("dpmsolver++", 6, "logsnr", guidance=1.5, guidance_interval=(-4.0, 2.0))
NOWHERE = (100.0, 200.0)


def test_an_image_depends_on_the_seed_and_its_number_alone():
    model, labels = denoiser(), torch.arange(12) % 10
    images = draw(model, SAMPLER, 0, 12, labels)
    assert images.shape == (12, 1, 8, 8) and images.dtype == torch.uint8
    fewer = draw(model, SAMPLER, 0, 5, labels[:5])
    assert (fewer.int() - images[:5].int()).abs().max() <= 1
    assert not torch.equal(draw(model, SAMPLER, 1, 12, labels), images)


def test_batches_come_in_order_with_the_trajectory_of_the_first_images():
    model, labels = denoiser(), torch.arange(7)
    drawn = list(batches(model, SAMPLER, 0, labels, parts(7, 3), trajectories=4))
    images = draw(model, SAMPLER, 0, 7, labels)
    assert [batch.first for batch in drawn] == [1, 4, 7] and drawn[2].trajectory is None
    assert torch.equal(torch.cat([batch.images for batch in drawn]), images)
    trajectory = torch.cat([batch.trajectory for batch in drawn[:2]], dim=1)
    assert trajectory.shape == (7, 4, 1, 8, 8) and torch.equal(trajectory[-1], images[:4])
    taken = list(steps(model, SAMPLER, 0, range(1, 8), labels))
    assert [step.t for step in taken] == model.schedule.sampling_timesteps(6, "logsnr")
    noisy = torch.stack([to_pixels(step.x_t[0]) for step in taken])
    assert torch.equal(trajectory[:-1, 0], noisy)


def test_any_batches_may_be_drawn_in_any_order():
    model, labels = denoiser(), torch.arange(7)
    one, two, three = batches(model, SAMPLER, 0, labels, parts(7, 3), trajectories=4)
    chosen = [range(7, 8), range(4, 7)]
    last, middle = batches(model, SAMPLER, 0, labels, chosen, trajectories=4)
    assert one.first == 1 and (middle.first, last.first) == (two.first, three.first)
    assert torch.equal(middle.images, two.images) and torch.equal(last.images, three.images)


def test_drawing_leaves_the_number_of_threads_alone():
    def in_a_new_thread() -> int:  # what one thread sets, later ones inherit
        with ThreadPool(1) as pool:
            return pool.apply(torch.get_num_threads)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        draw(denoiser(), SAMPLER, 0, 4, torch.arange(4))
        assert torch.get_num_threads() == 2 and in_a_new_thread() == 2
    finally:
        torch.set_num_threads(before)


def test_images_do_not_depend_on_the_number_of_cores():
    before, drawn = torch.get_num_threads(), []
    try:
        for cores in (1, 2, 3):
            torch.set_num_threads(cores)
            drawn.append(draw(denoiser(), SAMPLER, 0, 9, torch.arange(9), batch_size=2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    "autoguidance, auto_interval",
    [(1.0, None), (1.5, None), (1.5, (-2.0, 0.0)), (1.5, NOWHERE)],
)
@pytest.mark.parametrize(
    "guidance, interval", [(1.0, (-4.0, 2.0)), (1.5, (-4.0, 2.0)), (1.5, None), (1.5, NOWHERE)]
)
def test_evaluations_are_those_that_the_network_sees(
    guidance, interval, autoguidance, auto_interval
):
    model, seen = denoiser(), []
    sampler = Sampler("ddim", 10, "trailing", 0.0, guidance, interval, autoguidance, auto_interval)
    model.guide = copy.deepcopy(model.unet)
    for network in (model.unet, model.guide):
        network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    draw(model, sampler, 0, 4, torch.zeros(4, dtype=torch.long))
    assert sum(seen) == 4 * sampler.evaluations(model)


def test_guidance_outside_its_interval_changes_nothing():
    model, labels = denoiser(), torch.arange(4)
    model.guide = denoiser(base_channels=8, time_width=16).unet
    torch.nn.init.zeros_(next(model.guide.parameters()))
    plain, off, by_class, by_guide = (
        draw(model, Sampler("ddim", 5, "trailing", 0.0, *settings), 0, 4, labels)
        for settings in (
            (),
            (3.0, NOWHERE, 2.0, NOWHERE),
            (3.0, None, 2.0, NOWHERE),
            (3.0, NOWHERE, 2.0, None),
        )
    )
    assert torch.equal(plain, off)
    assert not torch.equal(plain, by_class) and not torch.equal(plain, by_guide)
    assert not torch.equal(by_class, by_guide)


def test_classes_are_cycled_drawn_or_absent():
    assert choose_labels([7, 1], [5] * 10, 0, 5).tolist() == [7, 1, 7, 1, 7]
    drawn = choose_labels(None, [0, 30, 10], 0, 2000)
    assert torch.bincount(drawn, minlength=3)[0] == 0
    assert (drawn == 1).double().mean() == pytest.approx(0.75, abs=0.05)
    assert choose_labels(None, [], 0, 5) is None


def test_a_class_is_named_or_numbered_and_a_number_is_a_name_first():
    names = ["3", "7", "cat", "1"]
    assert choose_labels(["cat", 3, "7", 1, 2], [5] * 4, 0, 5, names).tolist() == [2, 0, 1, 3, 2]
    with pytest.raises(UserError, match="expected classes among 3, 7, cat, 1 or from 0 to 3"):
        choose_labels(["dog"], [5] * 4, 0, 5, names)
    with pytest.raises(UserError, match="found 4"):
        choose_labels([4], [5] * 4, 0, 5, names)


def test_the_class_of_an_image_depends_on_the_seed_and_its_number_alone():
    classes = draw_classes([3, 1, 2], 0, range(1, 50))
    assert torch.equal(classes[9:19], draw_classes([3, 1, 2], 0, range(10, 20)))
    assert not torch.equal(classes, draw_classes([3, 1, 2], 1, range(1, 50)))


@pytest.mark.parametrize("counts", [[600, 300, 0, 100], [1] * 10, [0, 5, 1, 0]])
@pytest.mark.parametrize("count", [60, 1000, 10_000])
def test_every_class_is_drawn_as_often_as_in_the_training_data_to_a_few_images(counts, count):
    for seed in range(5):
        classes = draw_classes(counts, seed, range(1, count + 1))
        drawn = torch.bincount(classes, minlength=len(counts))
        expected = torch.tensor(counts) * count / sum(counts)
        # Drawn one by one, 10,000 of ten classes are wrong by 50 or so.
        assert (drawn - expected).abs().max() < 5
        assert (drawn[torch.tensor(counts) == 0] == 0).all()


@pytest.mark.parametrize("classes, counts", [([3], [1, 1]), ([0], [])])
def test_classes_that_the_model_does_not_have_are_refused(classes, counts):
    with pytest.raises(UserError, match="sample.classes"):
        choose_labels(classes, counts, 0, 5)


def test_a_sampler_is_fitted_by_dropping_class_guidance_where_there_are_no_classes():
    sampler = Sampler("ddim", 5, "trailing", 0.5, 1.7, (-4.0, 2.0), 1.3, (-2.0, 0.0))
    assert fitted(sampler, denoiser()) == sampler
    assert fitted(sampler, denoiser(classes=0)) == replace(sampler, guidance=1.0)


@pytest.mark.parametrize(
    "labels, guidance, complaint",
    [
        (torch.tensor([0, 10]), 1.0, "labels: expected classes from 0 to 9, found 0 to 10"),
        (torch.tensor([0, -1]), 1.0, "labels: expected classes from 0 to 9, found -1 to 0"),
        (torch.tensor([5]), 1.0, "labels: expected one for each image up to number 2, found 1"),
        (None, 1.5, "guidance is 1.5 but there are no labels; pass labels, or set guidance to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, guidance, complaint):
    with pytest.raises(UserError, match=complaint):
        draw(denoiser(), Sampler("ddim", 2, "trailing", guidance=guidance), 0, 2, labels)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"guidance": 1.5}, r"guidance: expected 1\.0 .*label_dropout 0, got 1\.5"),
        ({"autoguidance": 1.5}, r"autoguidance: expected 1\.0 .*without a guide, got 1\.5"),
        ({"steps": 1001}, r"steps: expected 1 to 1000 .*got 1001"),
    ],
)
def test_a_sampler_that_the_model_cannot_take_is_refused_by_its_key(changes, complaint):
    sampler = replace(Sampler("ddim", 2, "trailing"), **changes)
    with pytest.raises(UserError, match=rf"^sample\.{complaint}"):
        draw(denoiser(label_dropout=0.0), sampler, 0, 2, torch.tensor([1, 2]))
