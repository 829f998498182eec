"""The demo draws what may be asked for, and nothing beyond."""

import pytest
import torch

from src.common.errors import UserError
from src.request import MOST_IMAGES, MOST_STEPS, Request
from tests.conftest import denoiser

RIGHT = dict(
    method="ddim", steps=10, spacing="trailing", eta=0.5, guidance=1.5, guidance_interval=(-4.0, 0.0), autoguidance=1.0,
    autoguidance_interval=None, seed=0, count=3, digits=(1, 2, 3),
)


def test_what_is_within_bounds_is_drawn_as_asked():
    request = Request.of(**RIGHT)
    sampler = request.sampler()
    assert (sampler.method, sampler.steps, sampler.eta, sampler.guidance_interval) == ("ddim", 10, 0.5, (-4.0, 0.0))
    assert torch.equal(request.labels(denoiser()), torch.tensor([1, 2, 3]))
    assert request == Request.of(**RIGHT) and hash(request) == hash(Request.of(**RIGHT))


@pytest.mark.parametrize(
    "key, value",
    [
        ("steps", MOST_STEPS + 1), ("steps", 0), ("steps", 2.5), ("count", MOST_IMAGES + 1), ("count", 0), ("seed", -1),
        ("seed", 2**31), ("guidance", 1e9), ("guidance", float("nan")), ("autoguidance", -1.0), ("eta", 3.0), ("method", "plms"),
        ("spacing", "../x"), ("digits", (-1,)), ("guidance_interval", ("a", "b")),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"^{key}.*found"):
        Request.of(**RIGHT | {key: value})


def test_what_nobody_offers_cannot_be_asked_for():
    with pytest.raises(UserError, match="path"):
        Request.of(**RIGHT, path="/etc/passwd")


@pytest.mark.parametrize("digits", [(1, 2), (1, 2, 3, 4), (1, 2, 10)])
def test_classes_that_the_model_has_not_are_refused(digits):
    with pytest.raises(UserError, match="digits: expected 3 classes from 0 to 9"):
        Request.of(**RIGHT | {"digits": digits}).labels(denoiser())


@pytest.mark.parametrize("method, eta, found", [("ddpm", 0.0, 1.0), ("dpmsolver++", 1.0, 0.0), ("ddim", 2.0, 1.0)])
def test_fresh_noise_is_what_the_method_allows(method, eta, found):
    assert Request.of(**RIGHT | {"method": method, "eta": eta}).sampler().eta == found


def test_a_model_without_classes_is_asked_for_none():
    assert Request.of(**RIGHT | {"digits": None}).labels(denoiser(classes=0)) is None
    assert Request.of(**RIGHT).labels(denoiser(classes=0)) is None
    with pytest.raises(UserError, match="digits: expected 3 classes"):
        Request.of(**RIGHT | {"digits": None}).labels(denoiser())
