"""Poses on disk: what is written is what others read, and what others write is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepgmr.errors import InvalidConfig, InvalidFile, InvalidInput, InvalidTransform
from deepgmr.io import Trajectory, read_cloud, read_trajectory, write_trajectory
from deepgmr.io.trajectories import read_times


def rodrigues(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def from_quaternion(x: float, y: float, z: float, w: float) -> np.ndarray:
    """The textbook's matrix of a unit quaternion."""
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.fixture
def way() -> Trajectory:
    rng = np.random.default_rng(3)
    poses = np.tile(np.eye(4), (6, 1, 1))
    for pose, angle in zip(poses, (0.0, 1e-7, 0.3, 2.0, 3.1, np.pi), strict=True):
        pose[:3, :3], pose[:3, 3] = rodrigues(rng.normal(size=3), angle), rng.normal(size=3) * 1e3
    return Trajectory(poses, np.array([0.1, 0.25, 1.0, 2.0, 1e9 + 1 / 3, 1.7e9]))


def test_tum_is_time_place_and_quaternion(way: Trajectory, tmp_path: Path) -> None:
    write_trajectory(tmp_path / "a.tum", way)
    rows = np.loadtxt(tmp_path / "a.tum")
    assert rows.shape == (6, 8)
    assert np.array_equal(rows[:, 0], way.times) and np.array_equal(rows[:, 1:4], way.poses[:, :3, 3])
    for row, pose in zip(rows, way.poses, strict=True):
        np.testing.assert_allclose(from_quaternion(*row[4:]), pose[:3, :3], atol=1e-14)


def test_kitti_is_the_upper_rows(way: Trajectory, tmp_path: Path) -> None:
    write_trajectory(tmp_path / "00.txt", way, format="kitti")
    assert np.array_equal(np.loadtxt(tmp_path / "00.txt").reshape(6, 3, 4), way.poses[:, :3])


@pytest.mark.parametrize("format", ["tum", "kitti"])
def test_what_is_written_is_read(way: Trajectory, tmp_path: Path, format: str) -> None:
    write_trajectory(tmp_path / "way", way, format=format)
    again = read_trajectory(tmp_path / "way")
    np.testing.assert_allclose(again.poses, way.poses, atol=1e-14)
    assert again.times is None if format == "kitti" else np.array_equal(again.times, way.times)  # type: ignore[arg-type]


def test_what_others_write_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# time x y z qx qy qz qw\n\n1305031102.1758 1 2 3 0 0 0.7071 0.7071 # a remark\n")
    found = read_trajectory(tmp_path / "a.txt")
    turned = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    np.testing.assert_allclose(found.poses, turned[None], atol=1e-12)  # a quaternion of four digits is still one
    assert found.times is not None and found.times.tolist() == [1305031102.1758]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("1 2 3\n", InvalidFile, "3 numbers a line"),
        ("0 0 0 0 0 0 0 1\n1 0 0 0 0 0 1\n", InvalidFile, "line 2 has 7 numbers"),
        ("0 0 0 0 0 0 0 1\n\n1 0 0 0 0 0 zero 1\n", InvalidFile, "line 3"),
        ("0 0 0 nan 0 0 0 1\n", InvalidFile, "not finite"),
        ("0 0 0 0 0 0 0 2\n", InvalidFile, "length 2"),
        ("1 0 0 0 0 1 0 0 0 0 2 0\n", InvalidTransform, "pose 1"),
        ("# nothing\n", InvalidFile, "no numbers"),
        ("\xff\xfe\x00", InvalidFile, "line 1"),
    ],
)
def test_what_is_no_trajectory_is_named(tmp_path: Path, text: str, error: type[InvalidInput], said: str) -> None:
    (tmp_path / "bad").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=said):
        read_trajectory(tmp_path / "bad")


def test_nothing_is_written_of_what_is_no_pose(tmp_path: Path) -> None:
    with pytest.raises(InvalidTransform, match="pose 2"):
        write_trajectory(tmp_path / "a", Trajectory(np.stack([np.eye(4), 2 * np.eye(4)])))
    with pytest.raises(InvalidConfig, match="tum, kitti"):
        write_trajectory(tmp_path / "a", Trajectory(np.eye(4)[None]), format="euroc")
    assert not list(tmp_path.iterdir())


def test_times_rise(tmp_path: Path) -> None:
    (tmp_path / "times.txt").write_text("0.0\n1.036e-01\n2.1e-01\n")
    assert read_times(tmp_path / "times.txt").tolist() == [0.0, 0.1036, 0.21]
    (tmp_path / "times.txt").write_text("0\n1\n1\n")
    with pytest.raises(InvalidFile, match="rise"):
        read_times(tmp_path / "times.txt")


def test_kitti_scans_are_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 4)).astype("<f4")
    rows.tofile(tmp_path / "000000.bin")
    cloud = read_cloud(tmp_path / "000000.bin")
    assert np.array_equal(cloud.points, rows[:, :3].astype(float)) and cloud.format == "bin"
    assert np.array_equal(cloud.properties["intensity"], rows[:, 3])
    (tmp_path / "cut.bin").write_bytes(rows.tobytes()[:-3])
    with pytest.raises(InvalidFile, match="cut off"):
        read_cloud(tmp_path / "cut.bin")
