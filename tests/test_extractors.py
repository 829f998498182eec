"""Extractors, grey levels, the yardstick, and what each metric notices."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import spoilt
from src import yardstick
from src.common.errors import UserError
from src.measure import frechet, greys
from src.measure.extractors import EXTRACTORS, IMAGENET, LoadedExtractor, decide
from src.params import Fid
from tests.helpers import ROOT


class Pixels(nn.Module):
    """Stands for a network: its features are the pixels. It counts the images."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images.flatten(1).float()


def images(count: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, 2, 2), dtype=torch.uint8, generator=random)


def test_each_extractor_is_a_key_of_params_yaml():
    assert {extractor.name for extractor in EXTRACTORS} == {
        name for name, field in Fid.model_fields.items() if "always" in str(field.annotation)
    }


def test_features_are_added_in_any_order_and_the_first_are_kept():
    loaded = LoadedExtractor(dataclasses.replace(IMAGENET, dims=4), network=Pixels())
    pictures, sums = images(2500), frechet.MomentSums()
    chosen = torch.arange(2499, -1, -1)
    kept = loaded.add(sums, pictures, chosen, keep=1700)
    expected = pictures.flatten(1).double().flip(0)
    assert torch.equal(kept.double(), expected[:1700]) and sums.count == 2500
    np.testing.assert_allclose(sums.moments().sigma, np.cov(expected.T.numpy()))
    assert loaded.add(sums, pictures).shape == (0, 4)


def test_imagenet_is_measured_on_a_cpu_and_never_means_never():
    assert decide(IMAGENET, "auto", ready_made=False, images=70_000).compute
    assert decide(IMAGENET, "never", ready_made=True, images=1).why == "fid.imagenet is never"


def test_without_its_weights_auto_leaves_it_out_and_always_is_an_error(monkeypatch):
    def missing():
        raise UserError("not installed")

    without = dataclasses.replace(IMAGENET, fetch=missing)
    assert "not installed" in decide(without, "auto", ready_made=False, images=1).why
    with pytest.raises(UserError, match="not installed"):
        decide(without, "always", ready_made=False, images=1)


def test_a_covariance_in_float32_gives_the_same_distance(tmp_path):
    random = np.random.default_rng(0)
    one, other = (frechet.moments(random.normal(size=(400, 50)) * s) for s in (1.0, 1.1))
    frechet.save(one, tmp_path / "small.npz", np.float32)
    small = frechet.load(tmp_path / "small.npz", 50)
    exact = frechet.distance(other, one)
    assert frechet.distance(other, small) == pytest.approx(exact, abs=1e-5)
    assert (tmp_path / "small.npz").stat().st_size < 50 * 50 * 4 + 2000


def test_shares_of_grey_levels_are_those_of_counting():
    levels = torch.tensor([0, 0, 1, 3, 4, 63, 64, 191, 192, 252, 253, 255], dtype=torch.uint8)
    shares = greys.shares(levels.view(3, 1, 2, 2))
    assert {name: round(value * 12) for name, value in shares.items()} == dict.fromkeys(shares, 2)
    assert sum(last - first + 1 for first, last in greys.BANDS) == 256


# --- the yardstick -------------------------------------------------------------------------------


def test_the_yardstick_belongs_to_mnist_alone_and_its_files_are_whole():
    about = json.loads((ROOT / "yardstick/about.json").read_text())
    found = yardstick.find(ROOT / "yardstick", about["dataset_fingerprint"])
    assert found and found.name == "mnist-1"
    for name in found.sha256:
        assert found.file(ROOT / "yardstick", name).is_file()
    assert yardstick.find(ROOT / "yardstick", "0" * 12) is None


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "digits.npz").write_bytes(b"moments")
    digest = yardstick.sha256(tmp_path / "digits.npz")
    floors = {"heldout": 1.0, "train": 0.5}
    yardstick.Yardstick("a", "data", "f" * 12, floors, {"digits.npz": digest}).save(tmp_path)
    return tmp_path


def test_a_changed_or_missing_file_of_the_yardstick_is_refused(folder):
    found = yardstick.find(folder, "f" * 12)
    assert found.file(folder, "digits.npz").read_bytes() == b"moments"
    (folder / "digits.npz").write_bytes(b"others")
    with pytest.raises(UserError, match=r"digits\.npz: expected the sha256 .*git checkout"):
        found.file(folder, "digits.npz")
    with pytest.raises(UserError, match=r"imagenet\.npz: not found"):
        found.file(folder, "imagenet.npz")


@pytest.mark.parametrize("text", ["", "[]", '{"name": 3}', "[" * 10_000])
def test_a_damaged_description_of_the_yardstick_is_refused(folder, text):
    (folder / "about.json").write_text(text)
    with pytest.raises(UserError, match=r"about\.json: .*git checkout yardstick"):
        yardstick.find(folder, "f" * 12)


# --- what each metric notices --------------------------------------------------------------------

NOTICED = {
    "shifted": {"fd_imagenet", "fd_digits", "precision", "recall"},
    "blurred": {"fd_imagenet", "kid_imagenet", "fd_digits", "grey_0"},
    "thickened": {"fd_imagenet", "fd_digits", "grey_0"},
    "inverted": {"fd_imagenet", "fd_digits", "accuracy", "grey_0"},
    "class missing": {"fd_digits", "recall", "class_distance"},
    "repeated": {"fd_imagenet", "recall"},
    "half noise": {"fd_imagenet", "fd_digits", "accuracy", "precision", "grey_0"},
    "resized twice": {"fd_imagenet", "grey_0"},
}


@pytest.mark.slow
@pytest.mark.mnist
@pytest.mark.filterwarnings("ignore")
def test_spoilt_digits_are_noticed_by_the_metrics_that_should(mnist, monkeypatch):
    monkeypatch.chdir(ROOT)
    results = spoilt.measure(mnist)
    for name, metrics in NOTICED.items():
        assert metrics <= set(spoilt.noticed(results, name)), name
