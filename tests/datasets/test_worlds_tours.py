"""Drives of kilometres: where they go, what the sensor sees, and what moving while it turns does to that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepgmr.datasets.worlds.tours import BLOCK, Tour, tour
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import is_rigid


def exact(*, moving: bool, frames: int = 200) -> Tour:
    way = tour(np.random.default_rng(3), frames=frames, steps=150, moving=moving)
    return replace(way, sensor=replace(way.sensor, noise=(0.0, 0.0), dropout=0.0))


def test_the_whole_way_is_two_kilometres_and_comes_back() -> None:
    way = tour(np.random.default_rng(0))
    places = way.poses[:, :3, 3]
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert len(way) == 2001 and is_rigid(way.poses).all() and steps.min() > 0.9 and steps.max() < 1.15
    assert places[:, :2].min() > -5 and places[:, :2].max() < 2 * BLOCK + 5
    gap = np.linalg.norm(places[:1000, None, :2] - places[None, 1500:, :2], axis=2)
    assert (gap.min(axis=1) < 2).sum() > 100  # driven twice
    forward = np.diff(places, axis=0) / steps[:, None]
    assert (np.einsum("ni,ni->n", forward, way.poses[:-1, :3, 0]) > 0.97).all()


def test_scans_are_of_one_town() -> None:
    way = exact(moving=False)
    near, later = (way.frame(i).astype(float) @ way.poses[i][:3, :3].T + way.poses[i][:3, 3] for i in (100, 103))
    assert np.array_equal(way.frame(100), way.frame(100)) and len(near) > 5000
    ground = np.abs(near[:, 2]) < 0.02
    assert 0.2 < ground.mean() < 0.95
    from scipy.spatial import cKDTree

    walls = near[near[:, 2] > 0.5]
    distance = cKDTree(later).query(walls[np.linalg.norm(walls - way.poses[100][:3, 3], axis=1) < 15])[0]
    assert np.median(distance) < 0.2


def test_a_moving_sensor_sees_from_where_it_is() -> None:
    way = exact(moving=True)
    cloud, ages = way.timed(170)  # in a bend
    assert ages.min() >= -1 and ages.max() <= 0 and len(ages) == len(cloud)
    world = np.array(
        [way.at(170 + age)[:3] @ [*point, 1] for point, age in zip(cloud, ages.astype(float), strict=True)]
    )
    low = cloud[:, 2] < -1.2
    assert (np.abs(world[low][:, 2]) < 0.05).mean() > 0.8  # the ground is flat again
    np.testing.assert_allclose(way.at(170.0), way.poses[170], atol=1e-12)
    np.testing.assert_allclose(way.at(171.0 - 1e-9), way.poses[171], atol=1e-6)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InvalidConfig, match="beams"):
        tour(np.random.default_rng(0), beams=5)
    with pytest.raises(InvalidConfig, match="do not fit"):
        tour(np.random.default_rng(0), frames=5000)
