"""Procedural rooms, streets, tabletops and objects, seen by two sensors from two places.

Pairs overlap because two viewpoints saw the same surfaces, with occlusion, range noise, drop-out and a density that
falls with distance; nothing is cut. Everything is in metres. `overlap` is the share of source points that the target
sensor could see as well: in its field of view, in range and not occluded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepgmr.datasets import lofts, shapes
from deepgmr.datasets.batch import PairBatch
from deepgmr.datasets.lofts import Assembly, Draw
from deepgmr.datasets.sensors import BALL, BOX, CYLINDER, Floats, Scan, Scene, View
from deepgmr.errors import InvalidConfig
from deepgmr.transform import RigidTransform, random_rotations

KINDS = ("room", "street", "tabletop", "object")

_OVERLAP = (0.2, 0.95)
_CHUNK = 64  # scenes furnished at once
# Least share of the surface (as an eigenvalue of its normals) that must hold the worst-held direction.
_HELD = {"room": 0.03, "street": 0.01, "tabletop": 0.02, "object": 0.01}

# Families of `shapes` that furnish, with the range of their largest side in metres and how often they come.
_FURNITURE = {
    "table": (0.8, 2.0, 3.0),
    "chair": (0.8, 1.1, 4.0),
    "stool": (0.4, 0.8, 1.0),
    "sofa": (1.2, 2.4, 1.5),
    "bed": (1.8, 2.2, 1.0),
    "shelf": (0.8, 2.2, 2.0),
    "cabinet": (0.5, 2.1, 3.0),
    "lamp": (0.4, 1.7, 1.0),
    "screen": (0.4, 1.2, 1.0),
    "board": (0.4, 1.6, 0.7),
    "stairs": (0.8, 2.0, 0.3),
    "tree": (0.4, 1.6, 0.6),
    "vessel": (0.1, 0.5, 0.5),
    "person": (1.5, 1.9, 0.3),
}
_THINGS = {
    "vessel": (0.08, 0.3, 3.0),
    "lamp": (0.2, 0.5, 0.7),
    "screen": (0.25, 0.6, 1.0),
    "board": (0.15, 0.5, 1.0),
    "car": (0.1, 0.25, 0.7),
    "instrument": (0.2, 0.6, 0.7),
    "cabinet": (0.1, 0.4, 1.0),
    "stool": (0.1, 0.3, 0.5),
    "person": (0.1, 0.3, 0.5),
    "airplane": (0.15, 0.4, 0.5),
}
_TRAFFIC = {"car": (3.8, 5.5, 4.0), "person": (1.5, 1.9, 1.0), "tree": (2.0, 6.0, 1.0), "tent": (2.5, 6.0, 0.3)}


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
    found: list[_Pair] = []
    while len(found) < count:
        wanted = min(count - len(found), _CHUNK)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        if kind == "object":
            found += _object_pairs(wanted, points, overlap, rng, generator)
            continue
        scenes = _LAYOUTS[kind](wanted, rng, Draw(generator))
        tried = (_scanned(scene, kind, points, overlap, rng) for scene in scenes)
        found += [pair for pair in tried if pair is not None]
    return _posed(found[:count], generator)


@dataclass(frozen=True, eq=False)
class _Pair:
    source: Floats  # (N, 3) in the frame of its sensor
    target: Floats  # (N, 3)
    rotation: Floats  # (3, 3) target from source
    translation: Floats  # (3,)
    overlap: float


def _posed(pairs: list[_Pair], generator: torch.Generator) -> PairBatch:
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
) -> _Pair | None:
    """Scan from one place, then from another until enough is shared."""
    views = _VIEWS[kind](scene, None, rng)
    first = _fused(scene, views, points, rng)
    if first is None or not _determined(first.normals, kind):
        return None
    step = max(points // 300, 1)
    for _ in range(12):
        others = _VIEWS[kind](scene, views[0], rng)
        roughly = _shared(scene, others, first.world[::step])
        if not overlap[0] * 0.9 <= roughly.mean() <= min(overlap[1] * 1.05, 1):
            continue
        if not _determined(first.normals[::step][roughly], kind):
            continue
        share = float(_shared(scene, others, first.world).mean())
        second = _fused(scene, others, points, rng) if overlap[0] <= share <= overlap[1] else None
        if second is not None:
            here, there = views[0], others[0]
            rotation = there.rotation.T @ here.rotation
            translation = there.rotation.T @ (here.position - there.position)
            return _Pair(first.points, second.points, rotation, translation, share)
    return None


def _determined(normals: Floats, kind: str) -> bool:
    """Whether surfaces with these normals (n, 3) hold a motion in all directions: a bare corridor does not."""
    if len(normals) < 10:
        return False
    return bool(np.linalg.eigvalsh(normals.T @ normals / len(normals))[0] > _HELD[kind])


def _shared(scene: Scene, views: list[View], world: Floats) -> NDArray[np.bool_]:
    """Which points (n, 3) of the world some view sees."""
    visible = np.zeros(len(world), bool)
    for view in views:
        rest = np.flatnonzero(~visible)
        if len(rest):
            visible[rest] = view.sees(scene, world[rest])
    return visible


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


def _looking(direction: Floats, roll: float = 0.0) -> Floats:
    """World from camera (3, 3): z along `direction`, x to the right, y down, then turned about z by `roll`."""
    z = direction / np.linalg.norm(direction)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x) + 1e-9
    c, s = np.cos(roll), np.sin(roll)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.stack([x, np.cross(z, x), z], axis=1) @ turn


def _camera(position: Floats, direction: Floats, far: float, rng: np.random.Generator, quality: float) -> View:
    wide = np.tan(np.deg2rad(rng.uniform(24, 36)))
    half = np.array([wide, wide * 0.75])
    return View(
        position=position,
        rotation=_looking(direction, rng.normal(0, 0.15)),
        spinning=False,
        low=-half,
        high=half,
        near=0.15,
        far=far,
        noise=(0.001 * quality, 0.002 * quality),
        dropout=rng.uniform(0, 0.1),
    )


def _room_views(scene: Scene, beside: View | None, rng: np.random.Generator) -> list[View]:
    """One depth image, or a short walk of several fused into a fragment."""
    low, high = scene.walls if scene.walls is not None else (np.full(3, -3.0), np.full(3, 3.0))
    quality = rng.uniform(0.3, 1.0)
    for _ in range(8):
        if beside is None:
            position = rng.uniform(low + [0.4, 0.4, 0], high - [0.4, 0.4, 0])
            position[2] = rng.uniform(0.9, 1.8)
            towards = scene.centre[rng.integers(len(scene.centre))] - position  # something to look at
            heading = np.arctan2(towards[1], towards[0]) + rng.normal(0, 0.2)
            pitch = rng.uniform(-0.6, 0.1)
        else:
            step = rng.normal(0, rng.choice([0.3, 0.9, 1.6]), 3) * [1, 1, 0.2]
            position = np.clip(beside.position + step, low + 0.3, high - 0.3)
            forward = beside.rotation[:, 2]
            heading = np.arctan2(forward[1], forward[0]) + rng.normal(0, rng.choice([0.2, 0.5, 1.0]))
            pitch = np.clip(np.arcsin(np.clip(forward[2], -1, 1)) + rng.normal(0, 0.2), -0.9, 0.4)
        direction = _heading(heading, pitch)
        ahead, _, _ = scene.cast(position, np.stack([direction, _heading(heading + 0.3, pitch)]))
        if ahead.min() > 0.7:
            break
    views = [_camera(position, direction, 6.0, rng, quality)]
    for _ in range(int(rng.choice([0, 1, 3]))):
        last = views[-1]
        turned = heading + rng.normal(0, 0.35)
        where = np.clip(last.position + rng.normal(0, 0.2, 3) * [1, 1, 0.3], low + 0.2, high - 0.2)
        views.append(_camera(where, _heading(turned, pitch + rng.normal(0, 0.1)), 6.0, rng, 0.5 * quality))
    return views


def _heading(heading: float, pitch: float) -> Floats:
    return np.array([np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), np.sin(pitch)])


def _table_views(scene: Scene, beside: View | None, rng: np.random.Generator) -> list[View]:
    """A camera held over the table, looking at somewhere near its middle."""
    around = rng.uniform(-np.pi, np.pi)
    if beside is not None:
        around = np.arctan2(beside.position[1], beside.position[0]) + rng.normal(0, rng.choice([0.3, 0.8, 1.6]))
    distance, height = rng.uniform(0.6, 1.5), rng.uniform(0.25, 1.1)
    position = np.array([distance * np.cos(around), distance * np.sin(around), height])
    views = [_camera(position, rng.normal(0, 0.08, 3) - position, 4.0, rng, rng.uniform(0.2, 1.0))]
    for _ in range(int(rng.choice([0, 0, 2]))):
        where = position + rng.normal(0, 0.12, 3)
        where[2] = max(where[2], 0.15)
        views.append(_camera(where, rng.normal(0, 0.08, 3) - where, 4.0, rng, 0.3))
    return views


def _street_views(scene: Scene, beside: View | None, rng: np.random.Generator) -> list[View]:
    """A LiDAR on a car or on a person; the second one some metres further and turned."""
    if beside is None:
        position = np.array([rng.uniform(-15, 15), rng.uniform(-2.5, 2.5), rng.uniform(1.2, 2.2)])
        heading = rng.normal(0, 0.1) + np.pi * rng.integers(2)
        low, high = np.deg2rad(rng.choice([[-24.9, 2.0], [-15, 15], [-30.7, 10.7], [-25, 15]]))
    else:
        step = rng.uniform(0.3, rng.choice([3.0, 10.0, 25.0])) * rng.choice([-1, 1])
        position = beside.position + [step, rng.normal(0, 0.5), rng.normal(0, 0.03)]
        forward = beside.rotation[:, 0]
        heading = np.arctan2(forward[1], forward[0]) + rng.normal(0, rng.choice([0.05, 0.4, 1.5]))
        low, high = beside.low[0], beside.high[0]
    tilt = rng.normal(0, 0.01, 2)
    turn = np.array([[np.cos(heading), -np.sin(heading), 0], [np.sin(heading), np.cos(heading), 0], [0, 0, 1]])
    lean = np.array([[1, 0, tilt[0]], [0, 1, tilt[1]], [-tilt[0], -tilt[1], 1]])
    u, _, v = np.linalg.svd(turn @ lean)
    return [
        View(
            position=position,
            rotation=u @ v,
            spinning=True,
            low=np.array([low, -np.pi]),
            high=np.array([high, np.pi]),
            near=1.5,
            far=rng.uniform(50, 100) if beside is None else beside.far,
            noise=(rng.uniform(0.005, 0.03), 0.0),
            dropout=rng.uniform(0, 0.15),
        )
    ]


# -- layouts -------------------------------------------------------------------------------------------------------


class _Builder:
    """Primitives of one scene, collected."""

    def __init__(self) -> None:
        self.kinds: list[NDArray[np.int8]] = []
        self.linears: list[Floats] = []
        self.centres: list[Floats] = []
        self.roughs: list[Floats] = []

    def add(self, kind: Any, linear: Floats, centre: Floats, rough: float = 0.0) -> None:
        count = len(centre)
        self.kinds.append(np.broadcast_to(np.asarray(kind, np.int8), (count,)))
        self.linears.append(np.asarray(linear, np.float32))
        self.centres.append(np.asarray(centre, np.float32))
        self.roughs.append(np.full(count, rough, np.float32))

    def boxes(self, centre: Any, half: Any, yaw: Any = 0.0, *, kind: Any = BOX, rough: float = 0.0) -> None:
        """Upright primitives: centres (n, 3), half-sizes (n, 3), turned by `yaw` (n,)."""
        centre, half = np.broadcast_arrays(np.atleast_2d(centre), np.atleast_2d(half))
        angle = np.broadcast_to(yaw, (len(centre),)).astype(np.float32)
        self.add(kind, lofts.about(2, angle) * half[:, None, :], centre, rough)

    def scene(self, walls: Floats | None = None, *, ground: bool = False) -> Scene:
        return Scene(
            kind=np.concatenate(self.kinds),
            linear=np.concatenate(self.linears),
            centre=np.concatenate(self.centres),
            rough=np.concatenate(self.roughs),
            walls=walls,
            ground=ground,
        )


@dataclass(frozen=True, eq=False)
class _Piece:
    """A thing made of primitives, standing on z = 0 at the origin, in metres."""

    kind: NDArray[np.int8]
    linear: Floats
    centre: Floats
    half: Floats  # (3,) of the box around it; it reaches from 0 to 2 * half[2]


def _pieces(
    count: int, catalogue: dict[str, tuple[float, float, float]], rng: np.random.Generator, draw: Draw
) -> list[_Piece]:
    """Random things from a catalogue: family -> (smallest, largest side in metres, weight)."""
    names = list(catalogue)
    weight = np.array([catalogue[name][2] for name in names])
    chosen = rng.choice(len(names), count, p=weight / weight.sum())
    pieces: list[_Piece | None] = [None] * count
    for k in np.unique(chosen):
        rows = np.flatnonzero(chosen == k)
        small, large, _ = catalogue[names[k]]
        size = rng.uniform(small, large, len(rows))
        for row, piece in zip(rows, _simplified(shapes.FAMILIES[names[k]](len(rows), draw), size), strict=True):
            pieces[row] = piece
    return [piece for piece in pieces if piece is not None]


def _simplified(assembly: Assembly, size: Floats) -> list[_Piece]:
    """The parts of an assembly as boxes, cylinders and ellipsoids, its largest side `size` (n,) metres."""
    rows = assembly.prisms + assembly.lofts
    square = np.abs(lofts.SQUARE - 1).sum() / 2
    kinds = [np.where(np.abs(row[3] - 1).sum(-1) > square, BOX, CYLINDER) for row in assembly.prisms]
    kinds += [np.where(row[4].any(-1), BALL, CYLINDER) for row in assembly.lofts]  # no inside: a vessel or a ring
    kind, linear = np.stack(kinds, axis=1).astype(np.int8), np.stack([row[0] for row in rows], axis=1)
    centre, exists = np.stack([row[1] for row in rows], axis=1), np.stack([row[2] for row in rows], axis=1) > 0
    pieces = []
    for i in range(assembly.count):
        there = exists[i] & (np.abs(np.linalg.det(linear[i])) > 1e-9)
        k, a, c = kind[i, there], linear[i, there], centre[i, there]
        reach = np.abs(a).sum(axis=2)
        low, high = (c - reach).min(axis=0), (c + reach).max(axis=0)
        scale = size[i] / (high - low).max()
        base = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        pieces.append(_Piece(k, a * scale, (c - base) * scale, (high - low) / 2 * scale))
    return pieces


def _place(builder: _Builder, piece: _Piece, where: Floats, yaw: float) -> None:
    turn = lofts.about(2, np.array([yaw], np.float32))[0]
    builder.add(piece.kind, turn @ piece.linear, piece.centre @ turn.T + where)


def _rooms(count: int, rng: np.random.Generator, draw: Draw) -> list[Scene]:
    each = 13
    pieces = _pieces(count * each, _FURNITURE, rng, draw)
    return [_room(pieces[i * each : (i + 1) * each], rng) for i in range(count)]


def _room(pieces: list[_Piece], rng: np.random.Generator) -> Scene:
    """Furniture along the walls and in the middle, things on it and on the walls, a pillar or a partition."""
    b = _Builder()
    size = np.array([rng.uniform(1.6, 3.8), rng.uniform(1.6, 3.8), rng.uniform(2.3, 3.2)])
    walls = np.array([[-size[0], -size[1], 0], [size[0], size[1], size[2]]])
    for piece in pieces[: rng.integers(6, len(pieces) + 1)]:
        side = rng.integers(4)
        yaw = side * np.pi / 2
        reach = piece.half[:2] if side % 2 == 0 else piece.half[1::-1]
        free = np.maximum(size[:2] - reach, 0)
        where = rng.uniform(-free, free)
        if rng.random() < 0.65:  # its back, at -x, against a wall
            axis, sign = side % 2, -1 if side < 2 else 1
            where[axis] = sign * free[axis]
        else:
            yaw += rng.normal(0, 0.5)
        _place(b, piece, np.array([*where, 0.0]), yaw)
        things = rng.integers(0, 6)  # on top of it
        if things:
            half = np.exp(rng.uniform(np.log(0.03), np.log(0.2), (things, 3)))
            spread = rng.uniform(-0.8, 0.8, (things, 2)) * np.minimum(reach, 1.0)
            top = np.full((things, 1), 2 * piece.half[2])
            centre = np.hstack([where + spread, top + half[:, 2:]])
            b.boxes(centre, half, rng.uniform(0, np.pi, things), kind=_any_kind(things, rng))
    count = rng.integers(4, 12)  # pictures, windows, doors, radiators: thin boxes on the walls
    axis, sign = rng.integers(0, 2, count), rng.choice([-1.0, 1.0], count)
    rows = np.arange(count)
    half = np.stack([rng.uniform(0.1, 0.7, count)] * 2 + [rng.uniform(0.1, 0.9, count)], axis=1)
    half[rows, axis] = rng.uniform(0.01, 0.12, count)
    centre = np.column_stack([rng.uniform(-size[:2], size[:2], (count, 2)), rng.uniform(0.5, size[2] - 0.4, count)])
    centre[rows, axis] = sign * size[axis]
    b.boxes(centre, half)
    count = rng.integers(4, 16)  # clutter on the floor
    half = np.exp(rng.uniform(np.log(0.04), np.log(0.35), (count, 3)))
    centre = np.column_stack([rng.uniform(-size[:2], size[:2], (count, 2)), half[:, 2]])
    b.boxes(centre, half, rng.uniform(0, np.pi, count), kind=_any_kind(count, rng))
    if rng.random() < 0.5:  # a partition, a pillar, a beam under the ceiling
        axis = rng.integers(2)
        half = np.array([rng.uniform(0.4, 1.4), 0.06, size[2] / 2])
        centre = np.array([*(rng.choice([-1, 1]) * (size[:2] - half[:2])), size[2] / 2])
        centre[1] = rng.uniform(-0.7, 0.7) * size[1]
        b.boxes(centre if axis else centre[[1, 0, 2]], half if axis else half[[1, 0, 2]])
    b.boxes([rng.uniform(-1, 1), 0, size[2] - 0.15], [0.06, size[1], 0.15])
    return b.scene(walls)


def _any_kind(count: Any, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.choice([BOX, BALL, CYLINDER], count, p=[0.6, 0.15, 0.25])


def _tabletops(count: int, rng: np.random.Generator, draw: Draw) -> list[Scene]:
    each = 7
    pieces = _pieces(count * each, _THINGS, rng, draw)
    return [_tabletop(pieces[i * each : (i + 1) * each], rng) for i in range(count)]


def _tabletop(pieces: list[_Piece], rng: np.random.Generator) -> Scene:
    """Things on a table whose top is z = 0, sometimes with the floor and a wall in view."""
    b = _Builder()
    half = rng.uniform([0.4, 0.3], [0.9, 0.6])
    b.boxes([0, 0, -0.02], [*half, 0.02])
    for piece in pieces[: rng.integers(2, len(pieces) + 1)]:
        spot = rng.uniform(-0.75, 0.75, 2) * half
        _place(b, piece, np.array([*spot, 0.0]), rng.uniform(-np.pi, np.pi))
    count = rng.integers(2, 10)
    size = np.exp(rng.uniform(np.log(0.015), np.log(0.12), (count, 3)))
    centre = np.column_stack([rng.uniform(-0.8, 0.8, (count, 2)) * half, size[:, 2]])
    b.boxes(centre, size, rng.uniform(0, np.pi, count), kind=_any_kind(count, rng))
    room = np.array([[-1.8, -1.8, -0.75], [1.8, 1.8, 1.8]]) * rng.uniform(0.9, 1.5)
    return b.scene(room if rng.random() < 0.6 else None)


def _streets(count: int, rng: np.random.Generator, draw: Draw) -> list[Scene]:
    each = 14
    pieces = _pieces(count * each, _TRAFFIC, rng, draw)
    return [_street(pieces[i * each : (i + 1) * each], rng) for i in range(count)]


def _street(pieces: list[_Piece], rng: np.random.Generator) -> Scene:
    """Ground, facades with bays and gaps on both sides, poles, trees, hedges, parked and standing things."""
    b = _Builder()
    curb = rng.uniform(4, 9)
    for side in (-1, 1):
        line = curb + rng.uniform(2, 10)
        x = -90.0
        while x < 90:
            long, deep, high = rng.uniform(4, 14), rng.uniform(3, 8), rng.uniform(2.5, 14)
            if rng.random() < 0.8:
                back = rng.uniform(0, 2.5)
                yaw = rng.normal(0, 0.05)
                b.boxes([x + long, side * (line + deep + back), high / 2], [long, deep, high / 2], yaw)
                bays = rng.integers(2, 7)  # doors, balconies, bay windows, chimneys of it
                centre = np.column_stack(
                    [
                        x + long + rng.uniform(-0.9, 0.9, bays) * long,
                        np.full(bays, side * (line + back)),
                        rng.uniform(0, high, bays),
                    ]
                )
                b.boxes(centre, rng.uniform([0.4, 0.1, 0.4], [2.0, 1.2, 1.6], (bays, 3)), yaw)
            x += 2 * long + rng.uniform(0, 5)
        along = np.arange(-75, 90, 15.0)
        b.boxes(np.column_stack([along, 0 * along + side * curb, 0 * along + 0.07]), [7.0, 0.15, 0.07])  # the curb
        poles = rng.integers(4, 12)
        size = np.column_stack([*[rng.uniform(0.04, 0.2, poles)] * 2, rng.uniform(1.0, 4.5, poles)])
        where = np.column_stack([rng.uniform(-80, 80, poles), side * (curb + rng.uniform(0.3, 2, poles)), size[:, 2]])
        b.boxes(where, size, kind=CYLINDER)
        b.boxes(where + [0, 0, 1] * size, rng.uniform(0.05, 0.6, (poles, 3)), rng.uniform(0, 3, poles))
        trees = rng.integers(1, 8)
        trunk = np.column_stack([*[rng.uniform(0.1, 0.35, trees)] * 2, rng.uniform(1.0, 2.5, trees)])
        where = np.column_stack([rng.uniform(-80, 80, trees), side * (curb + rng.uniform(1, 6, trees)), trunk[:, 2]])
        b.boxes(where, trunk, kind=CYLINDER)
        for _ in range(2):
            crown = rng.uniform(0.8, 2.5, (trees, 3))
            above = where + np.column_stack([rng.normal(0, 0.6, (trees, 2)), trunk[:, 2] + 0.5 * crown[:, 2]])
            b.boxes(above, crown, kind=BALL, rough=0.2)
        if rng.random() < 0.5:
            b.boxes([rng.uniform(-40, 40), side * (curb + 1.5), 0.6], [rng.uniform(5, 25), 0.3, 0.6], rough=0.05)
    for piece in pieces:
        parked = rng.random() < 0.75
        y = rng.choice([-1, 1]) * (curb - 1.3 if parked else rng.uniform(-1, 1) * curb)
        yaw = rng.normal(0, 0.05) if parked else rng.uniform(-np.pi, np.pi)
        _place(b, piece, np.array([rng.uniform(-60, 60), y, 0.0]), yaw)
    return b.scene(ground=True)


_LAYOUTS: dict[str, Callable[[int, np.random.Generator, Draw], list[Scene]]] = {
    "room": _rooms,
    "street": _streets,
    "tabletop": _tabletops,
}
_VIEWS: dict[str, Callable[[Scene, View | None, np.random.Generator], list[View]]] = {
    "room": _room_views,
    "street": _street_views,
    "tabletop": _table_views,
}


# -- objects -------------------------------------------------------------------------------------------------------


def _object_pairs(
    count: int, points: int, overlap: tuple[float, float], rng: np.random.Generator, generator: torch.Generator
) -> list[_Pair]:
    """Range scans of procedural shapes from two directions, half a centimetre to a few metres large.

    Each view keeps the densely sampled points that face it and that no other point hides; the two scans draw from
    disjoint halves of the samples, so that no point is in both.
    """
    dense = 7 * points
    cloud_, normals_ = shapes.sample_shapes(count, dense, generator=generator)
    cloud, normals = cloud_.numpy(), normals_.numpy()
    pairs = []
    for i in range(count):
        first = _unit(rng)
        shown = _facing(cloud[i], normals[i], first, rng)
        for _ in range(6):
            angle = rng.uniform(0.15, 2.0)
            second = np.cos(angle) * first + np.sin(angle) * _perpendicular(first, rng)
            seen = _facing(cloud[i], normals[i], second, rng)
            share = float((shown & seen).sum() / max(shown.sum(), 1))
            if overlap[0] <= share <= overlap[1] and _determined(normals[i][shown & seen], "object"):
                break
        else:
            continue
        half = rng.random(dense) < 0.5
        source, target = np.flatnonzero(shown & half), np.flatnonzero(seen & ~half)
        if min(len(source), len(target)) < points:
            continue
        scale, sigma = np.exp(rng.uniform(np.log(0.03), np.log(1.5))), rng.choice([0, 0.001, 0.003, 0.01])
        rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        rotation *= np.sign(np.linalg.det(rotation))
        translation = rng.uniform(-0.5, 0.5, 3) * scale
        scans = []
        for rows, view in ((source, first), (target, second)):
            rows = rng.choice(rows, points, replace=False)
            jitter = rng.normal(0, sigma, (points, 1)) * view + rng.normal(0, 0.2 * sigma, (points, 3))
            scans.append((cloud[i, rows] + jitter) * scale)
        pairs.append(_Pair(scans[0], scans[1] @ rotation.T + translation, rotation, translation, share))
    return pairs


def _facing(cloud: Floats, normals: Floats, view: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which points (n,) a distant scanner in direction `view` sees: turned towards it and first in their pixel."""
    right = _perpendicular(view, rng)
    axes = np.stack([right, np.cross(view, right), view], axis=1).astype(np.float32)
    x, y, height = (cloud @ axes).T
    slant = normals @ view.astype(np.float32)
    pixels = int(np.clip((len(cloud) / 6) ** 0.5, 8, 512))  # a few samples of the front surface in each
    column = ((x + 1) * (pixels / 2)).astype(np.int64).clip(0, pixels - 1)
    row = ((y + 1) * (pixels / 2)).astype(np.int64).clip(0, pixels - 1)
    cell = row * pixels + column
    top = np.full(pixels * pixels, -np.inf, np.float32)
    np.maximum.at(top, cell, height)
    # Inside one pixel a slanted surface falls by its slope; more than that below the top is behind something.
    fall = (3.0 / pixels) * np.sqrt(np.maximum(1 - slant**2, 0)) / np.maximum(slant, 0.05) + 0.02
    return (slant > rng.uniform(0.05, 0.2)) & (height > top[cell] - fall)


def _unit(rng: np.random.Generator) -> Floats:
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def _perpendicular(axis: Floats, rng: np.random.Generator) -> Floats:
    vector = np.cross(axis, _unit(rng))
    return vector / np.linalg.norm(vector)
