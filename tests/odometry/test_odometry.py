"""Odometry against drives whose poses are known: tracking, jumps, being carried off, and what cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from problems_odometry import scan, truth, way

from deepgmr.errors import InvalidCloud, InvalidConfig
from deepgmr.odometry import Fix, Odometry, OdometrySettings, Tracking


def errors(found: np.ndarray | None, wanted: np.ndarray) -> tuple[float, float]:
    """Metres and degrees."""
    assert found is not None
    off = np.linalg.inv(found) @ wanted
    cosine = np.clip((np.trace(off[:3, :3]) - 1) / 2, -1, 1)
    return float(np.linalg.norm(off[:3, 3])), float(np.degrees(np.arccos(cosine)))


def assert_right(fix: Fix, wanted: np.ndarray, *, metres: float = 0.05, degrees: float = 0.1) -> None:
    off, turned = errors(fix.world_from_sensor, wanted)
    assert off < metres and turned < degrees, (fix.number, off, turned)


@pytest.fixture(scope="module")
def driven() -> Odometry:
    odometry = Odometry(loops=False)
    for number in range(12):
        odometry.feed(scan(number)[0])
    return odometry


def test_a_drive_is_followed(driven: Odometry) -> None:
    statuses = [fix.status for fix in driven.fixes]
    assert statuses == [Tracking.STARTED] + 11 * [Tracking.TRACKED]
    assert np.array_equal(driven.fixes[0].world_from_sensor, np.eye(4))  # type: ignore[arg-type]
    for fix in driven.fixes:
        assert_right(fix, truth(fix.number))
        assert fix.trusted and fix.time == fix.number and 0.5 < fix.overlap <= 1
    assert errors(np.eye(4), truth(11))[0] > 10  # there was something to follow
    assert np.array_equal(driven.trajectory.poses[7], driven.fixes[7].world_from_sensor)  # type: ignore[arg-type]


def test_covariances_are_covariances(driven: Odometry) -> None:
    assert not driven.fixes[0].covariance.any()  # type: ignore[union-attr]
    for fix in driven.fixes[1:]:
        assert fix.covariance is not None and np.array_equal(fix.covariance, fix.covariance.T)
        assert np.linalg.eigvalsh(fix.covariance)[0] > 0


def test_the_same_scans_give_the_same_poses(driven: Odometry) -> None:
    again = Odometry(loops=False)
    for number in range(4):
        points = scan(number)[0]
        again.feed(points[np.random.default_rng(number).permutation(len(points))])  # in any order
    for one, other in zip(again.fixes, driven.fixes, strict=False):
        assert np.array_equal(one.world_from_sensor, other.world_from_sensor)  # type: ignore[arg-type]


def test_units_do_not_matter(driven: Odometry) -> None:
    smaller = Odometry(loops=False)
    for number in range(3):
        fix = smaller.feed(1024 * scan(number)[0].astype(float))  # as many cells: their sizes are fourth roots of two
        pose = np.array(fix.world_from_sensor)
        pose[:3, 3] /= 1024
        np.testing.assert_allclose(pose, driven.fixes[number].world_from_sensor, atol=1e-6)


def test_a_scan_that_cannot_be_used_changes_nothing() -> None:
    odometry = Odometry(loops=False)
    for number in range(2):
        odometry.feed(scan(number)[0], time=0.1 * number)
    broken = scan(2)[0].copy()
    broken[5] = np.nan
    with pytest.raises(InvalidCloud, match="scan: 1 of"):
        odometry.feed(broken, time=0.2)
    with pytest.raises(InvalidCloud, match="places"):
        odometry.feed(np.repeat([[0.0, 0, 0], [1.0, 0, 0]], 5, axis=0), time=0.2)
    with pytest.raises(InvalidConfig, match="later"):
        odometry.feed(scan(2)[0], time=0.1)
    with pytest.raises(InvalidConfig, match="point_times"):
        odometry.feed(scan(2)[0], time=0.2, point_times=np.zeros(3))
    assert len(odometry.fixes) == 2
    fix = odometry.feed(broken, time=0.2, drop_invalid=True)
    assert fix.number == 2
    assert_right(fix, truth(2))


def test_a_wall_in_front_of_the_lens_is_no_pose() -> None:
    odometry = Odometry(loops=False)
    for number in range(2):
        odometry.feed(scan(number)[0])
    wall = np.random.default_rng(0).uniform([0.3, -0.3, -0.3], [0.31, 0.3, 0.3], (500, 3))
    fix = odometry.feed(wall)
    assert fix.status is Tracking.LOST and fix.world_from_sensor is None and not fix.trusted
    fix = odometry.feed(scan(3)[0])  # and it goes on where it is expected
    assert fix.trusted
    assert_right(fix, truth(3))
    assert odometry.trajectory.times is not None and odometry.trajectory.times.tolist() == [0, 1, 3]


@pytest.mark.slow
def test_jumps_are_found_and_being_carried_off_is_told() -> None:
    odometry = Odometry(loops=False)
    for number in range(20):
        odometry.feed(scan(number)[0])
    for number, then in ((32, Tracking.RELOCALISED), (33, Tracking.TRACKED), (2, Tracking.RELOCALISED)):
        fix = odometry.feed(scan(number)[0])
        assert fix.status is then
        assert_right(fix, truth(number), metres=0.1)
    elsewhere = odometry.feed(scan(159)[0])  # out of sight of all that was passed
    assert elsewhere.status is Tracking.LOST and elsewhere.world_from_sensor is None
    assert elsewhere.covariance is None and "not found" in elsewhere.status.sentence
    back = odometry.feed(scan(4)[0])
    assert back.status in (Tracking.TRACKED, Tracking.RELOCALISED)
    assert_right(back, truth(4), metres=0.1)


def test_a_sensor_that_moves_while_it_turns() -> None:
    with_times, without = Odometry(loops=False), Odometry(loops=False)
    for number in range(8):
        points, ages = scan(number, moving=True)
        with_times.feed(points, time=number, point_times=number + ages)
        without.feed(points, time=number)
    wanted = np.linalg.inv(way().poses[1]) @ way().poses[7]

    def off(odometry: Odometry) -> float:
        first, last = (odometry.fixes[i].world_from_sensor for i in (1, 7))
        return errors(np.linalg.inv(first) @ last, wanted)[0]  # type: ignore[arg-type]

    assert off(with_times) < 0.06 and off(with_times) < off(without)


def test_settings_are_checked() -> None:
    assert OdometrySettings().replace(moved=500).moved == 500
    with pytest.raises(InvalidConfig, match="finite number > 0"):
        OdometrySettings(reach=-1.0)
    with pytest.raises(InvalidConfig, match="unknown"):
        OdometrySettings().replace(speed=3.0)
