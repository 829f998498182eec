"""The demo in a real browser: headless Chromium, driven by playwright.

Screenshots go to .scratch/screenshots/.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.demo import CHROMIUM, FLAGS, serving
from tests.helpers import ROOT, clone_into, run

SCREENSHOTS = ROOT / ".scratch" / "screenshots"
IMAGE = "document.querySelector('[data-testid=\"stImage\"] img')"
ALL_LOADED = """[...document.querySelectorAll('[data-testid="stImage"] img')]
    .every(image => image.complete && image.naturalWidth > 0)"""
PATIENCE = 900_000  # milliseconds, so that a slow machine does not fail
expect.set_options(timeout=PATIENCE)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="wants a browser: chromium in the path"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """`make demo`, but for the installation, in a fresh clone with the committed model."""
    clone = clone_into(tmp_path_factory.mktemp("browser") / "clone")
    run("dvc", "pull", "--quiet", "models/model.safetensors", cwd=clone)
    with serving(clone) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        yield started
        started.close()


@pytest.fixture
def opened(browser, address):
    """Opens the demo in a window of some size and theme.

    At the end, checks that every image is there, that the console had no errors and that no
    request left this machine.
    """
    contexts, pages, troubles = [], [], []

    def watch(page: Page) -> None:
        def note_error(message) -> None:
            # A slow browser asks for an image that the server has replaced since.
            replaced = "/media/" in message.text + message.location.get("url", "")
            if message.type == "error" and not replaced:
                troubles.append(message.text)

        def note_other_address(request) -> None:
            if not request.url.startswith((address, "data:", "blob:")):
                troubles.append(request.url)

        page.on("console", note_error)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", note_other_address)

    def open_page(width: int = 1280, height: int = 900, theme: str = "light") -> Page:
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, color_scheme=theme))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        pages.append(page)
        watch(page)
        page.goto(address)
        expect(images(page)).to_be_visible()
        return page

    yield open_page
    for page in pages:
        page.wait_for_function(ALL_LOADED)
    for context in contexts:
        context.close()
    assert troubles == []


def images(page: Page):
    return page.locator('[data-testid="stImage"] img')


def where(page: Page):
    return page.locator(".where")


def shot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(300)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def downloaded(page: Page, button: str) -> Image.Image:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))


def brightness(page: Page) -> int:
    """Red, green and blue of the background, added."""
    ground = page.get_by_test_id("stApp").evaluate("app => getComputedStyle(app).backgroundColor")
    return sum(map(int, re.findall(r"\d+", ground)[:3]))


def test_the_slider_goes_from_noise_to_digits(opened, params):
    page = opened(theme="dark")
    assert brightness(page) < 200
    expect(where(page)).to_contain_text("Finished")
    finished = images(page).get_attribute("src")
    assert finished.endswith(".png")
    slider = page.get_by_test_id("stMain").get_by_role("slider")
    top = images(page).bounding_box()
    slider.focus()
    slider.press("Home")
    expect(where(page)).to_contain_text("t = 999")
    shot(page, "noise")
    for _ in range(params.sample.steps // 2):
        slider.press("ArrowRight")
    expect(where(page)).to_contain_text(f"step {params.sample.steps // 2 + 1} of")
    page.get_by_role("radio", name="predicted image").click()
    shot(page, "halfway")
    assert images(page).bounding_box() == top  # nothing has jumped
    slider.focus()
    slider.press("End")
    expect(where(page)).to_contain_text("Finished")
    assert images(page).evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    expect(images(page)).to_have_attribute("src", finished)


def test_animation_and_picture_are_downloaded(opened, params):
    page = opened()
    assert brightness(page) > 600
    with downloaded(page, "GIF") as animation:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(animation)]
    assert len(frames) == params.sample.steps + 1
    # Grey noise at first, a black background in the end.
    assert np.median(frames[0]) > 60 > 20 > np.median(frames[-1])
    with downloaded(page, "PNG") as picture:
        assert picture.size == (1120, 1120)  # ten by ten, each pixel 4 x 4
        pixels = np.asarray(picture)
        assert (pixels[::4, ::4].repeat(4, 0).repeat(4, 1) == pixels).all()


def test_everything_fits_a_phone_and_a_number_is_drawn_there(opened):
    page = opened(width=390, height=844)
    shot(page, "phone")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("main => main.scrollWidth - main.clientWidth") <= 0  # nothing sticks out
    radio = page.get_by_role("radio", name="predicted image")
    for part in (images(page), page.get_by_role("button", name="GIF"), radio):
        box = part.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_role("radio", name="A number").click()
    page.get_by_test_id("stTextInputField").fill("31")
    page.get_by_test_id("stTextInputField").press("Enter")
    page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
    expect(images(page)).to_be_visible()
    page.wait_for_function(f"{IMAGE}.naturalWidth == 56")
    shot(page, "number_phone")


def test_two_samplers_stand_side_by_side(opened):
    page = opened(width=1400)
    page.get_by_text("Compare with another").click()
    expect(images(page)).to_have_count(2)
    left, right = (images(page).nth(i).bounding_box() for i in range(2))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    slider = page.get_by_test_id("stMain").get_by_role("slider")
    slider.focus()
    slider.press("Home")
    expect(where(page).nth(1)).to_contain_text("Pure noise")
    expect(where(page).nth(0)).to_contain_text("Pure noise")
    shot(page, "compare")
    noise = images(page).nth(0).get_attribute("src")
    expect(images(page).nth(1)).to_have_attribute("src", noise)


def test_two_visitors_do_not_disturb_each_other(opened):
    one = opened()
    undisturbed = images(one).get_attribute("src")
    other = opened()
    other.get_by_role("button", name="Random", exact=True).click()
    one.reload()
    expect(images(one)).to_be_visible()
    expect(images(one)).to_have_attribute("src", undisturbed)
    other.wait_for_function(f"{IMAGE}.src.indexOf('{undisturbed}') < 0")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens")
def test_other_machines_cannot_connect(address):
    port, listens = f"{int(address.rsplit(':', 1)[1]):04X}", "0A"
    addresses = set()
    for table in filter(Path.exists, (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))):
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
        sockets = [(*row[1].split(":"), row[3]) for row in rows]
        addresses |= {host for host, at, state in sockets if (at, state) == (port, listens)}
    # The kernel's 127.0.0.1 and ::1.
    assert addresses and addresses <= {"0100007F", "00000000000000000000000001000000"}


def test_plots_of_dvc_need_no_network(browser, tmp_path):
    clone = clone_into(tmp_path / "clone")
    run("dvc", "plots", "show", cwd=clone)
    page, requests, errors = browser.new_page(), [], []
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{clone}/dvc_plots/index.html")
    expect(page.locator("canvas").first).to_be_visible()
    assert page.locator("canvas").count() >= 5
    assert page.locator('img[src*="samples_by_class"]').count() >= 1
    page.close()
    assert errors == [] and all(url.startswith(("file:", "data:", "blob:")) for url in requests)
