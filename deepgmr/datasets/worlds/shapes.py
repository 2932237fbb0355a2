"""Procedural shapes: primitives, unions and things that look like furniture, vehicles, vessels and tools.

`sample_shapes` draws whole batches: every family builds its share of the batch at once out of lofts, points are
sampled by area, points of one part that lie inside another are removed, and some shapes are then bent, twisted or
tapered as a whole. Two independent samplings of one surface are two disjoint halves of what is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepgmr.datasets.worlds import furniture, lofts, primitives, sections, things
from deepgmr.datasets.worlds.lofts import Solids
from deepgmr.datasets.worlds.primitives import Family
from deepgmr.datasets.worlds.sections import Draw, Floats
from deepgmr.errors import InvalidConfig

HOLLOW = 0.3  # share of unions that keep the points inside, as many CAD models do
DEFORMED = 0.35  # share of shapes that are bent, twisted or tapered as a whole
_SPARE = 1.5  # candidates drawn for each point that is returned
_CHUNK = 64  # shapes sampled at once: what stays in the cache

FAMILIES: dict[str, Family] = {
    "box": primitives.one(),
    "plate": primitives.one(low=0.03),
    "cylinder": primitives.one(sections.CIRCLE),
    "cone": primitives.one(sections.CIRCLE, top=(0, 0.5)),
    "pyramid": primitives.one(sections.SQUARE, top=(0, 0.4)),
    "prism": primitives.one(lambda n, d: sections.PROFILES[d.integer(2, len(sections.PROFILES), n)]),
    "star": primitives.one(lambda n, d: np.stack(sections.STARS)[d.integer(0, len(sections.STARS), n)]),
    "blob": primitives.one(lambda n, d: sections.blob(d, n, roughness=0.7), top=(0.3, 1)),
    "wedge": primitives.wedge,
    "ellipsoid": primitives.turned(lambda n, d: np.broadcast_to(sections.ball(), (n, sections.LEVELS, 2))),
    "superquadric": primitives.turned(lambda n, d: sections.ball(d.uniform(0.15, 2.2, n)), section=True),
    "capsule": primitives.turned(lambda n, d: sections.capsule(d.uniform(0.1, 0.9, n))),
    "revolution": primitives.turned(lambda n, d: sections.turned(d, n)),
    "torus": primitives.torus,
    "tube": primitives.turned(
        lambda n, d: sections.ring(d.uniform(0.03, 0.6, n), square=True), solid=False, section=True
    ),
    "helix": primitives.helix,
    "swept": primitives.swept,
    "pair": primitives.union(2),
    "union": primitives.union(4),
    "cluster": primitives.union(7, spread=0.7),
    "scattered": primitives.union(4, spread=1.0, square=0.0),
    "mirrored": primitives.mirrored,
    "rosette": primitives.rosette,
    "table": furniture.table,
    "chair": furniture.chair,
    "stool": furniture.stool,
    "sofa": furniture.sofa,
    "bed": furniture.bed,
    "shelf": furniture.shelf,
    "cabinet": furniture.cabinet,
    "lamp": furniture.lamp,
    "vessel": furniture.vessel,
    "airplane": things.airplane,
    "car": things.car,
    "stairs": things.stairs,
    "person": things.person,
    "instrument": things.instrument,
    "screen": things.screen,
    "board": things.board,
    "frame": things.frame,
    "tent": things.tent,
    "basin": things.basin,
    "tree": things.tree,
}
# Primitives alone are easy or symmetric, so they are drawn less often than unions and things.
_PRIMITIVES = list(FAMILIES)[:17]
_UNIONS = list(FAMILIES)[17:23]
WEIGHTS: dict[str, float] = {name: 0.4 if name in _PRIMITIVES else 2.5 if name in _UNIONS else 1.0 for name in FAMILIES}


def sample_shapes(
    count: int,
    points: int,
    *,
    generator: torch.Generator,
    families: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Points (count, points, 3) float32 on random shapes, and outward unit normals of the same size.

    Sampled uniformly by area, independently and in random order; mean-centred and scaled to the unit sphere, as
    ModelNet is. `families` restricts the draw to some keys of `FAMILIES`, all equally likely; by default they are
    drawn by `WEIGHTS`. Raises `InvalidConfig` for unknown families, sizes below 1 or a generator not on the CPU.
    """
    if count < 1 or points < 1:
        raise InvalidConfig(f"cannot draw {count} shapes of {points} points")
    if generator.device.type != "cpu":
        raise InvalidConfig(f"shapes are drawn on the CPU; got a generator on {generator.device}")
    unknown = [name for name in families or () if name not in FAMILIES]
    if unknown or (families is not None and not families):
        raise InvalidConfig(f"unknown families {unknown}; there are {', '.join(FAMILIES)}")
    draw = Draw(generator)
    names = list(families) if families is not None else list(WEIGHTS)
    weights = np.cumsum([1.0 if families is not None else WEIGHTS[name] for name in names])
    kind = np.searchsorted(weights, draw.uniform(0, 1, count).astype(np.float64) * weights[-1], side="right")
    kind = np.minimum(kind, len(names) - 1)
    assemblies = []
    for k in np.unique(kind):
        owners = np.flatnonzero(kind == k)
        assemblies.append((FAMILIES[names[k]](len(owners), draw), owners))
    solids = lofts.build(assemblies)
    cloud, normals = np.empty((2, count, points, 3), np.float32)
    for first in range(0, count, _CHUNK):
        last = min(first + _CHUNK, count)
        cloud[first:last], normals[first:last] = _sampled(solids, first, last, points, draw)
    return torch.from_numpy(cloud), torch.from_numpy(normals)


