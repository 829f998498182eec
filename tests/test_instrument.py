"""The committed classifier as an instrument, on MNIST itself: worse images measure worse."""

import numpy as np
import pytest
import torch
import yaml
from scipy import ndimage

from src import classifier
from src.measure import frechet
from tests.helpers import ROOT

pytestmark = [pytest.mark.mnist, pytest.mark.slow]


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
        features = classifier.features(instrument, images).numpy()
        return frechet.distance(frechet.moments(features), reference)

    return distance


@pytest.mark.parametrize(
    "worsen, amounts",
    [
        (noisy, (0, 0.05, 0.1, 0.2, 0.4)),
        (blurred, (0, 0.5, 0.8, 1.2, 2.0)),
        (occluded, (0, 0.15, 0.25, 0.4, 0.6)),
        (rotated, (0, 10, 20, 30, 45)),
    ],
)
def test_the_distance_grows_with_the_damage(measure, mnist, worsen, amounts):
    images = mnist.heldout_images[:4000].numpy().astype(np.float32)
    distances = [measure(worsen(images, amount) if amount else images) for amount in amounts]
    assert distances == sorted(distances), distances
    assert distances[1] > 1.02 * distances[0] and distances[-1] > 10 * distances[0], distances


def test_the_distance_grows_with_class_imbalance(measure, mnist):
    images, labels = mnist.heldout_images.numpy(), mnist.heldout_labels.numpy()
    distances = []
    # Images of each class except the first three, which fill up to 2,400.
    for others in (240, 168, 96, 0):
        first = (2400 - 7 * others) // 3
        counts = [first] * 3 + [others] * 7
        of_class = [np.flatnonzero(labels == c)[:count] for c, count in enumerate(counts)]
        chosen = np.concatenate(of_class)
        assert len(chosen) == 2400
        distances.append(measure(images[chosen].astype(np.float32)))
    assert distances == sorted(distances) and distances[-1] > 10 * distances[0], distances
