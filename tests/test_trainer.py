import errno
import math
import multiprocessing
import os
import time
from types import SimpleNamespace

import pytest
import torch

from src.common.errors import UserError
from src.diffusion.denoiser import Denoiser, DenoiserConfig
from src.diffusion.times import Times
from src.params import Train
from src.training.batches import Batches, augment
from src.training.heldout import level_edges, loss_by_noise_level
from src.training.setup import describe, untrained
from src.training.trainer import Trainer, ema_decay, limited, lr_factor
from tests.helpers import denoiser, schedule_config, unet_config

UNIFORM = Times.named("uniform")


@pytest.fixture
def data():
    labels = torch.arange(50) % 10
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 30, (50, 1, 8, 8), generator=random)
    return (images + 25 * labels.view(50, 1, 1, 1)).to(torch.uint8), labels


@pytest.fixture
def settings(params) -> Train:
    short = {"steps": 8, "batch_size": 12, "warmup_steps": 2, "precision": "float32"}
    return params.train.model_copy(update=short)


def change(settings: Train, **values) -> Train:
    return settings.model_copy(update=values)


def trained(data, settings, seed=0, **model):
    trainer = Trainer(denoiser(**model), *data, settings, seed, "cpu")
    return trainer, [step.loss for step in trainer.run()]


def flat(model: torch.nn.Module) -> torch.Tensor:
    """All weights of a model, (weights,)."""
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


@pytest.mark.slow
def test_training_lowers_the_loss(data, settings):
    _, losses = trained(data, change(settings, steps=120))
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


@pytest.mark.parametrize(
    "precision, weighting",
    [("float32", "uniform"), ("bfloat16", "uniform"), ("float32", "learned")],
)
def test_resumed_training_takes_the_same_steps_to_the_last_bit(
    data, settings, precision, weighting
):
    settings = change(settings, precision=precision, weighting=weighting)
    whole, losses = trained(data, settings, dropout=0.2)
    first = Trainer(denoiser(dropout=0.2), *data, settings, 0, "cpu")
    steps = first.run()
    first_losses = [next(steps).loss for _ in range(3)]
    second = Trainer(denoiser(dropout=0.2), *data, settings, 0, "cpu")
    torch.rand(17)  # nothing may depend on the global generator
    second.load_state_dict(first.state_dict())
    assert first_losses + [step.loss for step in second.run()] == losses
    assert torch.equal(flat(second.averaged), flat(whole.averaged))


@pytest.mark.slow
def test_accumulation_gives_the_same_training_to_rounding(data, settings):
    one, one_losses = trained(data, settings)
    three, three_losses = trained(data, change(settings, accumulation=3))
    assert three_losses == pytest.approx(one_losses, rel=1e-4)
    torch.testing.assert_close(flat(one.averaged), flat(three.averaged), rtol=1e-3, atol=1e-3)


def test_worker_processes_change_nothing(data, settings):
    few = change(settings, steps=3, augment_rotation=5.0, augment_shift=1.0)
    assert trained(data, few)[1] == trained(data, change(few, workers=2))[1]


@pytest.mark.parametrize("failure", [lambda *_: time.sleep(3600), lambda *_: os._exit(1)])
def test_worker_processes_that_send_no_batch_are_an_error(data, settings, monkeypatch, failure):
    monkeypatch.setattr("src.training.trainer.BATCH_TIMEOUT", 5)
    monkeypatch.setattr(Batches, "__getitem__", failure)
    complaint = r"train\.workers: a batch did not arrive .*train\.workers to 0"
    with pytest.raises(UserError, match=complaint):
        trained(data, change(settings, workers=1))
    for child in multiprocessing.active_children():  # would hold the output of the tests open
        child.kill()


def test_worker_processes_that_cannot_start_are_an_error(data, settings, monkeypatch):
    def full(loader):  # as with a /dev/shm of a few KiB
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("src.training.trainer.DataLoader.__iter__", full)
    with pytest.raises(UserError, match=r"train\.workers: a batch did not arrive .*/dev/shm"):
        trained(data, change(settings, workers=1))


