"""Students: the loss of progressive distillation against the samplers, and interrupted training."""

import math
import os
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from src.common.dataset import Dataset, to_float
from src.common.errors import UserError
from src.diffusion import Sampler, sample
from src.distillation import adversarial
from src.distillation.adversarial import AdversarialTrainer
from src.distillation.distiller import Distiller, student_settings
from src.distillation.figure import quality_over_evaluations
from src.distillation.halving import CLEAN, Halving, Teacher, ddim_step, x0_of_step
from src.distillation.students import student_of, student_sampler
from src.training.checkpoint import Checkpoint
from tests.helpers import denoiser
from tests.test_trainer import flat

GUIDANCE = Sampler("ddim", 8, "trailing", guidance=1.5, guidance_interval=(-2, 1), autoguidance=1.3)


@pytest.fixture(params=["cosine", "flow"])
def teacher(request):
    """A denoiser with a guide, which is another network."""
    model = denoiser("v", request.param, margin=0.1)
    model.guide = denoiser("x0", request.param).unet
    with torch.no_grad():
        for weights in model.guide.parameters():
            weights.mul_(0.9)
    return model


def images(count: int = 6) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "x0": torch.rand(count, 1, 8, 8, generator=random) * 2 - 1,
        "eps": torch.randn(count, 1, 8, 8, generator=random),
        "label": torch.arange(count) % 10,
    }


def test_two_steps_of_the_teacher_are_those_of_the_sampler(teacher):
    """The sampler of 8 steps, from its first timestep to its third."""
    batch, sampler = images(), GUIDANCE
    steps = list(sample(teacher, lambda: batch["eps"], sampler, batch["label"]))
    guided = Teacher(teacher, sampler)
    x_t = batch["eps"]
    for step, following in pairwise(steps[:3]):
        t, s = (torch.full((6,), state.t) for state in (step, following))
        x_t = ddim_step(teacher.schedule, x_t, guided(x_t, t, batch["label"]), t, s)
        torch.testing.assert_close(x_t, following.x_t, atol=1e-4, rtol=1e-4)


def test_the_last_step_ends_in_x0_and_the_inverse_gives_it_back(teacher):
    batch, schedule = images(), teacher.schedule
    x0, t = batch["x0"], torch.tensor([999, 900, 500, 100, 50, 5])
    x_t = schedule.add_noise(x0, batch["eps"], t)
    clean = torch.full((6,), CLEAN)
    assert torch.equal(ddim_step(schedule, x_t, x0, t, clean), x0)
    for s in (clean, t // 2):
        x_s = ddim_step(schedule, x_t, x0, t, s)
        torch.testing.assert_close(x0_of_step(schedule, x_t, x_s, t, s), x0, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("step", range(4))
def test_the_loss_is_zero_where_one_step_of_the_student_ends_as_two_of_the_sampler(teacher, step):
    batch, student = images(), student_of(teacher)
    start, _, end = [*teacher.schedule.sampling_timesteps(8, "trailing"), CLEAN][2 * step :][:3]
    t, s = torch.full((6,), start), torch.full((6,), end)
    x_t = teacher.schedule.add_noise(teacher.encode(batch["x0"]), batch["eps"], t)
    states = list(sample(teacher, lambda: x_t, GUIDANCE, batch["label"], first=2 * step))
    x_s = states[2].x_t if end != CLEAN else states[1].x0
    exact = x0_of_step(teacher.schedule, x_t, x_s, t, s)
    loss = Halving(student, Teacher(teacher, GUIDANCE), 4)
    for error in (0.0, 0.1):
        student.predict_x0 = lambda x_t, t, label, error=error: exact + error
        weighted, plain = loss(batch | {"t": t})
        assert float(plain) == pytest.approx(error**2, rel=1e-2, abs=1e-6)
        snr = float(teacher.schedule.log_snr[start].exp())
        assert float(weighted) == pytest.approx(float(plain) * min(max(snr, 1), 20), rel=1e-4)


def test_every_timestep_belongs_to_one_step_of_the_student(teacher):
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, x_t, t, label):
            seen.append(t)
            return torch.zeros_like(x_t)

    loss = Halving(student_of(teacher), Watch(), 4)
    t = torch.arange(1000)
    batch = {"x0": torch.zeros(1000, 1, 8, 8), "eps": torch.zeros(1000, 1, 8, 8), "t": t}
    loss(batch)
    starts, halves = seen
    grid = teacher.schedule.sampling_timesteps(4, "trailing")
    assert starts.unique().tolist() == sorted(grid)
    assert bool((starts >= t).all()) and bool((halves < starts).all())
    assert starts.bincount()[grid].tolist() == [250] * 4


@pytest.fixture
def distiller(teacher, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adversarial, "HEAD_START", 1)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=random)
    labels = torch.arange(40) % 10
    data = Dataset("noise", "0" * 12, pixels, labels, pixels[:4], labels[:4])
    short = {"steps": 6, "batch_size": 12, "precision": "float32", "checkpoint_interval": 100}
    train = student_settings(params.train, params.distill).model_copy(update=short)

    def make(students=(4, 2), more=3, **changes):
        fresh = replace(GUIDANCE, steps=3)
        checkpoint = Checkpoint("distill", ["test"])
        settings = train.model_copy(update=changes)
        return Distiller(teacher, fresh, data, settings, list(students), more, 0, checkpoint)

    return make


