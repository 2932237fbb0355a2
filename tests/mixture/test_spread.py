"""spread.py: the points that stand for a mixture have its moments, cover its area evenly, and know no order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from deepgmr.mixture.spread import MOST, _pattern, enough, spread


def blobs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(count, 3, 3)) * rng.uniform(0.01, 1.0, (count, 1, 1))
    return 10 * rng.normal(size=(count, 3)), factors @ factors.transpose(0, 2, 1)


def test_the_pattern_is_normal() -> None:
    points = _pattern(MOST)
    np.testing.assert_array_equal(points[0], 0.0)
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=0.06)
    np.testing.assert_allclose(np.cov(points.T), np.eye(3), atol=0.1)
    for axis in points.T:
        assert stats.kstest(axis, "norm").pvalue > 0.9  # chance would be further off


def test_a_single_component_has_its_moments() -> None:
    (mean,), (covariance,) = blobs(1)
    points = spread(mean[None], covariance[None], MOST)
    assert len(points) == MOST
    np.testing.assert_allclose(points.mean(axis=0), mean, atol=0.03 * np.sqrt(np.trace(covariance)))
    np.testing.assert_allclose(np.cov(points.T), covariance, atol=0.06 * np.trace(covariance))


def test_points_follow_the_area_and_each_component_has_one() -> None:
    means = np.array([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0], [200.0, 0.0, 0.0]])
    covariances = np.stack([np.diag([1.0, 1.0, 1e-6]), np.diag([4.0, 4.0, 1e-6]), np.diag([1e-8, 1e-8, 1e-10])])
    points = spread(means, covariances, 200)
    numbers = [int((np.abs(points[:, 0] - place) < 50).sum()) for place in (0, 100, 200)]
    assert numbers[1] == pytest.approx(4 * numbers[0], abs=4) and numbers[2] == 1
    assert sum(numbers) == len(points) == pytest.approx(200, abs=2)


def test_a_sky_does_not_take_all_the_points() -> None:
    means, covariances = blobs(100)
    covariances[7] *= 1e12
    assert len(spread(means, covariances, 5000)) == pytest.approx(5000, rel=0.02)


def test_order_changes_nothing() -> None:
    means, covariances = blobs(60)
    shuffled = np.random.default_rng(3).permutation(60)
    first, second = spread(means, covariances, 2000), spread(means[shuffled], covariances[shuffled], 2000)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e-150, 1e150, 1e300])
def test_no_size_is_too_much(scale: float) -> None:
    means, covariances = blobs(5)
    with np.errstate(all="raise", under="ignore"):
        points = spread(means, scale * covariances / np.abs(covariances).max(), 100)
    assert np.isfinite(points).all() and len(points) >= 5
    np.testing.assert_array_equal(points[:5], means)


def test_no_components_are_no_points() -> None:
    assert spread(np.empty((0, 3)), np.empty((0, 3, 3)), 100).shape == (0, 3)


def test_how_many_points_are_enough() -> None:
    assert enough(1) == MOST and enough(1000) == 20_000 and enough(10**6) == 2 * 10**6