@pytest.mark.parametrize("weighting", ["min-snr 5", "learned"])
def test_the_weighting_changes_the_weights_and_not_the_reported_loss(data, settings, weighting):
    plain, losses = trained(data, settings)
    other, weighted = trained(data, change(settings, weighting=weighting))
    assert weighted[0] == losses[0]
    assert not torch.equal(flat(other.denoiser), flat(plain.denoiser))


@pytest.mark.parametrize(
    "schedule, prediction, times",
    [
        ("cosine", "v", "focus 0.6 0.62"),
        ("linear", "v", "focus 0.6 0.33"),
        ("flow", "velocity", "focus 0.6 0.62"),
    ],
)
def test_auto_follows_the_schedule_and_is_printed(params, data, schedule, prediction, times):
    images, labels = data
    shape = SimpleNamespace(image_size=8, channels=1, classes=10)
    model = untrained(params.model, schedule_config(schedule), shape, seed=0)
    assert params.model.prediction == "auto" and model.config.prediction == prediction
    trainer = Trainer(model, images, labels, params.train, 0, "cpu")
    assert params.train.times == "auto" and str(trainer.batches.times) == times
    assert f"{schedule} schedule, predicts {prediction} (auto)" in describe(model, params.model)


def test_seeds_differ(data, settings):
    assert trained(data, settings)[1] != trained(data, settings, seed=1)[1]


def test_each_epoch_shows_each_image_once_in_another_order(data, settings):
    batches = Batches(*data, 10, change(settings, batch_size=15), 0.1, UNIFORM, seed=0)
    seen = torch.cat([batches.indices(step) for step in range(10)])  # 150 images: three epochs
    for epoch in seen.split(50):
        assert epoch.sort().values.tolist() == list(range(50))
    assert seen[:50].tolist() != seen[50:100].tolist()


def test_a_batch_may_be_larger_than_the_data_set(data, settings):
    batches = Batches(*data, 10, change(settings, batch_size=120), 0.1, UNIFORM, seed=0)
    assert torch.bincount(batches.indices(0), minlength=50).tolist().count(2) >= 30
    assert torch.bincount(torch.cat([batches.indices(i) for i in range(5)])).tolist() == [12] * 50


def test_a_time_that_rounds_up_to_one_is_the_last_timestep(data, settings):
    trainer = Trainer(denoiser(), *data, settings, 0, "cpu")
    batch = trainer.batches[0]
    batch["time"][-1] = 1.0
    assert math.isfinite(trainer._take(batch).loss)


def test_labels_are_dropped_at_the_asked_rate(data, settings):
    for rate in (0.0, 0.3):
        batches = Batches(*data, 10, change(settings, batch_size=100), rate, UNIFORM, seed=0)
        dropped = torch.cat([batches[step]["label"] for step in range(20)]) == 10
        assert dropped.float().mean().item() == pytest.approx(rate, abs=0.04)


def test_noise_and_times_have_the_right_distribution(data, settings):
    batches = Batches(*data, 10, change(settings, batch_size=100), 0.1, UNIFORM, seed=0)
    eps, t = (torch.cat([batches[step][key] for step in range(20)]) for key in ("eps", "time"))
    assert abs(eps.mean()) < 0.01 and eps.std().item() == pytest.approx(1, abs=0.01)
    for step in range(20):  # one time from each hundredth
        assert (batches[step]["time"] * 100).long().tolist() == list(range(100))
    assert 0 <= t.min() < 0.01 and 0.99 < t.max() < 1
    assert t.mean().item() == pytest.approx(0.5, abs=0.02)


def test_few_images_are_not_seen_more_often_than_the_limit_allows(settings):
    settings = change(settings, steps=1000, batch_size=10, max_epochs=3.0)
    assert limited(settings, 55).steps == 17 and limited(settings, 50_000).steps == 1000


@pytest.mark.slow
def test_the_average_is_the_weighted_mean_of_all_weights_so_far(data, settings):
    trainer = Trainer(denoiser(), *data, change(settings, ema_length=0.3), 0, "cpu")
    expected = flat(trainer.averaged).double()
    for step in trainer.run():
        decay = ema_decay(step.step, 0.3)
        expected = decay * expected + (1 - decay) * flat(trainer.denoiser).double()
    torch.testing.assert_close(flat(trainer.averaged).double(), expected, rtol=1e-5, atol=1e-6)


