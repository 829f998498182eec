import numpy as np
import pytest
import torch

from src.measure import reference
from src.measure.neighbours import manifolds, nearest


def cloud(count: int, dims: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


def by_definition(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """One point after the other, as the papers have it."""

    def radius(points, i):
        return sorted(
            np.linalg.norm(points[i] - other) for j, other in enumerate(points) if j != i
        )[k - 1]

    real_balls = [(x, radius(real, i)) for i, x in enumerate(real)]
    fake_balls = [(y, radius(fake, i)) for i, y in enumerate(fake)]
    around = [sum(np.linalg.norm(y - x) < r for x, r in real_balls) for y in fake]
    return {
        "precision": np.mean([n > 0 for n in around]),
        "density": np.mean(around) / k,
        "recall": np.mean([any(np.linalg.norm(x - y) < r for y, r in fake_balls) for x in real]),
        "coverage": np.mean([any(np.linalg.norm(x - y) < r for y in fake) for x, r in real_balls]),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_shares_are_those_of_the_definition(k):
    real, fake = cloud(60, 3, 0), cloud(45, 3, 1) * 0.7 + 0.4
    shares = manifolds(real.double(), fake.double(), k)
    for name, expected in by_definition(real.double().numpy(), fake.double().numpy(), k).items():
        assert getattr(shares, name) == pytest.approx(expected), name


def test_equal_distributions_score_high_and_distant_ones_nothing():
    same = manifolds(cloud(2500, 4, 0), cloud(2500, 4, 1))  # more than one part
    assert min(same.precision, same.recall, same.coverage) > 0.9 and same.density == pytest.approx(
        1, abs=0.1
    )
    far = manifolds(cloud(200, 4, 0), cloud(200, 4, 1) + 50)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_a_handful_of_points_will_do():
    shares = manifolds(cloud(100, 3, 0), cloud(2, 3, 1))
    assert 0 <= shares.precision <= 1 and 0 <= shares.coverage <= 1


def test_lost_variety_lowers_recall_and_coverage_only():
    one_mode = cloud(1000, 4, 1) * 0.3
    shares = manifolds(cloud(1000, 4, 0), one_mode)
    assert shares.precision > 0.95 and shares.recall < 0.2 and shares.coverage < 0.6


def test_blurred_fidelity_lowers_precision():
    shares = manifolds(cloud(1000, 4, 0), cloud(1000, 4, 1) * 3)
    assert shares.precision < 0.5 and shares.recall > 0.8


def test_the_nearest_is_found_and_a_copy_is_at_distance_zero():
    others = torch.rand(1200, 50)
    points = torch.cat([others[[700, 3]], torch.rand(600, 50)])
    distances, which = nearest(points, others.split(500))
    assert which[:2].tolist() == [700, 3] and distances[:2].tolist() == [0, 0]
    expected = torch.cdist(points.double(), others.double()).min(dim=1)
    assert torch.equal(which, expected.indices)
    torch.testing.assert_close(distances.double(), expected.values, rtol=1e-5, atol=1e-6)


def test_the_floors_take_all_of_few_heldout_images_and_a_sample_of_many(monkeypatch):
    monkeypatch.setattr(reference, "MAX_DRAWN", 50)
    assert reference.sample_heldout(50).tolist() == list(range(50))
    chosen = reference.sample_heldout(200)
    assert len(set(chosen.tolist())) == 50 and 60 < chosen.float().mean() < 140
