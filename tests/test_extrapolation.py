import numpy as np
import pytest

from src.measure import extrapolation
from src.measure.extrapolation import to_infinity
from src.measure.frechet import Moments, distance, moments

D = 16


def features(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)) + 0.1


def test_the_limit_is_nearer_the_truth_than_the_plain_distance():
    reference, truth = Moments(np.zeros(D), np.eye(D)), D * 0.1**2
    plain = [distance(moments(features(600, seed)), reference) - truth for seed in range(8)]
    limits = [to_infinity(features(600, seed), reference, 0)[0] - truth for seed in range(8)]
    assert abs(np.mean(limits)) < 0.3 * abs(np.mean(plain)) and np.mean(plain) > 0.1


def test_it_is_the_intercept_of_the_line(monkeypatch):
    monkeypatch.setattr(extrapolation, "moments", len)
    monkeypatch.setattr(extrapolation, "distance", lambda count, _: 3 + 40 / count)
    assert to_infinity(features(500, 0), None, 0) == (pytest.approx(3), pytest.approx(0, abs=1e-9))


def test_it_follows_from_the_seed_and_is_surer_than_a_single_line():
    points, reference = features(500, 0), Moments(np.zeros(D), np.eye(D))
    limits = [to_infinity(points, reference, seed) for seed in range(12)]
    assert to_infinity(points, reference, 3) == limits[3] != limits[4]
    means, deviations = zip(*limits, strict=True)
    assert np.std(means, ddof=1) < 0.5 * np.mean(deviations)


@pytest.mark.parametrize("count, enough", [(63, False), (64, True)])
def test_too_few_images_have_no_limit(count, enough):
    limit = to_infinity(features(count, 0), Moments(np.zeros(D), np.eye(D)), 0)
    assert [value is not None for value in limit] == [enough, enough]
