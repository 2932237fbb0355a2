"""Scans of one sensor in a folder, in the order in which they were taken, and their poses beside them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deepgmr.errors import InvalidFile
from deepgmr.io.disk import check_readable
from deepgmr.io.trajectories import read_trajectory

TIMES = "times.txt"  # beside the scans or above them, as KITTI has it
POSES = ("poses.json", "poses.txt")  # by the names of the scans; in their order
_NOT_SCANS = (".txt", ".csv")  # what lies beside scans more often than it holds them


def scans_in(folder: Path) -> list[Path]:
    """The scans of a folder, as `scans_among` finds and orders them. Raises `InvalidFile`."""
    if not folder.is_dir():
        raise InvalidFile(f"{folder}: {'is no folder' if folder.exists() else 'no such folder'}; give one of scans")
    return [folder / name for name in scans_among((path.name for path in folder.iterdir()), str(folder))]


def scans_among(names: Iterable[str], where: str) -> list[str]:
    """The scans among the files of a folder by name, numbers in it as numbers: those of the commonest readable suffix.

    Raises `InvalidFile`.
    """
    from deepgmr.io import WRITABLE

    readable = (*WRITABLE, ".bin", ".e57", ".gltf")
    beside = (TIMES, *POSES)
    files = [n for n in names if Path(n).suffix.lower() in readable and not n.startswith(".") and n not in beside]
    count = Counter(Path(name).suffix.lower() for name in files)
    if not count:
        raise InvalidFile(f"{where}: holds no scans; those are files such as 000000.bin, scan.ply or scan.pcd")
    suffix = max(count, key=lambda each: (each not in _NOT_SCANS, count[each], each))
    return sorted(
        (name for name in files if Path(name).suffix.lower() == suffix),
        key=lambda name: ([int(part) for part in re.findall(r"\d+", Path(name).stem)], name),
    )


def read_poses(path: Path, scans: list[str]) -> np.ndarray:
    """(F, 4, 4) float64, world from scan, of the named scans: from JSON that has a matrix by each name, or from TUM's or
    KITTI's lines in the order of the scans.

    Raises `InvalidFile` where one is missing or too many, `InvalidTransform` for what is no pose.
    """
    if path.suffix != ".json":
        poses = read_trajectory(path).poses
        if len(poses) != len(scans):
            raise InvalidFile(
                f"{path}: has {len(poses)} poses for {len(scans)} scans; give one for each, in their order"
            )
        return poses
    from deepgmr.geometry.transform import rigid_matrix  # here: torch takes long to import

    check_readable(path)
    try:
        named = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in scans if name not in named]
        matrices = [np.array(named[name], dtype=np.float64).reshape(4, 4) for name in scans if name in named]
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidFile(f"{path}: is no JSON of 4x4 poses by the names of scans ({str(error)[:100]})") from None
    if missing:
        raise InvalidFile(f"{path}: has no pose for {len(missing)} of {len(scans)} scans, the first is {missing[0]}")
    return np.array([rigid_matrix(pose, f"{path}: {name}") for name, pose in zip(scans, matrices, strict=True)])