# -- sampling ------------------------------------------------------------------------------------------------------


def _sampled(solids: Solids, first: int, last: int, points: int, draw: Draw) -> tuple[Floats, Floats]:
    """Sample the shapes `first` to `last`: points and normals (last - first, points, 3)."""
    count, candidates = last - first, int(np.ceil(_SPARE * points))
    bounds = np.searchsorted(solids.triangle_owner, np.arange(first, last + 1))
    corners, ends = solids.corners[bounds[0] : bounds[-1]], bounds - bounds[0]
    faces = np.empty((len(corners), 4, 3), np.float32)  # a corner, two edges from it, the normal
    for i in range(3):
        np.take(solids.vertices, corners[:, i], axis=0, out=faces[:, i])
    faces[:, 1:3] -= faces[:, :1]
    cross = _cross(faces[:, 1], faces[:, 2])
    area = np.sqrt(np.einsum("ti,ti->t", cross, cross))  # twice
    faces[:, 3] = cross / np.maximum(area, 1e-20)[:, None]
    middles = faces[:, 0] + (faces[:, 1] + faces[:, 2]) / 3
    deformation = Deformation(middles, ends, draw)
    growth = deformation.apply(middles, faces[:, 3].copy(), ends)
    shares = np.cumsum(area * growth, dtype=np.float64)
    unit = draw.uniform(0, 1, count, candidates)
    chosen = np.empty((count, candidates), np.int64)
    for i, (start, end) in enumerate(pairwise(ends)):  # one small table at a time is faster
        low, high = shares[start - 1] if start else 0.0, shares[end - 1]
        chosen[i] = start + np.searchsorted(shares[start : end - 1], low + (high - low) * unit[i], side="right")
    triangle = chosen.reshape(-1)
    u, v = draw.uniform(0, 1, 2, count * candidates, 1)
    fold = u + v > 1
    u, v = np.where(fold, 1 - u, u), np.where(fold, 1 - v, v)
    face = faces.reshape(-1, 12).take(triangle, axis=0)
    cloud, normals = face[:, :3] + u * face[:, 3:6] + v * face[:, 6:9], face[:, 9:].copy()
    part = solids.triangle_part[bounds[0] : bounds[-1]].take(triangle).reshape(count, candidates)
    hidden = _hidden(solids, cloud.reshape(count, candidates, 3), part, first, draw)
    weight = deformation.apply(cloud, normals, np.arange(count + 1) * candidates) / growth.take(triangle)
    # The smallest -log(u) / w win: a draw without replacement in proportion to w; hidden points come last.
    race = -np.log(np.maximum(draw.uniform(0, 1, count, candidates), 1e-12)) / weight.reshape(count, -1)
    race[hidden] += 1e6
    kept = np.sort(np.argpartition(race, points - 1, axis=1)[:, :points], axis=1)
    rows = (kept + (np.arange(count) * candidates)[:, None]).reshape(-1)
    cloud = cloud.take(rows, axis=0).reshape(count, points, 3)
    normals = normals.take(rows, axis=0).reshape(count, points, 3)
    cloud -= cloud.mean(axis=1, keepdims=True)
    cloud /= np.sqrt(np.einsum("bni,bni->bn", cloud, cloud).max(axis=1))[:, None, None]
    return cloud, normals


