"""examples/ros2_node.py without ROS: messages are whatever has their fields."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deepgmr import Registration, Status

PATH = Path(__file__).resolve().parent.parent / "examples" / "ros2_node.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ros2_node", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ros2_node"] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


node = load()
POSE = np.eye(4)
POSE[:3, :3] = Rotation.from_rotvec([0.02, -0.01, 1.2]).as_matrix()
POSE[:3, 3] = (1.5, -0.8, 0.3)


def hall() -> np.ndarray:
    """A map (N, 3): a room with boxes in it, sampled on its faces."""
    rng = np.random.default_rng(0)
    parts = []
    for size, place in (
        ((12, 8, 3), (0, 0, 1.5)),
        ((2, 1, 1.6), (2, 2, 0.8)),
        ((1, 3, 2.4), (-4, -1, 1.2)),
        ((1.5, 0.6, 1), (3.5, -2, 0.5)),
        ((0.8, 0.8, 2.9), (-1.5, 2.6, 1.4)),
    ):
        areas = np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]], float)
        count = round(40 * areas.sum())
        axis = rng.choice(3, count, p=areas / areas.sum())
        on = rng.uniform(-0.5, 0.5, (count, 3))
        on[np.arange(count), axis] = rng.choice((-0.5, 0.5), count)
        parts.append(on * size + place)
    return np.concatenate(parts)


def cloud(points: np.ndarray) -> Any:
    fields = [SimpleNamespace(name=axis, offset=4 * i, datatype=7, count=1) for i, axis in enumerate("xyz")]
    rows = np.zeros(len(points), [("xyz", "<f4", (3,)), ("rest", "V4")])
    rows["xyz"] = points
    rows["xyz"][::50] = np.nan  # beams without an echo
    shape = {"height": 1, "width": len(points), "point_step": 16, "row_step": 16 * len(points)}
    return SimpleNamespace(fields=fields, data=rows.tobytes(), is_bigendian=False, is_dense=False, **shape)


def prior(matrix: np.ndarray, deviations: tuple[float, ...] = (0.3, 0.3, 0.1, 0.05, 0.05, 0.1)) -> Any:
    pose = SimpleNamespace(position=SimpleNamespace(), orientation=SimpleNamespace())
    node.fill_pose(pose, matrix)
    return SimpleNamespace(pose=pose, covariance=np.diag(np.square(deviations)).reshape(-1).tolist())


@pytest.fixture(scope="module")
def matcher() -> Any:
    return node.Matcher(hall())


def seen(pose: np.ndarray) -> np.ndarray:
    """What a vehicle at a pose sees: the map anew, within seven metres, with noise."""
    rng = np.random.default_rng(1)
    points = hall() + 0.005 * rng.normal(size=(len(hall()), 3))
    points = (points - pose[:3, 3]) @ pose[:3, :3]
    return points[np.linalg.norm(points, axis=1) < 7.0]


def test_poses_go_in_and_come_out() -> None:
    given = prior(POSE)
    np.testing.assert_allclose(node.matrix_of(given.pose), POSE, atol=1e-12)
    assert isinstance(given.pose.position.x, float) and isinstance(given.pose.orientation.w, float)


def test_a_scan_is_localised(matcher: Any) -> None:
    guess = POSE.copy()
    guess[:3, 3] += (0.2, -0.1, 0.05)
    found = matcher.match(cloud(seen(POSE)), prior(guess))
    assert found.level == node.OK and found.message == "localised", found
    np.testing.assert_allclose(found.pose[:3, 3], POSE[:3, 3], atol=0.02)
    np.testing.assert_allclose(found.pose[:3, :3], POSE[:3, :3], atol=0.01)
    assert found.covariance.shape == (6, 6) and np.linalg.eigvalsh(found.covariance).min() > 0
    assert found.values["status"] == "ok" and float(found.values["squared_mahalanobis_from_prior"]) < node.FARTHEST


def test_a_prior_that_is_contradicted_is_said(matcher: Any) -> None:
    guess = POSE.copy()
    guess[:3, 3] += (2.0, 0.0, 0.0)
    found = matcher.match(cloud(seen(POSE)), prior(guess, (0.05,) * 6))
    assert found.level == node.WARN and "contradicts the prior" in found.message


def test_a_scan_of_nothing_is_an_error_and_no_pose(matcher: Any) -> None:
    found = matcher.match(cloud(np.zeros((0, 3))))
    assert found.level == node.ERROR and found.pose is None and "source: 0 usable points" in found.message


def test_a_scan_that_cannot_be_placed_is_no_pose(matcher: Any) -> None:
    rng = np.random.default_rng(3)
    found = matcher.match(cloud(rng.normal(size=(400, 3))))
    assert found.level == node.WARN and found.pose is None and found.values["status"] != "ok"


def test_the_covariance_is_that_of_the_place() -> None:
    """Against draws: rotations about the map's origin and translations, as they move the vehicle."""
    rng = np.random.default_rng(4)
    factor = 1e-3 * rng.normal(size=(6, 6))
    left_out: Any = None
    answer = Registration(POSE, 1.0, factor @ factor.T, 1.0, Status.OK, "", 1.0, left_out, left_out)
    twists = rng.normal(size=(200_000, 6)) @ factor.T
    places = Rotation.from_rotvec(twists[:, :3]).apply(POSE[:3, 3]) + twists[:, 3:]
    drawn = np.cov(np.column_stack([places, twists[:, :3]]).T)
    np.testing.assert_allclose(node.ros_covariance(answer), drawn, atol=0.02 * np.abs(drawn).max())


def test_no_ros_is_needed_to_import_it() -> None:
    code = f"import runpy, sys; runpy.run_path({str(PATH)!r}); print('rclpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
