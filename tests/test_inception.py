"""Inception features against pytorch-fid, with seeded stand-in weights from conftest.py."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from src import images
from src.common import torchvision_remedy  # noqa: F401 (before pytorch_fid imports torchvision)
from src.common.errors import UserError
from src.measure import frechet, inception
from src.measure.extractors import INCEPTION, Decision, LoadedExtractor, decide
from src.measure.inception import Features

from pytorch_fid import fid_score  # isort: skip


def pictures(count: int, seed: int) -> torch.Tensor:
    """Blocks of 7x7 pixels: unlike plain noise, deep features differ from one to the next."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=random)
    return blocks.repeat_interleave(7, 2).repeat_interleave(7, 3)


def moments(network: torch.nn.Module, batch: torch.Tensor, batch_size: int) -> frechet.Moments:
    return LoadedExtractor(INCEPTION, batch_size, network).moments(batch)


def pytorch_fid_value(one: Path, other: Path, dims: int = 2048) -> float:
    """FID of two folders or .npz files by pytorch-fid's own code."""
    paths = [str(one), str(other)]
    return float(fid_score.calculate_fid_given_paths(paths, 50, "cpu", dims, num_workers=0))


@pytest.mark.slow
@pytest.mark.parametrize("dims, colour", [(64, True), (2048, False)])
def test_fid_equals_that_of_pytorch_fid(weights, tmp_path, dims, colour):
    """Of a folder against a folder, our statistics, and theirs, which we read, too."""
    generated, real = pictures(12, 1), pictures(12, 2)
    if colour:
        generated, real = (torch.cat([x, x // 2, 255 - x], dim=1) for x in (generated, real))
    for name, batch in (("generated", generated), ("real", real)):
        (tmp_path / name).mkdir()
        images.write(tmp_path / name, 1, batch)
    network = inception.load(dims)
    reference = moments(network, real, batch_size=5)
    drawn = moments(network, images.read(tmp_path / "generated", 12), 7)
    ours = frechet.distance(drawn, reference)
    of_means = ((drawn.mu - reference.mu) ** 2).sum()
    assert ours > 1e-3
    assert 0.1 < of_means / ours < 0.9, "means and covariances do not both count"

    frechet.save(reference, tmp_path / "ours.npz")
    paths = [str(tmp_path / "real"), str(tmp_path / "theirs.npz")]
    fid_score.save_fid_stats(paths, 50, "cpu", dims, num_workers=0)
    for other in ("real", "ours.npz", "theirs.npz"):
        theirs = pytorch_fid_value(tmp_path / "generated", tmp_path / other, dims)
        assert ours == pytest.approx(theirs, rel=1e-3, abs=0), other
    theirs = frechet.load(tmp_path / "theirs.npz", dims)
    np.testing.assert_allclose(
        theirs.mu, reference.mu, rtol=1e-3, atol=1e-3 * np.abs(reference.mu).max()
    )
    assert frechet.distance(moments(network, generated, 12), theirs) == pytest.approx(
        ours, rel=1e-3, abs=0
    )


@pytest.mark.slow
def test_the_rearranged_network_has_the_features_of_pytorch_fids_own(weights, monkeypatch):
    built = []
    monkeypatch.setattr(
        inception,
        "Features",
        lambda network: built.append(copy.deepcopy(network)) or Features(network),
    )
    ours, theirs = inception.load(2048), built[0]
    for x in (pictures(2, 1), torch.cat([pictures(2, seed) for seed in (1, 2, 3)], dim=1)):
        with torch.inference_mode():
            expected = theirs(x.expand(-1, 3, -1, -1).float() / 255)[0].flatten(1)
            torch.testing.assert_close(
                ours(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
            )


@pytest.mark.slow
def test_moments_do_not_depend_on_the_batch_size(weights):
    network, batch = inception.load(64), pictures(5, 3)
    one, other = moments(network, batch, 5), moments(network, batch, 2)
    np.testing.assert_allclose(
        one.sigma, other.sigma, rtol=1e-3, atol=1e-4 * np.abs(one.sigma).max()
    )


@pytest.fixture
def small_weights(tmp_path, monkeypatch):
    """A file where the weights belong that has their hash; it cannot be loaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    inception.weights_path().parent.mkdir(parents=True)
    inception.weights_path().write_bytes(b"weights")
    monkeypatch.setattr(inception, "SHA256", inception.weights_sha256())


def test_weights_with_another_hash_are_refused_unread(small_weights, monkeypatch):
    monkeypatch.setattr(inception, "SHA256", "6" * 64)
    monkeypatch.setattr(
        torch, "load", lambda *args, **kwargs: pytest.fail("read before it was checked")
    )
    with pytest.raises(UserError, match="expected the sha256 6666.*, found"):
        inception.load()


def test_weights_that_would_run_code_are_refused(tmp_path, monkeypatch):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "code was run",))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    inception.weights_path().parent.mkdir(parents=True)
    torch.save({"a": Attack()}, inception.weights_path())
    monkeypatch.setattr(inception, "SHA256", inception.weights_sha256())
    with pytest.raises(UserError, match="cannot be read"):
        inception.load()
    assert not (tmp_path / "code was run").exists()
    torch.load(inception.weights_path(), weights_only=False)
    assert (tmp_path / "code was run").exists(), "the file is no attack"


class TestDecision:
    """fid.inception: auto, always, never."""

    @pytest.fixture(autouse=True)
    def no_network_no_gpu(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise OSError("no network in tests")

        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def test_never_computes_nothing(self):
        assert decide(INCEPTION, "never", ready_made=True, images=1) == Decision(
            False, "fid.inception is never"
        )

    def test_auto_without_gpu_and_statistics_says_what_it_would_take_and_how_to_ask(self):
        decision = decide(INCEPTION, "auto", ready_made=False, images=60_000)
        assert not decision.compute
        assert "about 59 minutes" in decision.why and "-S fid.inception=always" in decision.why

    @pytest.mark.parametrize("ready_made, gpu", [(True, False), (False, True)])
    def test_auto_without_weights_says_where_to_put_them(self, ready_made, gpu, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        decision = decide(INCEPTION, "auto", ready_made, images=60_000)
        assert not decision.compute and str(inception.weights_path()) in decision.why

    @pytest.mark.parametrize("ready_made, gpu", [(True, False), (False, True)])
    def test_auto_computes_with_weights_and_statistics_or_gpu(
        self, ready_made, gpu, small_weights, monkeypatch
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        assert decide(INCEPTION, "auto", ready_made, images=60_000).compute

    def test_always_makes_missing_weights_an_error(self):
        with pytest.raises(UserError, match="Inception weights missing.*fid.inception"):
            decide(INCEPTION, "always", ready_made=False, images=1)

    def test_always_computes_on_a_cpu_too(self, small_weights):
        assert decide(INCEPTION, "always", ready_made=False, images=1).compute
