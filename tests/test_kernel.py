import numpy as np
import pytest
import torch

from src.measure.kernel import KernelDistance, discrepancy, kid


def cloud(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_estimate_is_that_of_the_definition():
    x, y = cloud(12, 0).double(), cloud(12, 1, 0.5).double()

    def kernel(a, b):
        return (float(a @ b) / 6 + 1) ** 3

    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs) / (n * (n - 1))
    expected = within - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert float(discrepancy(x, y)) == pytest.approx(expected, rel=1e-10)


def test_equal_distributions_are_at_zero_without_bias():
    values = [
        float(discrepancy(cloud(100, 2 * i).double(), cloud(100, 2 * i + 1).double()))
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / len(values) ** 0.5 and min(values) < 0


def test_it_grows_with_the_shift_and_follows_from_the_seed():
    distances = [
        kid(cloud(500, 0), cloud(400, 1, shift), seed=0, subsets=10, size=200)[0]
        for shift in (0.0, 0.2, 0.5, 1.0)
    ]
    assert distances == sorted(distances) and distances[-1] > 10 * abs(distances[0])
    arguments = (cloud(500, 0), cloud(400, 1))
    assert kid(*arguments, seed=0) == kid(*arguments, seed=0) != kid(*arguments, seed=1)


def test_the_unit_of_the_features_does_not_matter():
    x, y = cloud(300, 0), cloud(300, 1, 0.5)
    assert kid(x, y, 0, 5, 100) == pytest.approx(kid(x * 30, y * 30, 0, 5, 100), rel=1e-4)


def test_it_spreads_also_where_there_are_few():
    assert kid(cloud(60, 0), cloud(50, 1), seed=0, subsets=10)[1] > 0


def test_the_distance_from_all_points_is_the_estimate_of_the_definition():
    real, fake = cloud(2300, 0), cloud(400, 1, 0.5)
    unit = real.double().square().mean().sqrt()
    expected = float(discrepancy(real.double() / unit, fake.double() / unit))
    assert KernelDistance(real).distance(fake) == pytest.approx(expected, rel=1e-9)
    subsets = kid(real, fake, seed=0, subsets=100, size=200)[0]
    assert KernelDistance(real).distance(fake) == pytest.approx(subsets, rel=0.05)