def test_without_averaging_the_trained_weights_are_kept(data, settings):
    trainer, _ = trained(data, change(settings, ema=False))
    assert trainer.averaged is trainer.denoiser


def test_learning_rate_warms_up_to_its_peak_and_anneals_to_zero(settings):
    long = change(settings, steps=1000, warmup_steps=100)
    rates = [2e-3 * lr_factor(step, long) for step in range(1001)]
    assert rates[0] == pytest.approx(2e-5) and max(rates) == rates[100] == pytest.approx(2e-3)
    assert rates[550] == pytest.approx(1e-3) and rates[1000] == pytest.approx(0, abs=1e-12)
    assert rates[100:] == sorted(rates[100:], reverse=True)
    brief = change(settings, steps=10, warmup_steps=200)
    short = [lr_factor(step, brief) for step in range(10)]
    assert max(short) == short[5] == 1 and short[:6] == sorted(short[:6])
    assert short[9] == pytest.approx(0.2)
    assert lr_factor(0, change(settings, steps=1, warmup_steps=200)) == 1


def test_matrices_inside_the_network_go_to_muon_and_all_else_to_adamw(data, settings):
    trainer = Trainer(denoiser(), *data, change(settings, muon_lr=0.02, lr=1e-3), 0, "cpu")
    names = {id(weight): name for name, weight in trainer.denoiser.named_parameters()}
    groups = [optimizer.param_groups[0] for optimizer in trainer.optimizers]
    adamw, muon = ({names[id(weight)] for weight in group["params"]} for group in groups)
    assert adamw.isdisjoint(muon) and adamw | muon == set(names.values())
    outside = ("stem", "head", "time_embedding.0", "class_embedding")
    biases = {name for name in names.values() if name.endswith(".bias")}
    assert adamw == {f"unet.{name}.weight" for name in outside} | biases
    next(trainer.run())
    warm = 1 / settings.warmup_steps
    assert [group["lr"] for group in groups] == pytest.approx([1e-3 * warm, 0.02 * warm])
    plain = Trainer(denoiser(), *data, change(settings, muon_lr=None), 0, "cpu")
    (adamw_alone,) = plain.optimizers
    assert len(adamw_alone.param_groups[0]["params"]) == len(names)


def test_gradients_are_clipped_but_reported_as_they_were(data, settings):
    trainer = Trainer(denoiser(), *data, change(settings, grad_clip=1e-3), 0, "cpu")
    applied, take_step = [], trainer.optimizers[0].step

    def step():
        gradients = [weights.grad.flatten() for weights in trainer.denoiser.parameters()]
        applied.append(torch.cat(gradients).norm().item())
        take_step()

    trainer.optimizers[0].step = step
    assert next(trainer.run()).grad_norm > 1e-2
    assert applied == [pytest.approx(1e-3, rel=1e-2)]


def test_mixed_precision_trains(data, settings):
    trainer, mixed = trained(data, change(settings, precision="bfloat16"))
    assert trainer.averaged.precision == "bfloat16"
    _, full = trained(data, settings)
    assert mixed != full and mixed == pytest.approx(full, rel=0.1)


def test_divergence_stops_with_the_step_and_what_to_try(data, settings):
    trainer = Trainer(denoiser(), *data, settings, 0, "cpu")
    steps = trainer.run()
    next(steps)
    with torch.no_grad():
        next(trainer.denoiser.parameters()).fill_(math.nan)
    complaint = r"diverged at step 2: loss nan.* at learning rates of 0\.\d+ \(AdamW\), .*train\.lr"
    with pytest.raises(UserError, match=complaint):
        next(steps)


@pytest.mark.parametrize("name", ["denoiser", "averaged"])
def test_weights_that_are_not_finite_are_not_kept(data, settings, name):
    trainer, _ = trained(data, settings)
    trainer.state_dict()
    with torch.no_grad():
        next(getattr(trainer, name).parameters()).view(-1)[0] = math.inf
    with pytest.raises(UserError, match=r"diverged at step \d+: weights that are not finite"):
        trainer.state_dict()


