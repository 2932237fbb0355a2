"""Floors, warehouses and stands: surfaces against the equations of their primitives, and what repeats against what tells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepgmr.datasets.worlds.interiors import floor, floor_scene, warehouse, warehouse_scene
from deepgmr.datasets.worlds.planned import Planned
from deepgmr.datasets.worlds.sensors import BALL, BOX, CYLINDER, Scene
from deepgmr.datasets.worlds.stands import stands_pair
from deepgmr.datasets.worlds.triangles import of_scene

BAY = np.array([2.7, 0, 0])


def test_triangles_lie_on_the_primitives_and_cover_them() -> None:
    linear = np.array([[0.9, 0.2, 0.0], [-0.3, 1.4, 0.1], [0.1, 0.0, 0.6]])
    for kind, area in ((BOX, 24.0), (BALL, 4 * np.pi), (CYLINDER, 6 * np.pi)):
        arrays = {"kind": np.array([kind], np.int8), "centre": np.array([[4.0, 1, 2]]), "rough": np.zeros(1)}
        surfaces = of_scene(Scene(linear=linear[None], **arrays))
        local = (surfaces.corners.reshape(-1, 3) - [4.0, 1, 2]) @ np.linalg.inv(linear).T
        x, y, z = local.T
        height = {
            BOX: np.abs(local).max(axis=1),
            BALL: np.linalg.norm(local, axis=1),
            CYLINDER: np.maximum(np.hypot(x, y), np.abs(z)),
        }[kind]
        assert np.allclose(height, 1, atol=1e-5)
        unit = of_scene(Scene(linear=np.eye(3)[None], **arrays))
        assert unit.area().sum() == pytest.approx(area, rel=0.04)  # chords are a little shorter than arcs


def test_rooms_have_doors_and_stand_in_a_row() -> None:
    scene, length = floor_scene(np.random.default_rng(0), 5)
    assert scene.walls is not None and np.ptp(scene.walls[:, 0]) == pytest.approx(length)
    high = scene.walls[1, 2]
    cloud = of_scene(scene).sample(60_000, np.random.default_rng(0))
    fronts = [
        float(c[1]) for c, a in zip(scene.centre, scene.linear, strict=True) if a[1, 1] == np.float32(0.06) and c[1] > 0
    ]
    front = max(set(fronts), key=fronts.count)  # of the rooms on one side
    wall = cloud[np.abs(cloud[:, 1] - front) < 0.07]
    low = wall[(wall[:, 2] > 0.3) & (wall[:, 2] < 1.8), 0]
    filled = np.histogram(low, bins=round(length / 0.25), range=(-length / 2, length / 2))[0] > 0
    assert 5 * 2 <= (~filled).sum() <= 5 * 5  # five doorways of a metre, in cells of a quarter
    over = wall[wall[:, 2] > high - 0.2, 0]  # above them the wall goes on
    assert (np.histogram(over, bins=round(length / 0.5), range=(-length / 2, length / 2))[0] > 0).mean() > 0.95
    lintels = np.diff(np.flatnonzero(np.diff((~filled).astype(int)) == 1)) * 0.25
    assert np.allclose(lintels, length / 5, atol=0.3)


def misfit(plan: Planned, shift: np.ndarray) -> float:
    """How far the source lies from the target when it is moved by the truth and then shifted."""
    source, target = plan.clouds(40_000)
    laid = source.astype(float) @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3] + shift
    inner = np.abs(laid[:, 0] - np.median(target[:, 0])) < 3
    return float(np.median(cKDTree(target).query(laid[inner])[0]))


def test_ambiguous_warehouses_fit_a_bay_further_and_plain_ones_do_not() -> None:
    for seed in range(3):
        plan = warehouse(np.random.default_rng(seed), ambiguous=1.0)
        assert plan.ambiguous and plan.overlap is not None and 0.3 < plan.overlap <= 1
        assert misfit(plan, BAY) == pytest.approx(misfit(plan, 0 * BAY), rel=0.1)
        assert misfit(plan, BAY / 2) > 1.1 * misfit(plan, 0 * BAY)
        plan = warehouse(np.random.default_rng(seed), ambiguous=0.0)
        assert not plan.ambiguous and misfit(plan, BAY) > 1.08 * misfit(plan, 0 * BAY)
    drawn = [warehouse(np.random.default_rng(seed)).ambiguous for seed in range(40)]
    assert 3 <= sum(drawn) <= 20


def test_the_next_room_does_not_fit_as_well() -> None:
    scene, length = floor_scene(np.random.default_rng(3), 8)
    plan = floor(np.random.default_rng(3))
    pitch = np.array([length / 8, 0, 0])
    assert misfit(plan, pitch) > 1.03 * misfit(plan, 0 * pitch)
    assert len(scene.kind) > 100


def test_racks_carry_their_loads_within_their_bays() -> None:
    scene, length = warehouse_scene(np.random.default_rng(1), 8, same=False)
    assert length == pytest.approx(8 * 2.7) and scene.walls is not None
    assert (np.abs(scene.centre[:, 0]) <= length / 2 + 1e-4).all()
    low = scene.centre[:, 2] - np.abs(scene.linear[:, 2]).sum(axis=1)
    assert (low > -0.01).all() and (scene.centre[:, 2] < scene.walls[1, 2]).all()


@pytest.mark.parametrize("seed", range(4))
def test_stands_in_sight_share_a_room_and_those_apart_do_not(seed: int) -> None:
    """Against brute force: what lies within a tenth of a metre of the other scan, under the truth."""
    shares = []
    for apart in (0.0, 1.0):
        plan = stands_pair(np.random.default_rng(seed), apart=apart)
        source, target = plan.clouds(20_000)
        laid = source @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
        shares.append(float((cKDTree(target).query(laid)[0] < 0.1).mean()))
        assert plan.overlap is not None and abs(shares[-1] - plan.overlap) < 0.2
        assert plan.origins is not None
        nearest = [
            float(np.linalg.norm(c - at, axis=1).min()) for c, at in zip((source, target), plan.origins, strict=True)
        ]
        assert min(nearest) > 0.25  # nothing is nearer than the scanner sees, but for noise
    assert shares[0] > 0.2 and shares[1] < 0.1
