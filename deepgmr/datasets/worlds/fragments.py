"""Fragments of rooms, fused from depth frames along a path: with holes, smears at edges, and bent by centimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepgmr.datasets.worlds.layouts import rooms
from deepgmr.datasets.worlds.planned import Planned, any_pose, inverse
from deepgmr.datasets.worlds.sections import Draw, Floats, about
from deepgmr.datasets.worlds.sensors import Scan, Scene, View, determined, seen_by
from deepgmr.datasets.worlds.viewpoints import looking
from deepgmr.errors import InvalidConfig

FAR = 4.5  # metres of range
_FEW = 300  # pixels of a frame that is only looked at
_EVEN = 0.7  # share of the pixels of the frames that are thinned
_EDGE = 0.08  # neighbouring ranges that differ by more than this share of them are an edge
_SMEARED = 0.3  # share of the pixels at edges that measure something between
_UNSEEN = 0.05  # share of things that return nothing: black, or glass
_DRIFT = (0.015, 0.006)  # metres, radians: standard deviations, over a fragment, of where its frames are taken to be
_HELD = 0.03  # see `determined`


@dataclass(frozen=True, eq=False)
class Walk:
    """A camera's way through a room: where its frames are, and where whoever fuses them takes them to be."""

    views: tuple[View, ...]
    drift: Floats  # (F, 4, 4) taken from true, in the world

    @property
    def frame(self) -> Floats:
        """(4, 4) world from fragment: the pose of the frame in the middle."""
        middle, pose = self.views[len(self.views) // 2], np.eye(4)
        pose[:3, :3], pose[:3, 3] = middle.rotation, middle.position
        return pose


def fragment_pair(rng: np.random.Generator, *, low: float = 0.1, high: float = 0.8, frames: float = 24) -> Planned:
    """Two fragments of a room, each fused from so many frames; `low` to `high` of the source is in the target too.

    Right within 5 degrees and .3 m. Raises `InvalidConfig` for an impossible range or no frames.
    """
    if not 0 < low < high < 1 or frames < 1:
        raise InvalidConfig(f"cannot fuse {frames:g} frames to an overlap between {low:g} and {high:g}")
    for _ in range(30):
        draw = Draw(torch.Generator().manual_seed(int(rng.integers(2**62))))
        scene = rooms(1, rng, draw)[0]
        first = walk(scene, round(frames), rng, None)
        seen = [view.scan(scene, _FEW // 2, rng) for view in first.views[::3]]
        world, normals = (np.concatenate([getattr(scan, key) for scan in seen]) for key in ("world", "normals"))
        for _ in range(12):
            second = walk(scene, round(frames), rng, first)
            shared = seen_by(scene, list(second.views[::3]), world)
            if low <= shared.mean() <= high and determined(normals[shared], _HELD):
                return _planned(scene, first, second, float(shared.mean()), rng)
    raise InvalidConfig(f"found no two fragments with an overlap between {low:g} and {high:g}")


def _planned(scene: Scene, first: Walk, second: Walk, overlap: float, rng: np.random.Generator) -> Planned:
    pose, seed = any_pose(rng, 5.0), int(rng.integers(2**62))
    hidden = rng.random(len(scene.kind)) < _UNSEEN

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        source = fused(scene, first, points, again, hidden) @ pose[:3, :3].T + pose[:3, 3]
        return source.astype(np.float32), fused(scene, second, points, again, hidden)

    truth = inverse(second.frame) @ first.frame @ inverse(pose)
    return Planned(truth, clouds, degrees=5.0, metres=0.3, overlap=overlap)


def walk(scene: Scene, frames: int, rng: np.random.Generator, beside: Walk | None) -> Walk:
    """A smooth way of some metres through a room, turning by up to a right angle or so; perhaps beside another."""
    low, high = (np.array([-3.0, -3, 0]), np.array([3.0, 3, 3])) if scene.walls is None else scene.walls
    time = np.linspace(0, 1, frames)
    for _ in range(8):
        start, towards = rng.uniform(low + 0.5, high - 0.5), rng.uniform(-np.pi, np.pi)
        if beside is not None:
            last = beside.views[rng.integers(len(beside.views))]
            start = last.position + rng.normal(0, rng.choice([0.4, 1.2]), 3)
            towards = np.arctan2(last.rotation[1, 2], last.rotation[0, 2]) + rng.normal(0, rng.choice([0.4, 1.0, 1.8]))
        start[2] = rng.uniform(1.0, 1.7)
        way = start + time[:, None] * rng.normal(0, 1.0, 3) * [1, 1, 0.15] + 0.15 * _wander(time, 3, rng) * [1, 1, 0.5]
        way = np.clip(way, low + 0.3, high - 0.3)
        heading = towards + rng.normal(0, 0.8) * time + 0.2 * _wander(time, 1, rng)[:, 0]
        pitch = np.clip(rng.uniform(-0.5, 0.0) + 0.2 * _wander(time, 1, rng)[:, 0], -1.0, 0.4)
        ahead = np.column_stack([np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), np.sin(pitch)])
        clear = [scene.cast(way[i], ahead[i : i + 1])[0][0] > 0.6 for i in {0, frames // 2, frames - 1}]
        if all(clear):
            break
    wide = np.tan(np.deg2rad(rng.uniform(27, 32)))
    half, quality = np.array([wide, 0.75 * wide]), rng.uniform(0.3, 1.0)
    views = tuple(
        View(
            position=way[i],
            rotation=looking(ahead[i], roll),
            spinning=False,
            low=-half,
            high=half,
            near=0.4,
            far=FAR,
            noise=(0.001 * quality, 0.002 * quality),
            dropout=rng.uniform(0, 0.1),
        )
        for i, roll in enumerate(0.1 * _wander(time, 1, rng)[:, 0])
    )
    shift, turn = (size * _wander(time, 3, rng) for size in _DRIFT)
    drift = np.tile(np.eye(4), (frames, 1, 1))
    drift[:, :3, :3] = about(2, turn[:, 2]) @ about(1, turn[:, 1]) @ about(0, turn[:, 0])
    # Each frame is turned about where it stands.
    drift[:, :3, 3] = way + shift - np.einsum("fij,fj->fi", drift[:, :3, :3], way)
    return Walk(views, drift)


def fused(scene: Scene, way: Walk, points: int, rng: np.random.Generator, hidden: NDArray[np.bool_]) -> Floats:
    """A fragment (points, 3) float32 in the frame of its middle view, nearly evenly dense.

    Things that are `hidden` (P,) return nothing.
    """
    areas = np.concatenate([_depth(scene, view, _FEW, rng, hidden).area for view in way.views])
    full = float(np.quantile(areas, _EVEN))  # what stands for more is all kept, what stands for less in proportion
    share = np.minimum(areas / full, 1).sum() / (_FEW * len(way.views))
    back, rays, clouds, have = inverse(way.frame), round(1.1 * points / (share * len(way.views))) + 32, [], 0
    while have < points:
        for view, drift in zip(way.views, way.drift, strict=True):
            scan = _depth(scene, view, rays, rng, hidden)
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = view.rotation, view.position
            pose = back @ drift @ pose
            kept = scan.points[rng.random(len(scan.area)) * full < scan.area]
            clouds.append((kept @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32))
            have += len(kept)
        rays = rays // 4 + 32
    return np.concatenate(clouds)[rng.permutation(have)[:points]]


def _depth(scene: Scene, view: View, count: int, rng: np.random.Generator, hidden: NDArray[np.bool_]) -> Scan:
    """A depth frame of about `count` pixels, smeared where neighbours in the picture are far apart."""
    rays = view.rays(count, rng)
    outward = (rays @ view.rotation.T).astype(np.float32)
    distance, normal, part = scene.cast(view.position, outward)
    cosine = np.abs(np.einsum("ni,ni->n", normal, outward))
    columns = int(np.argmax(np.diff(rays[:, 0] / rays[:, 2]) < 0)) + 1  # a row of the picture ends where x falls back
    beside = np.roll(distance, rng.choice([-1, 1, -columns, columns]))
    edge = np.abs(beside - distance) > _EDGE * distance
    smeared = edge & np.isfinite(beside) & (rng.random(len(rays)) < _SMEARED)
    measured = np.where(smeared, distance + rng.random(len(rays)) * (beside - distance), distance)
    kept = (distance > view.near) & (measured < view.far) & (cosine > 0.08) & (rng.random(len(rays)) > view.dropout)
    kept &= ~np.append(hidden, False)[part]  # the last entry is for walls, part -1
    rays, distance, measured = rays[kept], distance[kept], measured[kept]
    sigma = np.hypot(view.noise[0] + view.noise[1] * measured**2, np.append(scene.rough, 0.0)[part[kept]])
    noisy = measured + sigma * rng.standard_normal(len(rays))
    world = view.position + distance[:, None] * outward[kept]
    return Scan(rays * noisy[:, None], world, normal[kept], distance**2 / cosine[kept])


def _wander(time: Floats, columns: int, rng: np.random.Generator) -> Floats:
    """Smooth curves (F, columns) around zero over time in [0, 1], of variance about one."""
    phase, speed = rng.uniform(0, 2 * np.pi, (2, columns)), rng.uniform(0.5, 1.5, (2, columns))
    waves = np.sin(2 * np.pi * speed[0] * time[:, None] + phase[0]) + 0.5 * np.sin(
        4 * np.pi * speed[1] * time[:, None] + phase[1]
    )
    return 1.26 * (waves - waves.mean(axis=0))
