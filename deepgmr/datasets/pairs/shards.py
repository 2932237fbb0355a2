"""From a folder of scans and their poses to shards that a training reads (`deepgmr.datasets.pairs.posed`).

Which scans overlap is measured once, here, on a thousand points of each: the share of one that lies within a few of their
spacings of the other.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors.torch import save
from scipy.spatial import cKDTree

from deepgmr.datasets.pairs.posed import FORMAT, INDEX
from deepgmr.errors import InvalidCloud, InvalidConfig, InvalidFile
from deepgmr.io import read_cloud
from deepgmr.io.addresses import beneath, exists, is_url, local_copy, names_in, write_bytes
from deepgmr.io.sequences import POSES, read_poses, scans_among

POINTS = 8192  # that are kept of a scan
LEAST = 0.2  # overlap of a pair
FEWEST = 500  # points of a scan that is kept
SHARD = 64  # scans a file
_MEASURED = 1024  # points of a scan by which overlap is measured
_NEAR = 2.5  # median spacings: on one surface, sampled twice at random, 99 in 100 points have another's so near
_PARTNERS = 64  # scans near a scan that are measured, drawn where there are more


@dataclass(frozen=True)
class Sharded:
    """What became of a folder."""

    scans: int
    pairs: int
    left_out: tuple[str, ...]  # names of scans with too few points

    def __str__(self) -> str:
        out = f"; {len(self.left_out)} left out for fewer than {FEWEST} points" if self.left_out else ""
        return f"{self.scans:,} scans, {self.pairs:,} pairs that overlap{out}"


@dataclass(eq=False)
class _Kept:
    """What is remembered of the scans that are written: a tree of some points in the world, and their spacing."""

    trees: list[cKDTree] = field(default_factory=list)
    spacings: list[float] = field(default_factory=list)

    def add(self, points: np.ndarray) -> None:
        tree = cKDTree(points)
        self.trees.append(tree)
        self.spacings.append(float(np.median(tree.query(points, 2)[0][:, 1])))

    def overlap(self, one: int, other: int) -> float:
        """The smaller of the shares of two scans that lie near the other."""
        near = _NEAR * max(self.spacings[one], self.spacings[other])
        shares = (
            np.isfinite(self.trees[b].query(self.trees[a].data, distance_upper_bound=near)[0]).mean()
            for a, b in ((one, other), (other, one))
        )
        return float(min(shares))


def shard(
    folder: str,
    output: str,
    *,
    points: int = POINTS,
    least: float = LEAST,
    drop_invalid: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Sharded:
    """Write the scans of a folder, of which at most `points` each are kept, and the pairs that overlap by `least` or more.

    folder    scans that `read_cloud` reads, and poses.json (a 4x4 matrix, world from scan, by the name of each) or
              poses.txt (TUM or KITTI, in the order of the names); a path or a URL, as `output` is
    progress  called with ("reading scans" or "measuring overlap", the share done)

    The index comes last: before it there is no set. Raises `InvalidFile`, `InvalidCloud` for points that are not finite
    unless `drop_invalid`, `InvalidTransform`, `InvalidConfig`.
    """
    if points < FEWEST or not 0 < least < 1:
        raise InvalidConfig(
            f"points are {FEWEST} or more, the least overlap is between 0 and 1; got {points} and {least}"
        )
    names = names_in(folder)
    if exists(beneath(output, INDEX)):
        raise InvalidFile(f"{output}: holds a set of shards; choose another folder, or remove that one")
    scans = scans_among(names, folder)
    found = next((name for name in POSES if name in names), None)
    if found is None:
        raise InvalidFile(f"{folder}: holds {len(scans)} scans but neither {' nor '.join(POSES)}; add their poses")
    run, kept, shards, starts, left_out = secrets.token_hex(4), _Kept(), list[str](), list[int](), list[str]()
    tell = progress or (lambda label, share: None)
    with tempfile.TemporaryDirectory(prefix="deepgmr-") as fetched:
        poses = read_poses(local_copy(beneath(folder, found), fetched), scans)
        clouds: list[np.ndarray] = []
        centred: list[np.ndarray] = []
        for number, name in enumerate(scans):
            tell("reading scans", number / len(scans))
            cloud = _read(beneath(folder, name), fetched, points, number, drop_invalid)
            if len(cloud) < FEWEST:
                left_out.append(name)
            else:
                centre = cloud.mean(0)
                pose = poses[number] @ np.block([[np.eye(3), centre[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
                clouds.append(cloud - centre)
                centred.append(pose)
                kept.add(clouds[-1][:_MEASURED] @ pose[:3, :3].T + pose[:3, 3])
            if clouds and (len(clouds) == SHARD or number == len(scans) - 1):
                starts.append(len(kept.trees) - len(clouds))
                shards.append(
                    f"{run}-{len(shards):05d}.safetensors"
                )  # of this run: what a machine has of another is not it
                write_bytes(beneath(output, shards[-1]), _packed(clouds, centred))
                clouds, centred = [], []
    pairs = _pairs(kept, least, tell)
    if not pairs:
        raise InvalidFile(
            f"{folder}: no two of {len(kept.trees)} scans overlap by {least:g}; are the poses world from scan?"
        )
    told = {"format": FORMAT, "scans": len(kept.trees), "shards": shards, "starts": starts, "pairs": pairs}
    write_bytes(beneath(output, INDEX), json.dumps(told | {"least overlap": least, "left out": left_out}).encode())
    return Sharded(len(kept.trees), len(pairs), tuple(left_out))


def _read(address: str, fetched: str, points: int, seed: int, drop_invalid: bool) -> np.ndarray:
    """At most so many points (N, 3) of a scan, in random order."""
    path = local_copy(address, fetched)
    cloud = read_cloud(path, properties=False).points
    if is_url(address):
        path.unlink()
    finite = np.isfinite(cloud).all(1)
    if not (finite.all() or drop_invalid):
        raise InvalidCloud(
            f"{address}: {int((~finite).sum())} of {len(cloud)} points are not finite; drop_invalid drops them"
        )
    return np.random.default_rng(seed).permutation(np.unique(cloud[finite], axis=0))[:points]


def _packed(clouds: list[np.ndarray], poses: list[np.ndarray]) -> bytes:
    tensors = {
        "points": torch.from_numpy(np.concatenate(clouds).astype(np.float32)),
        "ends": torch.from_numpy(np.cumsum([len(cloud) for cloud in clouds])),
        "poses": torch.from_numpy(np.array(poses)),
    }
    return save(tensors)


def _pairs(kept: _Kept, least: float, tell: Callable[[str, float], None]) -> list[tuple[int, int]]:
    """The pairs (i, j), i < j, that overlap enough, of those whose balls meet."""
    centres = np.array([tree.data.mean(0) for tree in kept.trees])
    reach = np.array(
        [np.linalg.norm(tree.data - centre, axis=1).max() for tree, centre in zip(kept.trees, centres, strict=True)]
    )
    near, found, rng = cKDTree(centres), list[tuple[int, int]](), np.random.default_rng(0)
    for one, (centre, radius) in enumerate(zip(centres, reach, strict=True)):
        tell("measuring overlap", one / len(centres))
        others = np.array([j for j in near.query_ball_point(centre, radius + reach.max()) if j > one], dtype=np.int64)
        others = others[np.linalg.norm(centres[others] - centre, axis=1) < radius + reach[others]]
        chosen = np.sort(rng.permutation(others)[:_PARTNERS])
        found += [(one, int(other)) for other in chosen if kept.overlap(one, int(other)) >= least]
    return found