def test_students_draw_without_guidance(distiller, teacher):
    pairs = distiller([4, 2, 1]).run()
    abouts = [{"evaluations": steps, "eta": eta} for steps, eta in ((4, 0.0), (2, 1.0), (1, 0.0))]
    assert [about for _, about in pairs] == abouts
    for student, about in pairs:
        sampler = student_sampler(about)
        assert sampler.evaluations(student) == about["evaluations"] and student.guide is None
        *_, last = sample(student, lambda: images()["eps"], sampler, images()["label"])
        assert last.x0.isfinite().all()
    assert len({flat(student).sum().item() for student, _ in pairs}) == 3
    with pytest.raises(ValueError, match="guidance: expected 1.0"):
        next(sample(student, lambda: images()["eps"], GUIDANCE, images()["label"]))


@pytest.mark.parametrize("stop", [2, 9, 14])
def test_an_interrupted_distillation_ends_in_the_same_bits(distiller, monkeypatch, stop):
    undisturbed = distiller()
    whole = undisturbed.run()
    undisturbed.checkpoint.remove()
    interrupted, count = distiller(), 0
    before = interrupted._next_trainer

    def next_trainer():
        trainer = before()
        run = trainer.run

        def watched():
            nonlocal count
            for step in run():
                count += 1
                if count == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield step

        trainer.run = watched
        return trainer

    interrupted._next_trainer = next_trainer
    with pytest.raises(SystemExit) as exit:
        interrupted.run()
    assert exit.value.code == 128 + signal.SIGTERM and count == stop
    last = distiller()
    resumed = last.run()
    for (a, about), (b, other) in zip(whole, resumed, strict=True):
        assert torch.equal(flat(a), flat(b)) and about == other
    last.checkpoint.remove()
    assert not list(last.checkpoint.path.parent.iterdir())


def test_distillation_brings_the_student_nearer_to_its_teacher(teacher, distiller):
    """One step of the student is nearer to two of the teacher than one of the teacher is."""
    batch = images(64)

    def drawn(model, sampler):
        *_, last = sample(model, lambda: batch["eps"], sampler, batch["label"])
        return last.x0

    target = drawn(teacher, replace(GUIDANCE, steps=2))
    untrained = (drawn(teacher, replace(GUIDANCE, steps=1)) - target).square().mean()
    ((student, about),) = distiller([1], steps=150, muon_lr=None, lr=3e-3).run()
    assert (drawn(student, student_sampler(about)) - target).square().mean() < untrained / 2


@pytest.fixture
def shades():
    """Images whose shade is their class."""
    labels = torch.arange(40) % 10
    pixels = (25 * labels).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8).contiguous()
    return Dataset("shades", "0" * 12, pixels, labels, pixels[:10], labels[:10])


@pytest.fixture
def adversary(teacher, shades, params, monkeypatch):
    monkeypatch.setattr(adversarial, "HEAD_START", 2)
    short = {"batch_size": 12, "precision": "float32", "warmup_steps": 2}

    def make(steps: int, **changes) -> AdversarialTrainer:
        train = student_settings(params.train, params.distill)
        settings = train.model_copy(update=short | {"steps": steps} | changes)
        return AdversarialTrainer(student_of(teacher), teacher, shades, settings, 0)

    return make


