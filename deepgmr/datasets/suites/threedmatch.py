"""3DMatch and 3DLoMatch: fused fragments of rooms, their official pairs, and the official criterion.

A folder holds `pairs.npz` with `{benchmark}_{scene,source,target,transform,overlap,info}`, and one `fragments/SCENE.npz`
a scene with `cloud_bin_N` int16 in millimetres. Fragments are read when a pair is asked for, and some are kept.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from deepgmr.datasets.suites.fixed import LazyClouds, PairSuite, nearest_rigid, read_archive
from deepgmr.errors import InvalidFile

BENCHMARKS = ("3DMatch", "3DLoMatch")
METRES = 1e-3  # a unit of the fragments
_COLUMNS = ("scene", "source", "target", "transform", "info")
_KEPT = 64  # fragments: those of a scene, some 40 MB


def is_threedmatch(path: str | Path) -> bool:
    """Whether there is such a folder at the path."""
    return (Path(path) / "pairs.npz").is_file() and (Path(path) / "fragments").is_dir()


def read_threedmatch(path: str | Path, benchmark: str = "3DMatch") -> PairSuite:
    """The pairs of one benchmark, in metres; of 3DMatch those of fragments that do not follow one another.

    The published rotations, rounded to some digits, become the nearest ones. Raises `InvalidFile` for a layout, a
    scene or a fragment that is not there; a damaged fragment is found when its pair is asked for.
    """
    path = Path(path)
    if benchmark not in BENCHMARKS:
        raise InvalidFile(f"{path}: there is no benchmark `{benchmark}`; give #{' or #'.join(BENCHMARKS)}")
    listed = read_archive(path / "pairs.npz", [f"{benchmark}_{key}" for key in _COLUMNS])
    scene, source, target, transform, information = (listed[f"{benchmark}_{key}"] for key in _COLUMNS)
    count = len(scene)
    if source.shape != (count,) or target.shape != (count,) or transform.shape != (count, 4, 4):
        raise InvalidFile(f"{path / 'pairs.npz'}: the columns of {benchmark} disagree about the number of pairs")
    if information.shape != (count, 6, 6):
        raise InvalidFile(f"{path / 'pairs.npz'}: `{benchmark}_info` must be ({count}, 6, 6), got {information.shape}")
    for name in np.unique(scene):
        if not (path / "fragments" / f"{name}.npz").is_file():
            raise InvalidFile(f"{path}: there are pairs of {name}, but no fragments/{name}.npz")
    if benchmark == "3DMatch":  # neighbours in time are too easy to count
        apart = np.abs(source - target) > 1
        scene, source, target, transform, information = (
            column[apart] for column in (scene, source, target, transform, information)
        )

    @functools.lru_cache(_KEPT)
    def fragment(name: str, number: int) -> np.ndarray:
        key = f"cloud_bin_{number}"
        cloud = read_archive(path / "fragments" / f"{name}.npz", [key])[key]
        if cloud.ndim != 2 or cloud.shape[1] != 3 or cloud.dtype != np.int16 or not len(cloud):
            raise InvalidFile(f"{path}: {name}, {key}: must be int16 (points, 3), got {cloud.dtype} {cloud.shape}")
        return METRES * cloud.astype(np.float64)

    rows = np.arange(len(scene))
    return PairSuite(
        name=benchmark,
        kind="fragments",
        sources=LazyClouds(lambda i: fragment(str(scene[i]), int(source[i])), rows),
        targets=LazyClouds(lambda i: fragment(str(scene[i]), int(target[i])), rows),
        transforms=nearest_rigid(transform.astype(np.float64)),
        names=tuple(f"{s}_{a}_to_{b}" for s, a, b in zip(scene, source, target, strict=True)),
        scenes=tuple(str(name) for name in scene),
        information=information.astype(np.float64),
    )