def _hidden(solids: Solids, cloud: Floats, part: NDArray[np.int64], first: int, draw: Draw) -> NDArray[np.bool_]:
    """Which points (B, M) of the shapes from `first` on lie inside another part of their shape."""
    count = len(cloud)
    hidden = np.zeros(cloud.shape[:2], bool)
    hollow = draw.chance(HOLLOW, count)
    mine = (solids.owner >= first) & (solids.owner < first + count) & solids.solid
    mine[mine] &= ~hollow[solids.owner[mine] - first]
    which = np.flatnonzero(mine)
    which = which[np.argsort(solids.owner[which], kind="stable")]
    row = solids.owner[which] - first
    rank = np.arange(len(which)) - np.searchsorted(row, row)
    x, y, z = np.ascontiguousarray(np.moveaxis(cloud, -1, 0))
    for turn in range(int(rank.max(initial=-1)) + 1):  # the first solid of every shape, then the second, ...
        now = rank == turn
        rows, parts = row[now], which[now]
        near = ~hidden[rows] & (part[rows] != parts[:, None])
        for axis, column in enumerate((x, y, z)):  # a bounding box rejects nearly all of them
            near &= np.abs(column[rows] - solids.centre[parts, axis, None]) < solids.extent[parts, axis, None]
        solid, point = np.nonzero(near)
        hidden[rows[solid], point] = solids.inside(cloud[rows[solid], point], parts[solid])
    return hidden


def _cross(a: Floats, b: Floats) -> Floats:
    """Cross products (T, 3), several times faster than `np.cross` on rows."""
    c = np.empty_like(a)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        np.multiply(a[:, j], b[:, k], out=c[:, i])
        c[:, i] -= a[:, k] * b[:, j]
    return c


class Deformation:
    """A taper, a twist and a bend along some axis for some of the shapes of a chunk."""

    def __init__(self, middles: Floats, ends: NDArray[np.int64], draw: Draw) -> None:
        """`middles` (T, 3) of the triangles of all shapes, those of shape i from `ends[i]` to `ends[i + 1]`."""
        count = len(ends) - 1
        amounts = draw.uniform([[-0.5], [-1.5], [-0.45]], [[0.5], [1.5], [0.45]], 3, count)
        amounts *= draw.chance(0.5, 3, count) & draw.chance(DEFORMED, count)
        self.rows = np.flatnonzero((amounts != 0).any(axis=0))
        amounts[2] += 1e-3 * (np.abs(amounts[2]) < 1e-3)  # a bend of nothing divides by nothing
        self.amounts = amounts[:, self.rows]
        self.axis = draw.integer(0, 3, count)[self.rows]
        high = np.maximum.reduceat(middles, ends[:-1])[self.rows]
        low = np.minimum.reduceat(middles, ends[:-1])[self.rows]
        self.centre, self.size = (high + low) / 2, (high - low).max(axis=1) / 2

    def apply(self, points: Floats, normals: Floats, ends: NDArray[np.int64]) -> Floats:
        """Move points (T, 3) and turn unit normals (T, 3) in place; how much the area grows at each point (T,)."""
        growth = np.ones(len(points), np.float32)
        for i, row in enumerate(self.rows):
            span, order = slice(ends[row], ends[row + 1]), np.roll(np.arange(3), -self.axis[i])
            k, q, s = self.amounts[:, i]
            x, y, z = ((points[span] - self.centre[i]) / self.size[i]).T[order]
            nx, ny, nz = normals[span].T[order]
            # Normals and areas follow the cofactor of the Jacobian. Taper: x and y grow as g = 1 + k z.
            g = 1 + k * z
            nx, ny, nz = g * nx, g * ny, g * g * nz - g * k * (x * nx + y * ny)
            x, y = g * x, g * y
            # Twist about z by q z.
            c, d = np.cos(q * z), np.sin(q * z)
            nz = nz + q * (y * nx - x * ny)
            nx, ny = c * nx - d * ny, d * nx + c * ny
            x, y = c * x - d * y, d * x + c * y
            # Bend z into an arc of curvature s in the plane of x and z.
            c, d, h = np.cos(s * z), np.sin(s * z), 1 - s * x
            nx, ny, nz = h * c * nx + d * nz, h * ny, c * nz - h * d * nx
            x, z = (1 - h * c) / s, h * d / s
            size = np.maximum(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-6)
            growth[span] = size
            points[span, order[0]], points[span, order[1]], points[span, order[2]] = x, y, z
            normals[span, order[0]], normals[span, order[1]], normals[span, order[2]] = nx / size, ny / size, nz / size
        return growth
