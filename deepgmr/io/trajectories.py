"""Poses along a way on disk: TUM's time, place and quaternion a line, or KITTI's first three rows of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepgmr.errors import InvalidConfig, InvalidFile
from deepgmr.io.disk import check_readable, reason, replacing

FORMATS = ("tum", "kitti")
_UNIT = 1e-3  # how far from one the length of a quaternion may be: texts have four digits


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Where a sensor was."""

    poses: np.ndarray  # (F, 4, 4) float64, world from sensor
    times: np.ndarray | None = None  # (F,) float64, seconds; KITTI's files hold none

    def __len__(self) -> int:
        return len(self.poses)


def read_trajectory(path: str | Path) -> Trajectory:
    """Poses from text: TUM (time x y z qx qy qz qw) or KITTI (twelve numbers, row after row), told by their number.

    What follows a # is a comment. Raises `InvalidFile`, which names the line, or `InvalidTransform`.
    """
    path = Path(path)
    rows = _numbers(path)
    if rows.shape[1] not in (8, 12):
        raise InvalidFile(f"{path}: has {rows.shape[1]} numbers a line; poses have 8 (TUM) or 12 (KITTI)")
    from deepgmr.geometry.transform import is_rigid, rigid_matrix  # here: torch takes long to import

    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    if rows.shape[1] == 12:
        poses[:, :3] = rows.reshape(-1, 3, 4)
        for bad in np.flatnonzero(~is_rigid(poses))[:1]:
            rigid_matrix(poses[bad], f"{path}: pose {bad + 1}")  # says what is wrong with it
        return Trajectory(poses)
    from scipy.spatial.transform import Rotation

    length = np.linalg.norm(rows[:, 4:], axis=1)
    for bad in np.flatnonzero(np.abs(length - 1) > _UNIT)[:1]:
        raise InvalidFile(f"{path}: the quaternion of pose {bad + 1} has length {length[bad]:.4g}; it must be one")
    poses[:, :3, :3] = Rotation.from_quat(rows[:, 4:]).as_matrix()
    poses[:, :3, 3] = rows[:, 1:4]
    return Trajectory(poses, rows[:, 0])


def write_trajectory(path: str | Path, trajectory: Trajectory, *, format: str = "tum") -> None:
    """Write poses with every digit; whole or not at all. Without times, TUM's are the numbers of the poses from zero.

    Raises `InvalidConfig` for an unknown format, `InvalidFile`, or `InvalidTransform` for what is no pose.
    """
    text = trajectory_text(trajectory, format)
    with replacing(Path(path)) as stream:
        stream.write(text.encode())


def trajectory_text(trajectory: Trajectory, format: str = "tum") -> str:
    """What `write_trajectory` writes."""
    check_format(format)
    from scipy.spatial.transform import Rotation

    from deepgmr.geometry.transform import rigid_matrix  # here, as above

    poses = np.array([rigid_matrix(pose, f"pose {number + 1}") for number, pose in enumerate(trajectory.poses)])
    poses = poses.reshape(-1, 4, 4)
    if format == "kitti":
        rows = poses[:, :3].reshape(-1, 12)
    else:
        times = np.arange(len(poses)) if trajectory.times is None else trajectory.times
        turns = Rotation.from_matrix(poses[:, :3, :3]).as_quat() if len(poses) else np.zeros((0, 4))
        rows = np.column_stack([times, poses[:, :3, 3], turns])
    return "".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist())


def check_format(format: str) -> None:
    """Raise `InvalidConfig` unless it is one of `FORMATS`."""
    if format not in FORMATS:
        raise InvalidConfig(f"unknown format of poses `{format}`; use one of {', '.join(FORMATS)}")


def read_times(path: str | Path) -> np.ndarray:
    """One time (F,) a line, seconds, as KITTI's times.txt has them. Raises `InvalidFile`."""
    rows = _numbers(Path(path))
    if rows.shape[1] != 1:
        raise InvalidFile(f"{path}: has {rows.shape[1]} numbers a line; times have one")
    if not (np.diff(rows[:, 0]) > 0).all():
        raise InvalidFile(f"{path}: times must rise from line to line")
    return rows[:, 0]


def _numbers(path: Path) -> np.ndarray:
    """Rows (F, K) of numbers, equally many a line, at least one row."""
    check_readable(path)
    rows: list[list[float]] = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                words = line.partition("#")[0].replace(",", " ").split()
                if not words:
                    continue
                rows.append([float(word) for word in words])
                if len(words) != len(rows[0]):
                    raise InvalidFile(f"{path}: line {number} has {len(words)} numbers, those before {len(rows[0])}")
                if not np.isfinite(rows[-1]).all():
                    raise InvalidFile(f"{path}: line {number} has numbers that are not finite")
    except UnicodeDecodeError:
        raise InvalidFile(f"{path}: is not text; give poses as TUM or KITTI write them") from None
    except ValueError as error:
        if isinstance(error, InvalidFile):
            raise
        raise InvalidFile(f"{path}: line {number} is not a row of numbers ({reason(error)[:60]})") from None
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from None
    if not rows:
        raise InvalidFile(f"{path}: holds no numbers")
    return np.array(rows, dtype=np.float64)
