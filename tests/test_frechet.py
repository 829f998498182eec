import warnings

import numpy as np
import pytest

from src.common import torchvision_remedy  # noqa: F401 (before pytorch_fid imports torchvision)
from src.common.errors import Caution, UserError
from src.measure import frechet
from src.measure.frechet import Moments, MomentSums

from pytorch_fid.fid_score import calculate_frechet_distance  # isort: skip


def features(count: int, dims: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, dims)) @ random.normal(size=(dims, dims)) + random.normal(
        size=dims
    )


def test_diagonal_gaussians_have_the_distance_of_the_closed_form():
    mu_a, mu_b, a, b = (np.random.default_rng(i).uniform(0.1, 3, size=7) for i in range(4))
    expected = ((mu_a - mu_b) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet.distance(Moments(mu_a, np.diag(a)), Moments(mu_b, np.diag(b))) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("count", [500, 20])  # 20 samples of 32 dimensions: singular covariances
def test_distance_equals_that_of_pytorch_fid(count):
    a, b = frechet.moments(features(count, 32, 1)), frechet.moments(features(count, 32, 2))
    assert frechet.distance(a, b) == pytest.approx(
        calculate_frechet_distance(a.mu, a.sigma, b.mu, b.sigma), rel=1e-5
    )


def test_distance_is_symmetric_and_zero_for_equal_moments():
    a, b = frechet.moments(features(100, 16, 1)), frechet.moments(features(100, 16, 2))
    assert frechet.distance(a, b) == pytest.approx(frechet.distance(b, a), rel=1e-9)
    assert 0 <= frechet.distance(a, a) < 1e-9 * np.trace(a.sigma)


def test_streamed_moments_equal_numpys_whatever_the_batches():
    x = features(301, 12, 3) + 1000  # far from zero, where naive sums lose digits
    sums = MomentSums()
    for batch in np.array_split(x, [1, 50, 51, 200]):
        sums.add(batch)
    np.testing.assert_allclose(sums.moments().mu, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(sums.moments().sigma, np.cov(x, rowvar=False), rtol=1e-9)


def test_moments_of_one_image_are_refused():
    with pytest.raises(UserError, match="at least 2 images, found 1"):
        frechet.moments(features(1, 4, 0))


def test_files_are_read_back_as_written(tmp_path):
    moments = frechet.moments(features(100, 5, 1))
    frechet.save(moments, tmp_path / "m.npz")
    loaded = frechet.load(tmp_path / "m.npz", 5)
    assert np.array_equal(loaded.mu, moments.mu)
    np.testing.assert_allclose(loaded.sigma, moments.sigma, rtol=1e-14)


def test_a_file_of_pytorch_fid_is_accepted_and_ours_by_it(tmp_path):
    from pytorch_fid.fid_score import compute_statistics_of_path

    moments = frechet.moments(features(100, 5, 1))
    np.savez_compressed(
        tmp_path / "theirs.npz", mu=moments.mu, sigma=moments.sigma
    )  # the call that --save-stats makes
    assert np.array_equal(frechet.load(tmp_path / "theirs.npz", 5).mu, moments.mu)
    frechet.save(moments, tmp_path / "ours.npz")
    mu, sigma = compute_statistics_of_path(str(tmp_path / "ours.npz"), None, 1, 5, "cpu")
    assert np.array_equal(mu, moments.mu) and np.array_equal(sigma, moments.sigma)


@pytest.mark.parametrize(
    "content, complaint",
    [
        ({"mu": np.zeros(5)}, "no item named 'sigma.npy'"),
        ({"images": np.zeros(5)}, "no item named 'mu.npy'"),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, r"mu is float64 of shape \(4,\)"),
        ({"mu": np.zeros(5), "sigma": np.eye(4)}, r"sigma is float64 of shape \(4, 4\)"),
        ({"mu": np.full(5, np.nan), "sigma": np.eye(5)}, "not finite"),
        ({"mu": np.zeros(5), "sigma": np.triu(np.ones((5, 5)))}, "not symmetric"),
        ({"mu": np.array([None] * 5), "sigma": np.eye(5)}, "cannot be read"),
        ({"mu": np.zeros(5), "sigma": -np.eye(5)}, "is no covariance"),
        ({"mu": np.zeros(5), "sigma": 1.7e308 * np.eye(5)}, r"beyond 1e\+100"),
        ({"mu": np.zeros(5), "sigma": np.eye(5) - 0.5}, "is no covariance"),
        ({"mu": np.zeros(5), "sigma": 1j * np.eye(5)}, "not real numbers"),
        ({"mu": np.array(["0"] * 5), "sigma": np.eye(5)}, "not real numbers"),
    ],
)
def test_wrong_statistics_are_refused_with_what_was_expected(tmp_path, content, complaint):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(
        UserError, match=f"bad.npz: .*{complaint}.*; expected an .npz.*--save-stats"
    ):
        frechet.load(tmp_path / "bad.npz", 5)


def test_files_that_are_no_npz_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no statistics")
    np.save(tmp_path / "array.npy", np.zeros(5))
    for name in ("text.npz", "array.npy", "absent.npz"):
        with pytest.raises(UserError, match=name):
            frechet.load(tmp_path / name, 5)


def test_a_distance_beyond_all_numbers_is_refused():
    far = frechet.Moments(np.full(5, 1e200), np.eye(5))
    with pytest.raises(UserError, match="not finite"):
        frechet.distance(far, frechet.Moments(np.zeros(5), np.eye(5)))


def test_a_distance_of_few_images_comes_with_a_caution():
    with pytest.warns(
        Caution, match="128 images are too few for 128 features: .* makes fd_digits far too high"
    ):
        frechet.caution("fd_digits", 128, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet.caution("fd_digits", 129, 128)
