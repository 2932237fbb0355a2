"""A folder of meshes or clouds of any readable format, as equal-sized clouds to make pairs from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deepgmr.errors import InvalidCloud, InvalidConfig, InvalidFile
from deepgmr.io import read_cloud

SUFFIXES = (".ply", ".pcd", ".obj", ".stl", ".off", ".glb", ".gltf", ".xyz", ".pts", ".txt", ".csv", ".asc", ".npy")


@dataclass(frozen=True, eq=False)
class Folder:
    """Clouds of a folder, in the order of their names."""

    points: np.ndarray  # (n, N, 3) float32
    names: tuple[str, ...]  # paths relative to the folder
    skipped: tuple[str, ...]  # one line for each file that was left out

    def __len__(self) -> int:
        return len(self.points)


def read_folder(
    root: str | Path,
    points: int,
    *,
    generator: torch.Generator,
    normalise: bool = True,
    skip_invalid: bool = False,
    suffixes: Sequence[str] = SUFFIXES,
) -> Folder:
    """Read every cloud and mesh under `root`, subfolders included, and draw `points` of each without repetition.

    Meshes are sampled by area. `normalise` centres each cloud at its mean and scales it to the unit sphere, as
    ModelNet is. Raises `InvalidFile` for a folder without anything readable or a file that cannot be read, and
    `InvalidCloud` for a cloud with too few, repeated-only or non-finite points; `skip_invalid` lists those files in
    `skipped` instead.
    """
    root = Path(root)
    if points < 1:
        raise InvalidConfig(f"cannot draw {points} points a cloud")
    if not root.is_dir():
        raise InvalidFile(f"no such folder: {root}")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    clouds, names, skipped = [], [], []
    for path in files:
        try:
            clouds.append(_drawn(path, points, generator, normalise))
        except (InvalidFile, InvalidCloud) as error:
            if not skip_invalid:
                raise
            skipped.append(f"{path.relative_to(root)}: {error}")
            continue
        names.append(str(path.relative_to(root)))
    if not clouds:
        more = f"; all {len(skipped)} files were left out, the first: {skipped[0]}" if skipped else ""
        raise InvalidFile(f"{root} holds no readable cloud or mesh ({', '.join(suffixes)}){more}")
    return Folder(np.stack(clouds), tuple(names), tuple(skipped))


def _drawn(path: Path, points: int, generator: torch.Generator, normalise: bool) -> np.ndarray:
    cloud = read_cloud(path).points  # float64
    if not np.isfinite(cloud).all():
        raise InvalidCloud(f"{path} holds NaN or infinite coordinates")
    if len(cloud) < points:
        raise InvalidCloud(f"{path} has {len(cloud)} points, fewer than the {points} asked for")
    cloud = cloud[torch.randperm(len(cloud), generator=generator)[:points].numpy()]
    if normalise:
        cloud = cloud - cloud.mean(axis=0)
        radius = np.linalg.norm(cloud, axis=1).max()
        if radius == 0:
            raise InvalidCloud(f"{path}: all the points drawn are one and the same")
        cloud = cloud / radius
    return cloud.astype(np.float32)
