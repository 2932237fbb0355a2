"""Fragments: their overlap counted from their points, their smears and their warps against the room itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from deepgmr.datasets.worlds.fragments import Walk, fragment_pair, fused, walk
from deepgmr.datasets.worlds.layouts import rooms
from deepgmr.datasets.worlds.sections import Draw
from deepgmr.datasets.worlds.sensors import Scene, seen_by
from deepgmr.datasets.worlds.triangles import of_scene
from deepgmr.geometry.transform import is_rigid


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def room() -> Scene:
    return rooms(1, rng(), Draw(torch.Generator().manual_seed(0)))[0]


def in_world(way: Walk, cloud: np.ndarray) -> np.ndarray:
    return cloud @ way.frame[:3, :3].T + way.frame[:3, 3]


def off_surface(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Distance (n,) of points from a dense sampling of everything in a room."""
    return cKDTree(of_scene(scene).sample(400_000, rng(9))).query(points)[0]


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.3), (0.3, 0.8)])
def test_overlap_is_what_was_asked_for(low: float, high: float) -> None:
    for seed in range(3):
        plan = fragment_pair(rng(seed), low=low, high=high)
        assert plan.overlap is not None and low <= plan.overlap <= high
        source, target = plan.clouds(8000)
        laid = source @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
        spacing = np.median(cKDTree(target).query(target, k=2)[0][:, 1])
        counted = (cKDTree(target).query(laid)[0] < max(0.1, 2 * spacing)).mean()
        assert counted == pytest.approx(plan.overlap, abs=0.25)


def test_without_errors_every_point_is_in_the_room_and_in_sight(room: Scene) -> None:
    way = walk(room, 8, rng(1), None)
    still = Walk(
        tuple(replace(view, noise=(0.0, 0.0), dropout=0.0) for view in way.views), np.tile(np.eye(4), (8, 1, 1))
    )
    nothing = np.zeros(len(room.kind), bool)
    world = in_world(still, fused(room, still, 3000, rng(2), nothing))
    off = off_surface(room, world)
    smeared = off > 0.06
    assert np.median(off) < 0.02 and 0.0005 < smeared.mean() < 0.1
    assert seen_by(room, list(still.views), world[~smeared]).mean() > 0.97
    hidden = ~nothing  # only the walls are left
    assert room.walls is not None
    bare = in_world(still, fused(room, still, 3000, rng(2), hidden))
    on_walls = np.abs(bare[:, None] - room.walls).min(axis=(1, 2)) < 0.01
    assert on_walls.mean() > 0.9


def test_drift_bends_by_centimetres(room: Scene) -> None:
    drifts = [walk(room, 24, rng(seed), None) for seed in range(5)]
    moved = []
    for way in drifts:
        place = np.array([view.position for view in way.views])
        moved.append(
            np.linalg.norm((way.drift[:, :3, :3] @ place[..., None])[..., 0] + way.drift[:, :3, 3] - place, axis=1)
        )
    assert all(is_rigid(w.drift).all() for w in drifts)
    assert 0.01 < np.mean(moved) < 0.05 and np.max(moved) < 0.1
    for way in drifts:
        along = np.array([view.position for view in way.views])
        assert np.linalg.norm(np.diff(along, axis=0), axis=1).max() < 0.4  # no leaps
    nothing = np.zeros(len(room.kind), bool)
    way = drifts[0]
    assert 0.003 < np.median(off_surface(room, in_world(way, fused(room, way, 2000, rng(), nothing)))) < 0.05


def test_fragments_are_evenly_dense(room: Scene) -> None:
    way = walk(room, 12, rng(4), None)
    cloud = fused(room, way, 6000, rng(), np.zeros(len(room.kind), bool))
    assert cloud.shape == (6000, 3) and cloud.dtype == np.float32
    spacing = cKDTree(cloud).query(cloud, k=5)[0][:, 4]
    assert np.percentile(spacing, 90) < 4 * np.percentile(spacing, 10)
