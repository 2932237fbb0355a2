"""The files that the authors of DeepGMR published: ICL-NUIM rooms, and their ModelNet copies, as HDF5.

Their training files hold clouds under `points` (n, points, 3), to be paired on the fly; their test files hold fixed
pairs under `source`, `target` and `transform`. They lie as `train/NAME.h5` and `test/NAME.h5`. Coordinates are kept
as stored: ICL-NUIM is in metres, not in a unit sphere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepgmr.datasets.suites.fixed import PairSuite, read_suite
from deepgmr.datasets.suites.hdf5 import open_hdf5, read_dataset
from deepgmr.errors import InvalidConfig, InvalidFile

NAME = "icl_nuim"


def read_clouds(path: str | Path, *, points: int | None = None) -> np.ndarray:
    """Clouds (n, points, 3) float32 of a training file; `points` keeps the first so many of each.

    Raises `InvalidFile` for a file in another layout, `InvalidConfig` for more points than are stored.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        clouds = read_dataset(file, "points", path)
    if clouds.ndim != 3 or clouds.shape[-1] != 3 or clouds.dtype.kind != "f" or 0 in clouds.shape:
        raise InvalidFile(f"{path}: `points` must be float (clouds, points, 3), got {clouds.dtype} {clouds.shape}")
    if not np.isfinite(clouds).all():
        raise InvalidFile(f"{path}: `points` holds NaN or infinite coordinates")
    if points is not None and not 1 <= points <= clouds.shape[1]:
        raise InvalidConfig(f"asked for {points} points a cloud, but {path} stores {clouds.shape[1]}")
    return np.ascontiguousarray(clouds[:, :points], dtype=np.float32)


def read_train(root: str | Path, *, points: int | None = None) -> np.ndarray:
    """The ICL-NUIM training clouds (n, points, 3) under the authors' data folder."""
    return read_clouds(_find(root, "train"), points=points)


def read_test(root: str | Path, *, points: int | None = None) -> PairSuite:
    """The fixed ICL-NUIM test pairs under the authors' data folder."""
    return read_suite(_find(root, "test"), points=points)


def _find(root: str | Path, split: str) -> Path:
    root = Path(root)
    candidates = [root / split / f"{NAME}.h5", root / f"{NAME}_{split}.h5", root / f"{NAME}.h5"]
    for path in candidates[: 2 if root.name != split else 3]:
        if path.is_file():
            return path
    raise InvalidFile(f"no {candidates[0]}; give the folder with the authors' {split}/{NAME}.h5 (see data/README.md)")
