"""The errors of a trajectory where they are known, and the study at a tiny size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deepgmr.evaluation.odometry import markdown, relative_errors, trajectory_error


def straight(count: int = 400) -> np.ndarray:
    """A straight way of a metre a scan."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = np.arange(count)
    return poses


def anywhere() -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix(), [40.0, -3, 7]
    return pose


def test_a_way_that_is_one_percent_too_long() -> None:
    truth = straight()
    longer = truth.copy()
    longer[:, 0, 3] *= 1.01
    metres, degrees = relative_errors(anywhere() @ longer, anywhere() @ truth)
    assert metres == pytest.approx(1.0, rel=0.01) and degrees == pytest.approx(0.0, abs=1e-5)
    assert trajectory_error(longer, truth) == pytest.approx(0.01 * np.std(np.arange(400)))


def test_a_compass_that_drifts_by_two_degrees_in_a_hundred_metres() -> None:
    truth = straight()
    turning = np.tile(np.eye(4), (400, 1, 1))
    turning[:, :3, :3] = Rotation.from_rotvec(np.radians(0.02 * np.arange(400))[:, None] * [0, 0, 1]).as_matrix()
    turning[:, :3, 3] = truth[:, :3, 3]
    assert relative_errors(turning, truth, (100,))[1] == pytest.approx(2.0)
    assert trajectory_error(turning, truth) == pytest.approx(0.0, abs=1e-9)  # places alone


def test_where_a_way_starts_is_no_error() -> None:
    rng = np.random.default_rng(0)
    truth = straight()
    truth[:, :3, 3] += np.cumsum(rng.normal(size=(400, 3)), axis=0)
    assert trajectory_error(anywhere() @ truth, truth) == pytest.approx(0.0, abs=1e-9)
    assert relative_errors(anywhere() @ truth, truth) == pytest.approx((0.0, 0.0), abs=1e-5)
    noisy = truth.copy()
    noisy[:, :3, 3] += rng.normal(size=(400, 3))
    assert trajectory_error(anywhere() @ noisy, truth) == pytest.approx(np.sqrt(3), rel=0.1)


def test_a_short_way_has_no_relative_error() -> None:
    assert relative_errors(straight(50), straight(50)) == (None, None)


def test_the_study_measures_both() -> None:
    pytest.importorskip("kiss_icp")
    from deepgmr.evaluation.odometry import measure

    result = measure(frames=3, steps=150)
    assert [row["method"] for row in result["rows"]] == ["deepgmr, as it went", "deepgmr, loops closed", "kiss-icp"]
    assert all(row["ATE m"] < 0.2 and row["ms"] > 0 for row in result["rows"][:2])
    assert 0 < result["rows"][2]["ATE m"] < 2  # its first scans tell it no motion yet
    assert "3 scans of" in markdown(result) and "| kiss-icp |" in markdown(result)
