"""The page of `make web`, in a real browser without network."""

from __future__ import annotations

import shutil

import pytest
import torch
from playwright.sync_api import sync_playwright

from benchmarks.demo import CHROMIUM, FLAGS
from src.common.dataset import to_pixels
from src.common.errors import UserError
from src.diffusion import Sampler, sample
from src.distillation.students import student_of
from tests.helpers import ROOT, denoiser
from tools import web

PATIENCE = 300_000  # milliseconds, so that a slow machine does not fail
DRAW = "async ([digits, noise]) => [...await window.digits.draw(digits, noise)]"
SAMPLER = Sampler("ddim", 2, "trailing", eta=1.0)
SHOWN = "() => document.getElementById('state').textContent.match(/digits in/)"

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="wants npm in the path")


@pytest.fixture(scope="module")
def student():
    return student_of(denoiser(image_size=28, margin=0.1, attention_resolutions=(7,)))


@pytest.fixture(scope="module")
def page(student, tmp_path_factory):
    """The address of the page with this student."""
    path = tmp_path_factory.mktemp("web") / "digits.html"
    try:
        text = web.page(student, SAMPLER, "MNIST", ROOT / ".scratch")
    except UserError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip(f"wants the network: {error}")
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@needs_npm
@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="wants a browser: chromium in the path")
def test_the_page_draws_what_python_draws_and_fetches_nothing(page, student):
    labels = torch.tensor([2, 0, 2, 6, 9])
    noise = torch.randn(2, 5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    *_, last = sample(student, iter(noise).__next__, SAMPLER, labels)
    expected = to_pixels(last.x0).flatten().int()
    fetched, troubles = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        window = browser.new_context(offline=True).new_page()
        window.set_default_timeout(PATIENCE)
        window.on("request", lambda request: fetched.append(request.url))
        window.on("pageerror", lambda error: troubles.append(str(error)))
        window.goto(page)
        assert "trained on MNIST, draws" in window.text_content("body")
        window.wait_for_function(SHOWN)
        drawn = window.evaluate(DRAW, [labels.tolist(), noise.flatten().tolist()])
        assert (torch.tensor(drawn) - expected).abs().max() <= 2
        assert expected.unique().numel() > 50  # the images are no single grey

        # Typing on keeps what was written; another hand writes it in another way.
        first = window.evaluate("() => document.getElementById('canvas').toDataURL()")
        window.fill("#number", "2026 07")
        window.wait_for_function("() => document.getElementById('canvas').width === 6 * 84")
        assert "2 digits in" in window.inner_text("#state")
        window.fill("#number", "2026")
        window.wait_for_function("() => document.getElementById('canvas').width === 4 * 84")
        assert window.evaluate("() => document.getElementById('canvas').toDataURL()") == first
        window.click("#again")
        window.wait_for_function(SHOWN)
        assert window.evaluate("() => document.getElementById('canvas').toDataURL()") != first
        with window.expect_download() as download:
            window.click("#save")
        assert download.value.suggested_filename == "2026.png"
        browser.close()
    assert not troubles
    assert all(address.startswith(("file:", "blob:", "data:")) for address in fetched), fetched


@pytest.mark.slow
def test_the_model_of_the_page_is_small(params):
    """With the network of params.yaml it has less than 4 MB."""
    model = params.model
    full = denoiser(
        image_size=28,
        base_channels=model.base_channels,
        res_blocks=model.res_blocks,
        attention_resolutions=(7,),
        time_width=model.time_width,
    )
    assert len(web.onnx_graph(student_of(full))) < 4e6


def test_a_model_of_other_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="grey digits of 28x28 pixels in 10 classes"):
        web.page(denoiser(), SAMPLER, "own", tmp_path)


def test_a_missing_npm_and_a_damaged_package_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm: not found.*put onnxruntime-web-"):
        web.runtime(tmp_path)
    (tmp_path / web.RUNTIME).write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"expected the sha512 .* Delete the file"):
        web.runtime(tmp_path)
