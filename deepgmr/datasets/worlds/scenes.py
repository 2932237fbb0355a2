"""Procedural rooms, streets, tabletops and objects, seen by two sensors from two places.

Pairs overlap because two viewpoints saw the same surfaces, with occlusion, range noise, drop-out and a density that
falls with distance; nothing is cut. Everything is in metres. `overlap` is the share of source points that the target
sensor could see as well: in its field of view, in range and not occluded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from deepgmr.datasets.pairs.batch import PairBatch
from deepgmr.datasets.worlds.layouts import rooms, streets, tabletops
from deepgmr.datasets.worlds.objects import object_pairs
from deepgmr.datasets.worlds.sections import Draw
from deepgmr.datasets.worlds.sensors import Scan, ScanPair, Scene, View, determined, seen_by
from deepgmr.datasets.worlds.viewpoints import room_views, street_views, table_views
from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform, random_rotations

KINDS = ("room", "street", "tabletop", "object")

_OVERLAP = (0.2, 0.95)
_CHUNK = 64  # scenes furnished at once
_HELD = {"room": 0.03, "street": 0.01, "tabletop": 0.02}  # see `determined`
_LAYOUTS: dict[str, Callable[[int, np.random.Generator, Draw], list[Scene]]] = {
    "room": rooms,
    "street": streets,
    "tabletop": tabletops,
}
_VIEWS: dict[str, Callable[[Scene, View | None, np.random.Generator], list[View]]] = {
    "room": room_views,
    "street": street_views,
    "tabletop": table_views,
}


def scene_pairs(
    count: int,
    points: int,
    *,
    kind: str,
    generator: torch.Generator,
    overlap: tuple[float, float] = _OVERLAP,
) -> PairBatch:
    """Two scans each of `count` new scenes, `points` a scan, (count, points, 3) float32 in metres.

    The target is in the frame of its sensor, the source in a random pose. Viewpoints are drawn again until `overlap`
    lies in the given range (after twelve draws the pair is left out and another scene takes its place). Raises
    `InvalidConfig` for an unknown kind, sizes below 1 or an impossible range.
    """
    if kind not in KINDS:
        raise InvalidConfig(f"unknown kind of scene `{kind}`; there are {', '.join(KINDS)}")
    if count < 1 or points < 1 or not 0 <= overlap[0] < overlap[1] <= 1:
        raise InvalidConfig(f"cannot make {count} pairs of {points} points with overlap in {overlap}")
    if generator.device.type != "cpu":
        raise InvalidConfig(f"scenes are drawn on the CPU; got a generator on {generator.device}")
    found: list[ScanPair] = []
    while len(found) < count:
        wanted = min(count - len(found), _CHUNK)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        if kind == "object":
            found += object_pairs(wanted, points, overlap, rng, generator)
            continue
        scenes = _LAYOUTS[kind](wanted, rng, Draw(generator))
        tried = (_scanned(scene, kind, points, overlap, rng) for scene in scenes)
        found += [pair for pair in tried if pair is not None]
    return _posed(found[:count], generator)


def _posed(pairs: list[ScanPair], generator: torch.Generator) -> PairBatch:
    """Stack, and put every source in a random pose about its own centroid."""
    source = torch.from_numpy(np.stack([pair.source for pair in pairs]).astype(np.float32))
    target = torch.from_numpy(np.stack([pair.target for pair in pairs]).astype(np.float32))
    motion = RigidTransform(
        torch.from_numpy(np.stack([pair.rotation for pair in pairs]).astype(np.float32)),
        torch.from_numpy(np.stack([pair.translation for pair in pairs]).astype(np.float32)),
    )
    rotation = random_rotations((len(pairs),), generator=generator, dtype=torch.float32)
    centre = source.mean(dim=1)
    pose = RigidTransform(rotation, -(rotation @ centre.unsqueeze(-1)).squeeze(-1))
    overlap = torch.tensor([pair.overlap for pair in pairs])
    return PairBatch(pose.apply(source), target, motion @ pose.inverse(), overlap)


# -- scanning ------------------------------------------------------------------------------------------------------


def _scanned(
    scene: Scene, kind: str, points: int, overlap: tuple[float, float], rng: np.random.Generator
) -> ScanPair | None:
    """Scan from one place, then from another until enough is shared."""
    views = _VIEWS[kind](scene, None, rng)
    first = _fused(scene, views, points, rng)
    if first is None or not determined(first.normals, _HELD[kind]):
        return None
    step = max(points // 300, 1)
    for _ in range(12):
        others = _VIEWS[kind](scene, views[0], rng)
        roughly = seen_by(scene, others, first.world[::step])
        if not overlap[0] * 0.9 <= roughly.mean() <= min(overlap[1] * 1.05, 1):
            continue
        if not determined(first.normals[::step][roughly], _HELD[kind]):
            continue
        share = float(seen_by(scene, others, first.world).mean())
        second = _fused(scene, others, points, rng) if overlap[0] <= share <= overlap[1] else None
        if second is not None:
            here, there = views[0], others[0]
            rotation = there.rotation.T @ here.rotation
            translation = there.rotation.T @ (here.position - there.position)
            return ScanPair(first.points, second.points, rotation, translation, share)
    return None


def _fused(scene: Scene, views: list[View], points: int, rng: np.random.Generator) -> Scan | None:
    """One cloud of `points` from one view, or from several merged in the frame of the first.

    A single view keeps its own density. Merged views are thinned to an even density over the surface, as fused
    depth maps are. None if too little was hit.
    """
    rays = int((2.2 if views[0].spinning else 1.4) * points / len(views) ** 0.7) + 64
    scans = [view.scan(scene, rays, rng) for view in views]
    first = views[0]
    cloud = np.concatenate(
        [
            (s.points @ v.rotation.T + (v.position - first.position)) @ first.rotation
            for s, v in zip(scans, views, strict=True)
        ]
    )
    if len(cloud) < points:
        return None
    area = np.concatenate([scan.area for scan in scans])
    if len(views) == 1:
        kept = rng.permutation(len(cloud))[:points]
    else:
        race = rng.exponential(size=len(cloud)) / np.minimum(area, np.quantile(area, 0.98))
        kept = rng.permutation(np.argpartition(race, points - 1)[:points])
    world, normals = (
        np.concatenate(column)[kept] for column in zip(*((s.world, s.normals) for s in scans), strict=True)
    )
    return Scan(cloud[kept], world, normals, area[kept])
