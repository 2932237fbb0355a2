"""All the scans of one thing or place that a suite of pairs holds, and where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepgmr.datasets.suites.fixed import nearest_rigid, read_archive
from deepgmr.datasets.suites.threedmatch import BENCHMARKS, METRES
from deepgmr.datasets.worlds.gatherings import Gathering
from deepgmr.datasets.worlds.planned import any_pose, inverse
from deepgmr.errors import InvalidFile
from deepgmr.geometry.neighbours import Tree
from deepgmr.geometry.procrustes import align_few
from deepgmr.pipeline.registrar import Registrar

_NEAREST = 0.3  # share of the points of a sample that tell where another lies
_SAME = 1e-4  # sizes within which two points of one scan are the same one
_LEAST = 0.05  # share of the points of two samples of one scan that must be

Motions = dict[tuple[str, str], np.ndarray]  # second from first


def scans_of(path: str | Path, thing: str, *, seed: int = 0) -> Gathering:
    """The scans whose pairs are the files THING_A_to_B.npz of a folder; right within 1 degree and 1 % of the size.

    A scan is in several pairs, as another sample of the same points each time: where these coincide, to a
    ten-thousandth of the size, they tie the pairs to one another. Each scan gets a pose of its own. Raises `InvalidFile`
    for a folder without such pairs, or with some that do not hang together.
    """
    clouds: dict[str, np.ndarray] = {}
    motions: Motions = {}
    for file in sorted(Path(path).glob(f"{thing}_*_to_*.npz")):
        first, second = file.stem.removeprefix(f"{thing}_").split("_to_")
        pair = read_archive(file, ["source", "target", "transform"])
        ends = [np.eye(4), np.eye(4)]
        for end, (name, key) in enumerate(((first, "source"), (second, "target"))):
            points = pair[key].astype(np.float64)
            if name in clouds:
                ends[end] = _same(clouds[name], points, file)
            clouds.setdefault(name, points)
        motions[first, second] = inverse(ends[1]) @ nearest_rigid(pair["transform"][None])[0] @ ends[0]
    names = sorted(clouds)
    size = 2 * float(np.median([np.sqrt(clouds[name].var(axis=0).sum()) for name in names])) if names else 0.0
    rng, scans, poses = np.random.default_rng(seed), [], []
    for name, pose in zip(names, _chained(names, motions, f"{path}: {thing}"), strict=True):
        own = any_pose(rng, 3 * size)
        scans.append(clouds[name] @ own[:3, :3].T + own[:3, 3])
        poses.append(pose @ inverse(own))
    return Gathering(thing, scans, np.array(poses), 1.0, 0.01 * size)


def fragments_of(path: str | Path, scene: str) -> Gathering:
    """All fragments of a scene of 3DMatch that its pairs tie to one another, in metres; right within 5 degrees and .3 m.

    Raises `InvalidFile`.
    """
    path, motions = Path(path), {}
    for benchmark in BENCHMARKS:
        keys = [f"{benchmark}_{key}" for key in ("scene", "source", "target", "transform")]
        listed = read_archive(path / "pairs.npz", keys)
        scenes, sources, targets, transforms = (listed[key] for key in keys)
        for row in np.flatnonzero(scenes == scene):
            motions[str(sources[row]), str(targets[row])] = nearest_rigid(transforms[row : row + 1])[0]
    names = sorted({name for pair in motions for name in pair}, key=int)
    held = read_archive(path / "fragments" / f"{scene}.npz", [f"cloud_bin_{name}" for name in names])
    scans = [METRES * held[f"cloud_bin_{name}"].astype(np.float64) for name in names]
    return Gathering(scene, scans, _chained(names, motions, f"{path}: {scene}"), 5.0, 0.3)


def _same(first: np.ndarray, second: np.ndarray, file: Path) -> np.ndarray:
    """The motion (4, 4) of one sample of a scan onto another, by the points that they share."""
    size, tree = float(np.sqrt(first.var(axis=0).sum())), Tree(second)
    motion = Registrar.load().register(first, second).target_from_source
    for _ in range(20):  # to those that are nearest: of most samples they are the same points
        distance, near = tree.nearest(first @ motion[:3, :3].T + motion[:3, 3], 1)
        chosen = np.argsort(distance[:, 0])[: int(_NEAREST * len(first))]
        pair = first[chosen], second[near[chosen, 0]]
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = align_few(*pair, np.ones(len(chosen)), np.eye(3))
    moved = first @ motion[:3, :3].T + motion[:3, 3]
    if (tree.nearest(moved, 1)[0] < _SAME * size).mean() < _LEAST:
        raise InvalidFile(f"{file}: does not hold the scan that another file calls the same")
    return motion


def _chained(names: list[str], motions: Motions, what: str) -> np.ndarray:
    """(N, 4, 4) poses in the frame of the first of names, along motions second from first."""
    if not names:
        raise InvalidFile(f"{what}: there are no pairs of it")
    found, ahead = {names[0]: np.eye(4)}, [names[0]]
    while ahead:
        here = ahead.pop()
        for (first, second), motion in motions.items():
            if first == here and second not in found:
                found[second] = found[here] @ inverse(motion)
                ahead.append(second)
            if second == here and first not in found:
                found[first] = found[here] @ motion
                ahead.append(first)
    if len(found) < len(names):
        apart = ", ".join(name for name in names if name not in found)
        raise InvalidFile(f"{what}: no pair ties {apart} to {names[0]}")
    return np.array([found[name] for name in names])
