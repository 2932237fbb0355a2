"""Worlds sampled by area: points lie on their surfaces, truths map one cloud onto the other, sizes are free."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import chisquare

from deepgmr.datasets.worlds.halls import NOISE, SEEN, furnished, hall, hall_pair
from deepgmr.datasets.worlds.planned import any_pose, inverse
from deepgmr.datasets.worlds.triangles import Triangles, boxes, joined
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import is_rigid


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def apply(motion: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points.astype(float) @ motion[:3, :3].T + motion[:3, 3]


# -- triangles -----------------------------------------------------------------------------------------------------


def test_points_are_uniform_by_area_and_in_random_order() -> None:
    surfaces = boxes([[0, 0, 0]], [[1.0, 2.0, 3.0]])
    assert surfaces.area().sum() == pytest.approx(8 * (2 + 3 + 6))
    cloud = surfaces.sample(30_000, rng())
    side = np.abs(cloud / [1.0, 2.0, 3.0]).argmax(axis=1)
    assert np.allclose(np.abs(cloud / [1.0, 2.0, 3.0]).max(axis=1), 1, atol=1e-6)
    for part in (cloud, cloud[:3000]):
        counts = np.bincount(side[: len(part)], minlength=3)
        assert chisquare(counts, len(part) * np.array([6, 3, 2]) / 11).pvalue > 1e-3
    top = cloud[(side == 2) & (cloud[:, 2] > 0)]
    counts = np.histogram2d(top[:, 0], top[:, 1], bins=4, range=[[-1, 1], [-2, 2]])[0]
    assert chisquare(counts.ravel()).pvalue > 1e-3


def test_what_stands_shows_no_underside_and_turns() -> None:
    standing = boxes([[5.0, 0, 1.0]], [[2.0, 0.5, 1.0]], [np.pi / 2], standing=True)
    assert len(standing) == 10 and len(boxes([0, 0, 0], [1, 1, 1])) == 12
    cloud = standing.sample(5000, rng())
    assert np.allclose(np.abs(cloud - [5, 0, 1]).max(axis=0), [0.5, 2.0, 1.0], atol=0.01)
    assert not ((cloud[:, 2] < 1e-6) & (np.abs(cloud - [5, 0, 1]) < [0.4, 1.9, 2]).all(axis=1)).any()


def test_noise_pose_and_foliage() -> None:
    flat = Triangles(np.array([[[0.0, 0, 0], [9, 0, 0], [0, 9, 0]]]))
    pose = any_pose(rng(1))
    assert is_rigid(pose[None]).all() and np.allclose(inverse(pose) @ pose, np.eye(4))
    back = apply(inverse(pose), flat.sample(4000, rng(), noise=0.02, pose=pose))
    assert back[:, 2].std() == pytest.approx(0.02, rel=0.1)
    rough = joined([flat, Triangles(flat.corners + np.array([0, 0, 9.0]), np.array([0.3]))]).sample(4000, rng())
    assert rough[rough[:, 2] > 4.5, 2].std() == pytest.approx(0.3, rel=0.1)
    assert not rough[rough[:, 2] < 4.5, 2].any()


def test_what_cannot_be_sampled_is_named() -> None:
    flat = Triangles(np.eye(3)[None])
    with pytest.raises(InvalidConfig, match="0 points"):
        flat.sample(0, rng())
    with pytest.raises(InvalidConfig, match="kept"):
        flat.sample(10, rng(), keep=lambda p: p[:, 0] > 2)


# -- halls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 4])
def test_a_hall_is_as_its_definition_says(scale: int) -> None:
    surfaces, length = furnished(rng(3), scale)
    size = np.array([8 * scale, 6 * np.sqrt(scale), 3])
    low, high = surfaces.corners.reshape(-1, 3).min(axis=0), surfaces.corners.reshape(-1, 3).max(axis=0)
    assert np.allclose(high - low, size) and length == size[0]
    assert len(surfaces) == 12 + 10 * 25 * scale
    plan = hall(rng(3), scale=scale)
    assert plan.degrees == 1.0 and plan.metres == pytest.approx(0.1 * scale)
    source, target = plan.clouds(20_000)
    assert source.shape == target.shape == (20_000, 3) and source.dtype == np.float32
    world = apply(plan.target_from_source, source)  # the target is where the hall is
    assert np.linalg.norm(source.mean(axis=0)) > 100
    assert world[:, 0].min() == pytest.approx(-length / 2, abs=0.03)
    assert world[:, 0].max() == pytest.approx(length * (SEEN - 0.5), abs=0.1)
    assert target[:, 0].min() == pytest.approx(length * (0.5 - SEEN), abs=0.1)
    # Both lie on the hall but for the noise, and share what both kept, point by point nowhere.
    for cloud in (world, target):
        off = np.minimum(np.abs(cloud[:, None] - [low, high]).min(axis=(1, 2)), 1)
        on_walls = (np.abs(cloud - high) < 4 * NOISE).any(axis=1) | (np.abs(cloud - low) < 4 * NOISE).any(axis=1)
        assert on_walls.mean() > 0.5 and off[on_walls].std() < 2 * NOISE
    shared = world[world[:, 0] > length * (0.5 - SEEN) + 0.5]
    spacing = np.median(cKDTree(target).query(target, k=2)[0][:, 1])
    distance = cKDTree(target).query(shared)[0]
    assert np.median(distance) < 1.5 * spacing and distance.min() > 0
    assert plan.overlap == pytest.approx((world[:, 0] > length * (0.5 - SEEN)).mean(), abs=0.08)


def test_hall_pairs_follow_from_the_generator_and_grow_in_the_same_hall() -> None:
    first, again, other = (hall_pair(1.0, 500, rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.allclose(first[2], other[2])
    plan = hall(rng(1))
    assert np.allclose(plan.target_from_source, first[2])
    assert cKDTree(plan.clouds(20_000)[1]).query(first[1])[0].mean() < 0.1
    with pytest.raises(InvalidConfig, match="scale"):
        hall(rng(), scale=0.1)