def test_the_discriminator_has_a_head_start(adversary):
    trainer = adversary(4)
    players = trainer.players.values()
    states = [[flat(player).clone() for player in players]]
    for _ in trainer.run():
        states.append([flat(player).clone() for player in players])
    moved = [
        [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        for before, after in pairwise(states)
    ]
    assert moved == [[True, False], [True, False], [True, True], [True, True]]
    short = adversary(2)  # where it takes half of the steps
    before = flat(short.players["student"]).clone()
    next(run := short.run())
    assert torch.equal(flat(short.players["student"]), before)
    next(run)
    assert not torch.equal(flat(short.players["student"]), before)


def test_an_adversary_takes_batches_in_parts_and_does_without_an_average(adversary):
    whole, parts = adversary(4), adversary(4, accumulation=2, ema=False)
    sizes, backward = [], parts.replicas.backward

    def noted(batch, weight):
        sizes.append(len(batch["x0"]))
        return backward(batch, weight)

    parts.replicas.backward = noted
    assert next(parts.run()).loss == pytest.approx(next(whole.run()).loss, rel=1e-4)
    assert sizes == [6, 6]  # of 12; the first step is the discriminator's
    assert parts.averaged is parts.game.student and whole.averaged is not whole.game.student


def test_an_adversary_of_a_model_with_dropout_does_not_use_it(shades, adversary):
    model = denoiser("v", margin=0.1, dropout=0.5)
    settings = adversary(3).settings
    pair = [AdversarialTrainer(student_of(model), model, shades, settings, 0) for _ in range(2)]
    one, other = [[step.loss for step in trainer.run()] for trainer in pair]
    assert one == other


def test_a_model_without_classes_has_an_adversary_on_images_with_labels(shades, adversary):
    """The labels of the data do not matter to it."""
    model = denoiser("v", margin=0.1, classes=0)
    settings = adversary(3).settings
    trainer = AdversarialTrainer(student_of(model), model, shades, settings, 0)
    before = flat(trainer.players["student"]).clone()
    assert [math.isfinite(step.loss) for step in trainer.run()] == [True] * 3
    assert not torch.equal(flat(trainer.players["student"]), before)


def test_the_discriminator_sees_images_at_the_noise_of_the_second_step_and_above(adversary):
    trainer = adversary(40)
    times = []
    for trainer.step in range(40):
        times.append(trainer._batch("student")["t"])
    t = torch.cat(times)
    second = trainer.game.end
    assert second == trainer.averaged.schedule.sampling_timesteps(2, "trailing")[1]
    assert int(t.min()) == second and 750 < int(t.max()) < 800
    assert 0.4 < (t == second).float().mean() < 0.6


def test_the_anchor_is_the_image_that_both_steps_drew_before(adversary):
    game, batch = adversary(1).game, images()
    batch |= {"z": batch["eps"], "eps_real": batch["eps"], "t": torch.full((6,), 600)}
    predicted = torch.rand(6, 1, 8, 8)
    *_, last = sample(
        game.before, lambda: batch["z"], Sampler("ddim", 2, "trailing"), batch["label"]
    )
    expected = adversarial.ANCHOR * (predicted - last.x0).square().mean()
    torch.testing.assert_close(game._anchor(batch, predicted), expected)
    with torch.no_grad():
        for weights in game.student.parameters():
            weights.mul_(0.9)
    s = torch.full((3,), game.end)
    x_s = game.student.schedule.add_noise(game.student.encode(batch["x0"][:3]), batch["eps"][:3], s)
    one, other = (
        network.predict_x0(x_s, s, batch["label"][:3]) for network in (game.before, game.student)
    )
    expected = expected + adversarial.SECOND_ANCHOR * (one - other).square().mean()
    torch.testing.assert_close(game._anchor(batch, predicted), expected)


@pytest.mark.slow
def test_adversarial_training_brings_the_first_step_nearer_to_the_images(
    adversary, shades, monkeypatch
):
    monkeypatch.setattr(adversarial, "ANCHOR", 0.0)
    monkeypatch.setattr(adversarial, "SECOND_ANCHOR", 0.0)
    trainer = adversary(300, lr=2e-3, muon_lr=None)
    z = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def error() -> float:
        t = torch.full((40,), trainer.game.start)
        x0 = trainer.averaged.predict_x0(z, t, shades.labels).clamp(-1.1, 1)
        return float(
            (x0.mean(dim=(1, 2, 3)) - to_float(shades.images).mean(dim=(1, 2, 3))).abs().mean()
        )

    before = error()
    for _ in trainer.run():
        pass
    assert error() < 0.8 * before


def test_more_steps_than_timesteps_are_refused_by_the_key(distiller):
    with pytest.raises(UserError, match=r"distill\.students: the first teacher takes 1024 steps"):
        distiller([512])


def test_the_figure_shows_what_was_measured():
    scores = {"fd_imagenet": None, "fd_digits": 3.0, "broken": 0.04, "accuracy": 0.99}
    rows = [
        {"model": model, "evaluations": count} | scores
        for model, count in (("student", 1), ("student", 2), ("teacher", 24))
    ]
    panels = quality_over_evaluations(pd.DataFrame(rows), "a note").axes
    values = {panel.get_title(): [line.get_ydata() for line in panel.lines] for panel in panels}
    assert [list(line) for line in values["Images in pieces, %"]] == [[4.0, 4.0], [4.0]]
    assert values["Not recognised as their class, %"][0] == pytest.approx([1.0, 1.0])
    assert all(np.isnan(line).all() for line in values["Distance in ImageNet features"])
