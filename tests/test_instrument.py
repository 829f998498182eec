"""The committed classifier as a measuring instrument, on MNIST itself: what is worse must measure worse."""

import numpy as np
import pytest
import torch
import yaml
from scipy import ndimage

from src import classifier, frechet
from tests.conftest import ROOT

pytestmark = pytest.mark.mnist


def blurred(images: np.ndarray, amount: float) -> np.ndarray:
    return ndimage.gaussian_filter(images, sigma=(0, 0, amount, amount))


def noisy(images: np.ndarray, amount: float) -> np.ndarray:
    return images + np.random.default_rng(0).normal(scale=255, size=images.shape) * amount


def occluded(images: np.ndarray, amount: float) -> np.ndarray:
    covered, side = images.copy(), round(28 * amount)
    corners = np.random.default_rng(0).integers(0, 29 - side, size=(len(images), 2))
    for image, (top, left) in zip(covered, corners, strict=True):
        image[0, top : top + side, left : left + side] = 0
    return covered


def rotated(images: np.ndarray, amount: float) -> np.ndarray:
    return ndimage.rotate(images, amount, axes=(2, 3), reshape=False, order=1)


@pytest.fixture(scope="module")
def instrument():
    outs = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["classifier"]["outs"]
    md5 = next(out["md5"] for out in outs if out["path"] == "models/classifier.safetensors")
    return classifier.load(ROOT / "dvc-remote" / "files" / "md5" / md5[:2] / md5[2:])[0]


@pytest.fixture(scope="module")
def measure(instrument, mnist):
    reference = frechet.moments(classifier.features(instrument, mnist.images[:20_000]).numpy())

    def distance(pixels: np.ndarray) -> float:
        images = torch.from_numpy(pixels.round().clip(0, 255).astype(np.uint8))
        return frechet.distance(frechet.moments(classifier.features(instrument, images).numpy()), reference)

    return distance


@pytest.mark.parametrize(
    "worsen, amounts",
    [
        (noisy, (0, 0.05, 0.1, 0.2, 0.4)), (blurred, (0, 0.5, 0.8, 1.2, 2.0)), (occluded, (0, 0.15, 0.25, 0.4, 0.6)),
        (rotated, (0, 10, 20, 30, 45)),
    ],
)
def test_the_distance_grows_with_the_damage(measure, mnist, worsen, amounts):
    images = mnist.heldout_images[:4000].numpy().astype(np.float32)
    found = [measure(worsen(images, amount) if amount else images) for amount in amounts]
    assert found == sorted(found) and found[1] > 1.02 * found[0] and found[-1] > 10 * found[0], found


def test_the_distance_grows_with_class_imbalance(measure, mnist):
    images, labels = mnist.heldout_images.numpy(), mnist.heldout_labels.numpy()
    found = []
    for others in (240, 168, 96, 0):  # of each class but the first three, which fill up to 2,400 images
        first = (2400 - 7 * others) // 3
        chosen = np.concatenate([np.flatnonzero(labels == c)[: first if c < 3 else others] for c in range(10)])
        assert len(chosen) == 2400
        found.append(measure(images[chosen].astype(np.float32)))
    assert found == sorted(found) and found[-1] > 10 * found[0], found
