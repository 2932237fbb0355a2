"""The parts of odometry: motion, the map, places, and the memory that bends a way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation

from deepgmr.odometry.fix import Fix, Loop, Tracking
from deepgmr.odometry.local_map import LocalMap
from deepgmr.odometry.memory import Memory
from deepgmr.odometry.motion import between, carried, deskewed, velocity
from deepgmr.odometry.places import Place, alike, revisited
from deepgmr.odometry.settings import OdometrySettings
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.scan import Scan
from deepgmr.pipeline.settings import ProposeSettings, ScanSettings
from deepgmr.posegraph.graph import Edge
from deepgmr.posegraph.looks import look_of


def generator(twist: np.ndarray) -> np.ndarray:
    """The 4x4 whose exponential is the motion of a twist."""
    (a, b, c), v = twist[:3], twist[3:]
    return np.array([[0, -c, b, v[0]], [c, 0, -a, v[1]], [-b, a, 0, v[2]], [0, 0, 0, 0]])


def pose(rotation: list[float], place: list[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_rotvec(rotation).as_matrix(), place
    return matrix


# -- motion ------------------------------------------------------------------------------------------------------


def test_motion_goes_on_as_it_went() -> None:
    before, after = pose([0.1, 0.4, -0.2], [1, 2, 3]), pose([0.2, 0.5, 0.1], [2, 2, 2.5])
    twist = velocity(before, after, 0.5)
    np.testing.assert_allclose(generator(twist), logm(np.linalg.inv(before) @ after).real / 0.5, atol=1e-12)
    np.testing.assert_allclose(carried(before, twist, 0.5), after, atol=1e-12)
    np.testing.assert_allclose(carried(after, twist, 0.3), after @ expm(0.3 * generator(twist)), atol=1e-12)
    half = between(before, after, 0.5)
    np.testing.assert_allclose(half @ np.linalg.inv(before) @ half, after, atol=1e-12)


def test_points_are_put_where_they_would_have_been_seen() -> None:
    rng = np.random.default_rng(2)
    twist, ages = np.array([0.02, -0.1, 0.6, 8.0, 0.5, -0.2]), rng.uniform(0, 0.1, 400)
    still = rng.uniform(-30, 30, (400, 3))  # as the sensor sees them at the end
    seen = np.array([(expm(age * generator(twist)) @ [*point, 1])[:3] for point, age in zip(still, ages, strict=True)])
    assert np.abs(seen - still).max() > 1
    assert np.abs(deskewed(seen, ages, twist) - still).max() < 0.01  # 128 slices of a turn
    assert deskewed(still, np.zeros(400), twist) is still
    np.testing.assert_allclose(deskewed(seen[:1], ages[:1], twist), still[:1], atol=1e-9)  # all at one time


# -- the map -----------------------------------------------------------------------------------------------------


def test_the_map_holds_the_means_of_what_fell_into_its_cells() -> None:
    rng = np.random.default_rng(1)
    here, there = pose([0, 0, 0.3], [1000.0, -50, 2]), pose([0, 0.1, 0.5], [1003.0, -51, 2])
    clouds = rng.uniform(-5, 5, (2, 300, 3))
    found = LocalMap.empty(1.0, ScanSettings())
    for cloud, at in zip(clouds, (here, there), strict=True):
        found = found.with_points(cloud, at, 100.0)
    world = np.concatenate([c @ at[:3, :3].T + at[:3, 3] for c, at in zip(clouds, (here, there), strict=True)])
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in world:
        cells.setdefault(tuple(np.floor(point).astype(int)), []).append(point)
    wanted = {cell: np.mean(points, axis=0) for cell, points in cells.items()}
    means = found.heaps.means
    assert len(means) == len(wanted)
    for mean in means:
        np.testing.assert_allclose(mean, wanted[tuple(np.floor(mean).astype(int))], atol=1e-6)
    np.testing.assert_allclose(found.scan.heaps.means + found.scan.origin, means, atol=1e-9)


def test_the_map_forgets_what_is_far() -> None:
    points, far = np.random.default_rng(0).uniform(-4, 4, (200, 3)), pose([0, 0, 0], [100.0, 0, 0])
    near = LocalMap.empty(0.5, ScanSettings()).with_points(points, np.eye(4), 50.0)
    moved_on = near.with_points(points, far, 50.0)
    assert moved_on.heaps.means[:, 0].min() > 90 and len(near.heaps) > 100  # the one before is as it was
    assert len(near.with_points(points, far, 200.0).heaps) > len(moved_on.heaps)


# -- places ------------------------------------------------------------------------------------------------------


def place(number: int, at: np.ndarray, way: float, look: np.ndarray | None = None) -> Place:
    look = np.ones(3) / np.sqrt(3) if look is None else look
    return Place(number, at, 1e-6 * np.eye(6), way, np.zeros((4, 3), np.float32), look)


def test_places_come_back_to() -> None:
    spots = [place(i, pose([0, 0, 0], [10.0 * i, 0, 0]), 10.0 * i) for i in range(6)]
    here = place(40, pose([0, 0, 0], [12.0, 5, 0]), 400.0)
    found = revisited(here, spots, after=100.0, near=10.0, drift=0.0)
    assert [each.number for each in found] == [1, 2]  # 5.4 m and 9.4 m away
    assert [each.number for each in revisited(here, spots, after=100.0, near=10.0, drift=0.02)] == [1, 2, 0]
    assert not revisited(here, spots, after=400.0, near=10.0, drift=0.0)[1:]


def test_what_looks_alike_does_so_from_anywhere() -> None:
    rng = np.random.default_rng(7)
    boxes = [
        np.concatenate(
            [rng.uniform(-1, 1, (500, 3)) * size + at for size, at in zip(sizes, rng.normal(size=(3, 3)), strict=True)]
        )
        for sizes in rng.uniform(0.0, 2.0, (5, 3, 3))
    ]
    looks = [look_of(Scan.of(points), ProposeSettings()) for points in boxes]
    turned = boxes[3] @ pose([0.4, 1.0, -2.0], [0, 0, 0])[:3, :3].T + [10.0, 20, 30]
    spots = [place(i, np.eye(4), 0.0, look) for i, look in enumerate(looks)]
    again = look_of(Scan.of(turned[rng.permutation(len(turned))]), ProposeSettings())
    assert alike(again, spots)[0].number == 3
    assert np.linalg.norm(again) == pytest.approx(1)
    assert alike(again, []) == []


# -- memory ------------------------------------------------------------------------------------------------------


def test_a_loop_bends_the_way_back() -> None:
    """A square driven with a gyroscope that drifts: known to come back to its start, it does."""
    count, covariance = 40, np.diag([4e-4] * 3 + [1e-2] * 3)  # as much as it drifts between two places
    step = pose([0, 0, 2 * np.pi / count], [5.0, 0, 0])
    drifting = step @ pose([0, 0, 0.004], [0, 0, 0])
    truth = np.array([np.linalg.matrix_power(step, i) for i in range(count + 1)])
    tracked = np.array([np.linalg.matrix_power(drifting, i) for i in range(count + 1)])
    memory = Memory(Registrar.load("default"), OdometrySettings())
    for number in range(0, count + 1, 4):  # a place every fourth scan
        memory.remember(place(number, tracked[number], 5.0 * number), len(memory.places) - 1, covariance)
    fixes = [Fix(i, float(i), Tracking.TRACKED, each, covariance, 1.0, 0.1) for i, each in enumerate(tracked)]
    assert np.array_equal(memory.corrected(fixes), tracked)
    memory.edges.append(Edge(0, len(memory.places) - 1, np.eye(4), covariance / 10, loop=True))
    memory.loops.append(Loop(0, count, np.eye(4), covariance / 10, 0.99))
    bent = memory.corrected(fixes)
    before, after = (np.linalg.norm(each[:, :3, 3] - truth[:, :3, 3], axis=1) for each in (tracked, bent))
    assert before[-1] > 3 and after[-1] < 0.2 and after.max() < 0.3 * before.max()
    assert np.array_equal(bent[0], tracked[0])