def test_augmentation_off_changes_nothing():
    images = torch.rand(4, 1, 8, 8)
    assert augment(images, 0, 0, torch.Generator()) is images


def test_augmentation_moves_by_at_most_so_many_pixels_and_never_flips():
    image = torch.full((200, 1, 16, 16), -1.0)
    image[:, 0, 6:10, 6] = 1.0  # an L: its foot points right
    image[:, 0, 9, 6:9] = 1.0
    moved = augment(image, 10.0, 2.0, torch.Generator().manual_seed(0)) + 1
    total = moved.sum(dim=(1, 2, 3))
    x, y = torch.arange(16.0), torch.arange(16.0)[:, None]
    centre_x = (moved[:, 0] * x).sum((1, 2)) / total
    centre_y = (moved[:, 0] * y).sum((1, 2)) / total
    before = image[0, 0] + 1
    start_x, start_y = (before * x).sum() / before.sum(), (before * y).sum() / before.sum()
    assert 1.0 < (centre_x - start_x).abs().max() < 2.6
    assert 1.0 < (centre_y - start_y).abs().max() < 2.6
    skew = (moved[:, 0] * (x - centre_x[:, None, None]) ** 3).sum((1, 2))
    assert (skew > 0).all()  # flipped left to right it would be negative


def test_heldout_loss_is_measured_without_dropout(data, settings):
    trainer, _ = trained(data, change(settings, ema=False, steps=2), dropout=0.5)
    one, same = (loss_by_noise_level(trainer.averaged, *data, seed=0, levels=5) for _ in range(2))
    assert torch.equal(one, same)


def test_heldout_loss_is_the_same_whatever_the_batch_size(data):
    model = denoiser()
    whole = loss_by_noise_level(model, *data, seed=0, levels=5, batch_size=50)
    parts = loss_by_noise_level(model, *data, seed=0, levels=5, batch_size=7)
    torch.testing.assert_close(whole, parts)
    assert whole.shape == (5,) and whole.isfinite().all()


def test_heldout_loss_is_of_as_many_images_as_the_limit_allows(data):
    model = denoiser()
    everything, few = (
        loss_by_noise_level(model, *data, seed=0, levels=1, limit=limit) for limit in (50, 20)
    )
    assert few.shape == (1,) and not torch.equal(everything, few)


def test_heldout_loss_has_no_empty_levels_of_few_images_or_timesteps(data):
    images, labels = data
    assert loss_by_noise_level(denoiser(), images[:3], labels[:3], seed=0).isfinite().all()
    coarse = Denoiser(DenoiserConfig(unet_config(), schedule_config(timesteps=4), "v", 0.1))
    levels = loss_by_noise_level(coarse, images, labels, seed=0, levels=10)
    assert levels.shape == (4,) and levels.isfinite().all()


@pytest.mark.parametrize("levels, timesteps", [(10, 1000), (3, 1000), (7, 50), (4, 4)])
def test_the_edges_of_the_levels_are_where_their_timesteps_begin_and_end(levels, timesteps):
    edges = level_edges(levels, timesteps)
    level = torch.arange(timesteps) * levels // timesteps  # as the held-out loss divides them
    for i in range(levels):
        members = (level == i).nonzero().flatten().tolist()
        assert members == list(range(edges[i], edges[i + 1]))
    assert len(edges) == levels + 1 and edges[-1] == timesteps


def test_heldout_loss_is_of_images_drawn_at_random(monkeypatch):
    """An archive by class has one class first."""
    black, white = torch.zeros(100, 1, 8, 8), torch.full((100, 1, 8, 8), 255)
    images = torch.cat([black, white]).to(torch.uint8)
    labels = torch.zeros(200, dtype=torch.long)
    model, are_white = denoiser(), []

    def loss(x0: torch.Tensor, *_) -> torch.Tensor:
        are_white.append(x0.amax((1, 2, 3)) > 0)
        return torch.zeros(len(x0))

    monkeypatch.setattr(model, "loss", loss)
    loss_by_noise_level(model, images, labels, seed=0, levels=1, limit=40)
    seen = torch.cat(are_white)
    assert 10 <= int(seen.sum()) <= 30 and len(seen) == 40
