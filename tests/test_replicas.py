"""Copies of the model, one a core."""

import copy

import pytest
import torch

from src.training.muon import Muon
from src.training.replicas import LEAST_IMAGES, Replicas
from src.training.trainer import Trainer
from tests.helpers import denoiser
from tests.test_trainer import change, data, flat, settings, trained  # noqa: F401


@pytest.fixture
def cores():
    """Two threads, and the number of before at the end, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@pytest.fixture
def large(data, settings):  # noqa: F811
    images, labels = (values.repeat(2, *[1] * (values.ndim - 1)) for values in data)
    return (images, labels), change(settings, batch_size=2 * LEAST_IMAGES + 2)


class Square(torch.nn.Module):
    """Its loss is (w . x)^2; the reported one is twice that."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, batch):
        loss = (batch["x0"] @ self.w).square().mean()
        return loss, 2 * loss


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradient_and_loss_are_those_of_the_whole_batch(count):
    x0 = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    alone, model = Square(), Square()
    loss, reported = alone({"x0": x0})
    (0.5 * loss).backward()
    with Replicas(model, count) as replicas:
        for passes in (1, 2):  # gradients add up
            value = replicas.backward({"x0": x0}, 0.5)
            torch.testing.assert_close(model.w.grad, passes * alone.w.grad)
    assert value == pytest.approx(reported.item(), rel=1e-6)


def test_a_batch_smaller_than_the_number_of_copies(cores):
    model = Square()
    with Replicas(model, 3) as replicas:
        replicas.backward({"x0": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}, 1.0)
    torch.testing.assert_close(model.w.grad, torch.tensor([1.0, -2.0]))


def test_an_error_in_a_copy_reaches_the_caller(cores):
    with Replicas(Square(), 2) as replicas, pytest.raises(RuntimeError):
        replicas.backward({"x0": torch.ones(4, 3)}, 1.0)
    assert torch.get_num_threads() == cores


def test_copies_follow_the_model_and_threads_are_given_back(cores):
    replicas = Replicas(Square(), 2)
    replicas.models[0].w.data += 1  # as loaded from a checkpoint
    with replicas:
        assert torch.equal(replicas.models[1].w, replicas.models[0].w)
        with replicas.step():
            assert torch.get_num_threads() == 1
            replicas.models[0].w.data += 1
        assert torch.equal(replicas.models[1].w, replicas.models[0].w)
        assert torch.get_num_threads() == cores
    assert torch.get_num_threads() == cores


@pytest.mark.parametrize("weighting", ["uniform", "learned"])
def test_training_is_the_same_to_rounding(large, cores, weighting, monkeypatch):
    data, settings = large  # noqa: F811
    settings = change(settings, weighting=weighting)
    two, two_losses = trained(data, settings)
    assert len(two.replicas.models) == cores
    monkeypatch.setattr(Trainer, "_replica_count", lambda self: 1)
    one, one_losses = trained(data, settings)
    assert len(one.replicas.models) == 1
    assert two_losses == pytest.approx(one_losses, rel=1e-3)
    torch.testing.assert_close(flat(two.denoiser), flat(one.denoiser), rtol=0, atol=2e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_with_copies_resumes_to_the_last_bit(large, cores, precision):
    data, settings = large  # noqa: F811
    settings = change(settings, precision=precision)
    whole, losses = trained(data, settings)
    again, same_losses = trained(data, settings)
    assert losses == same_losses and torch.equal(flat(whole.averaged), flat(again.averaged))
    first = Trainer(denoiser(), *data, settings, 0, "cpu")
    steps = first.run()
    first_losses = [next(steps).loss for _ in range(3)]
    second = Trainer(denoiser(), *data, settings, 0, "cpu")
    second.load_state_dict(first.state_dict())
    assert first_losses + [step.loss for step in second.run()] == losses
    assert torch.equal(flat(second.averaged), flat(whole.averaged))


def test_small_batches_and_dropout_take_one_copy(large, cores):
    data, settings = large  # noqa: F811
    small = change(settings, batch_size=LEAST_IMAGES)
    for trainer in (
        Trainer(denoiser(), *data, small, 0, "cpu"),
        Trainer(denoiser(dropout=0.1), *data, settings, 0, "cpu"),
        Trainer(denoiser(), *data, change(settings, accumulation=2), 0, "cpu"),
    ):
        assert len(trainer.replicas.models) == 1


def test_muon_in_parts_takes_the_same_steps():
    random = torch.Generator().manual_seed(0)
    shapes = [(8, 8)] * 3 + [(8, 4, 3, 3)] * 2 + [(4, 8)]
    one = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    two = copy.deepcopy(one)
    for weights in (one, two):
        for i, weight in enumerate(weights):
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    Muon(one, lr=0.1, dtype=torch.float32).step()
    Muon(two, lr=0.1, dtype=torch.float32, parts=2).step()
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)
