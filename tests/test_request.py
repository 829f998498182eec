"""The demo draws what a visitor may ask for, and nothing beyond."""

import pytest
import torch

from src.common.errors import UserError
from src.demo.request import MAX_IMAGES, MAX_STEPS, Request
from src.diffusion.samplers import Sampler
from src.drawing import draw
from tests.helpers import denoiser

RIGHT = dict(
    method="ddim",
    steps=10,
    spacing="trailing",
    eta=0.5,
    guidance=1.5,
    guidance_interval=[-4.0, 0.0],
    autoguidance=1.0,
    autoguidance_interval=None,
    seed=0,
    count=3,
    digits=(1, 2, 3),
)


def test_what_is_within_bounds_is_drawn_as_asked():
    request = Request.of(**RIGHT)
    expected = Sampler("ddim", 10, "trailing", 0.5, 1.5, (-4.0, 0.0), 1.0, None)
    assert request.sampler == expected
    assert torch.equal(request.labels(denoiser()), torch.tensor([1, 2, 3]))
    assert request == Request.of(**RIGHT) and hash(request) == hash(Request.of(**RIGHT))


@pytest.mark.parametrize(
    "key, value",
    [
        ("steps", MAX_STEPS + 1),
        ("steps", 0),
        ("steps", 2.5),
        ("count", MAX_IMAGES + 1),
        ("count", 0),
        ("seed", -1),
        ("seed", 2**31),
        ("guidance", 1e9),
        ("guidance", float("nan")),
        ("autoguidance", -1.0),
        ("eta", float("inf")),
        ("method", "plms"),
        ("spacing", "../x"),
        ("digits", (-1,)),
        ("guidance_interval", ["a", "b"]),
        ("guidance_interval", [-4.0]),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(key, value):
    with pytest.raises(UserError, match=rf"^{key}[.:].*[;,] found "):
        Request.of(**RIGHT | {key: value})


def test_an_interval_that_ends_before_it_starts_is_refused_by_name():
    with pytest.raises(UserError, match=r"^autoguidance_interval: .*expected \[low, high\]"):
        Request.of(**RIGHT | {"autoguidance_interval": [0.0, -4.0]})


@pytest.mark.parametrize(
    "method, eta, most", [("ddim", 3.0, 1), ("ddim", 1.1, 1), ("sa-solver", 2.1, 2)]
)
def test_more_fresh_noise_than_the_method_allows_is_refused(method, eta, most):
    with pytest.raises(UserError, match=f"^eta: expected 0 to {most} for {method}, got {eta}"):
        Request.of(**RIGHT | {"method": method, "eta": eta})


@pytest.mark.parametrize("method", ["ddpm", "dpmsolver++"])
def test_the_eta_of_a_method_that_has_none_is_ignored(method):
    requests = [Request.of(**RIGHT | {"method": method, "eta": eta}) for eta in (0.0, 1.0)]
    model = denoiser()
    one, other = (
        draw(model, request.sampler, request.seed, request.count, request.labels(model))
        for request in requests
    )
    assert torch.equal(one, other)


def test_what_nobody_offers_cannot_be_asked_for():
    with pytest.raises(UserError, match="path"):
        Request.of(**RIGHT, path="/etc/passwd")


@pytest.mark.parametrize("digits", [(1, 2), (1, 2, 3, 4), (1, 2, 10)])
def test_classes_that_the_model_does_not_have_are_refused(digits):
    with pytest.raises(UserError, match="digits: expected 3 classes from 0 to 9"):
        Request.of(**RIGHT | {"digits": digits}).labels(denoiser())


def test_a_model_without_classes_is_asked_for_none():
    assert Request.of(**RIGHT | {"digits": None}).labels(denoiser(classes=0)) is None
    assert Request.of(**RIGHT).labels(denoiser(classes=0)) is None
    with pytest.raises(UserError, match="digits: expected 3 classes"):
        Request.of(**RIGHT | {"digits": None}).labels(denoiser())
