"""Procedural shapes: primitives, unions and things that look like furniture, vehicles, vessels and tools.

`sample_shapes` draws whole batches: every family builds its share of the batch at once out of lofts, points are
sampled by area, points of one part that lie inside another are removed, and some shapes are then bent, twisted or
tapered as a whole. Two independent samplings of one surface are two disjoint halves of what is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepgmr.datasets import lofts
from deepgmr.datasets.lofts import CIRCLE, SQUARE, Assembly, Draw, Floats, Solids, about
from deepgmr.errors import InvalidConfig

Family = Callable[[int, Draw], Assembly]

_HOLLOW = 0.3  # share of unions that keep the points inside, as many CAD models do
_DEFORMED = 0.35  # share of shapes that are bent, twisted or tapered as a whole
_SPARE = 1.5  # candidates drawn for each point that is returned
_CHUNK = 64  # shapes sampled at once: what stays in the cache


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
    deformation = _Deformation(middles, ends, draw)
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
    hollow = draw.chance(_HOLLOW, count)
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


class _Deformation:
    """A taper, a twist and a bend along some axis for some of the shapes of a chunk."""

    def __init__(self, middles: Floats, ends: NDArray[np.int64], draw: Draw) -> None:
        """`middles` (T, 3) of the triangles of all shapes, those of shape i from `ends[i]` to `ends[i + 1]`."""
        count = len(ends) - 1
        amounts = draw.uniform([[-0.5], [-1.5], [-0.45]], [[0.5], [1.5], [0.45]], 3, count)
        amounts *= draw.chance(0.5, 3, count) & draw.chance(_DEFORMED, count)
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


# -- primitives ----------------------------------------------------------------------------------------------------


def _sizes(d: Draw, n: int, low: float = 0.25) -> Floats:
    """Random half-sizes (n, 3), each axis log-uniform between `low` and 1."""
    return np.exp(d.uniform(np.log(low), 0, n, 3))


def _one(
    section: Callable[[int, Draw], Floats] | Floats = SQUARE, low: float = 0.25, top: tuple[float, float] = (1, 1)
) -> Family:
    """A family of single prisms."""

    def family(n: int, d: Draw) -> Assembly:
        a = Assembly(n)
        rho = section(n, d) if callable(section) else section
        a.prism(np.zeros(3), _sizes(d, n, low), section=rho, top=d.uniform(*top, n, 1).repeat(2, 1))
        return a

    return family


def _turned(profile: Callable[[int, Draw], Floats], *, solid: bool = True, section: bool = False) -> Family:
    """A family of single lofts, round or (with `section`) carried around a random section."""

    def family(n: int, d: Draw) -> Assembly:
        a = Assembly(n)
        rho = _any_section(n, d) if section else CIRCLE
        a.loft(profile(n, d), np.zeros(3), _sizes(d, n), section=rho, solid=solid)
        return a

    return family


def _any_section(n: int, d: Draw) -> Floats:
    """Sections (n, 24) of every kind: fixed ones, superellipses, blobs."""
    fixed = lofts.PROFILES[d.integer(0, len(lofts.PROFILES), n)]
    smooth = np.where(d.chance(0.5, n, 1), lofts.superellipse(d.uniform(0.8, 6, n)), lofts.blob(d, n))
    return np.where(d.chance(0.6, n, 1), fixed, smooth)


def _wedge(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    top = np.stack([d.uniform(0, 0.4, n), d.uniform(0.3, 1, n)], axis=1)
    a.prism(np.zeros(3), _sizes(d, n), top=top, shift=d.uniform(-0.7, 0.7, n, 2))
    return a


def _torus(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    thick = d.uniform(0.1, 0.9, n)
    half = _sizes(d, n, 0.6) * np.stack([np.ones(n), np.ones(n), thick / 2], axis=1)
    a.loft(
        lofts.ring(thick),
        np.zeros(3),
        half,
        section=np.where(d.chance(0.6, n, 1), CIRCLE, _any_section(n, d)),
        solid=False,
    )
    return a


def _helix(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    turns, wire, pitch = d.uniform(1, 2.5, n, 1), d.uniform(0.05, 0.16, n), d.uniform(0.3, 0.9, n, 1)
    for piece in range(3):  # chained, because one loft has too few levels for three turns
        s = (np.linspace(0, 1, lofts.LEVELS - 2)[None] + piece) / 3
        angle = 2 * np.pi * turns * s
        spine = np.stack([np.cos(angle), np.sin(angle), pitch * turns * (2 * s - 1)], axis=-1)
        a.sweep(spine.astype(np.float32), wire)
    return a


def _swept(n: int, d: Draw) -> Assembly:
    """A tube along a smooth random curve, perhaps tapering."""
    a = Assembly(n)
    s = np.linspace(-1, 1, lofts.LEVELS - 2, dtype=np.float32)[None, :, None]
    spine = s * d.normal(n, 1, 3)
    for order in (1, 2, 3):
        spine = spine + d.normal(n, 1, 3) * 0.6 / order * np.sin(order * 1.5 * s + d.uniform(0, 6, n, 1, 3))
    size = d.uniform(0.08, 0.3, n, 1) * (1 + d.uniform(-0.6, 0.6, n, 1) * s[..., 0])
    a.sweep(spine.astype(np.float32), size, section=_any_section(n, d))
    return a


# -- unions --------------------------------------------------------------------------------------------------------


def _part(a: Assembly, d: Draw, centre: Floats, half: Floats, rotation: Floats | None) -> None:
    """One random primitive in every shape; which kind is drawn shape by shape."""
    n = a.count
    kind = d.uniform(0, 1, n)
    top = np.where(d.chance(0.6, n, 1), 1.0, d.uniform(0, 1, n, 2))
    a.prism(centre, half, section=_any_section(n, d), top=top, rotation=rotation, present=kind < 0.6)
    profile = np.where(
        d.chance(0.5, n, 1, 1), lofts.ball(np.where(d.chance(0.6, n), 1, d.uniform(0.2, 2, n))), lofts.turned(d, n)
    )
    present = (kind >= 0.6) & (kind < 0.85)
    a.loft(profile, centre, half, section=_any_section(n, d), rotation=rotation, present=present)
    loop = np.where(
        d.chance(0.5, n, 1, 1),
        lofts.ring(d.uniform(0.15, 0.7, n)),
        lofts.ring(d.uniform(0.05, 0.4, n), square=True),
    )
    a.loft(loop, centre, half, section=_any_section(n, d), rotation=rotation, present=kind >= 0.85, solid=False)


def _aligned(n: int, d: Draw, share: float) -> Floats:
    """Rotations (n, 3, 3): quarter turns for `share` of the rows, anything for the others."""
    quarter = np.stack([np.eye(3), [[0, 0, 1], [1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]])
    chosen = quarter[d.integer(0, 3, n)].astype(np.float32)
    return np.where(d.chance(share, n, 1, 1), chosen, d.rotations(n))


def _union(parts: int, *, spread: float = 0.5, aligned: float = 0.5) -> Family:
    def family(n: int, d: Draw) -> Assembly:
        a = Assembly(n)
        for i in range(parts):
            size = _sizes(d, n, 0.15) * (1.0 if i == 0 else 0.6)
            centre = d.uniform(-spread, spread, n, 3) * (i > 0)
            _part(a, d, centre, size, _aligned(n, d, aligned))
        return a

    return family


def _mirrored(n: int, d: Draw) -> Assembly:
    """A body with pairs of parts on both sides of a plane."""
    a = Assembly(n)
    body = _sizes(d, n, 0.2)
    _part(a, d, np.zeros((n, 3), np.float32), body, None)
    for _ in range(3):
        half = _sizes(d, n, 0.1) * 0.45
        centre = d.uniform(-1, 1, n, 3) * body
        angle = d.uniform(-0.7, 0.7, n)
        section, top = _any_section(n, d), d.uniform(0.2, 1, n, 2)
        axis = d.integer(0, 2, n)
        for side in (1.0, -1.0):
            where = centre * np.array([1, side, 1], np.float32)
            where[:, 1] += side * 0.3 * body[:, 1]
            tilt = np.where((axis == 0)[:, None, None], about(0, side * angle), about(2, side * angle))
            mirror = section if side > 0 else section[:, (-np.arange(lofts.ANGLES)) % lofts.ANGLES]
            a.prism(where, half, section=mirror, top=top, rotation=tilt)
    return a


def _rosette(n: int, d: Draw) -> Assembly:
    """Copies of a part around an axis: wheels, fans, flowers, gears."""
    a = Assembly(n)
    copies = d.integer(3, 9, n)
    hub = d.uniform(0.1, 0.5, n)
    a.prism(np.zeros(3), np.stack([hub, hub, d.uniform(0.05, 0.6, n)], 1), section=_any_section(n, d))
    half = np.stack([d.uniform(0.2, 0.6, n), d.uniform(0.04, 0.2, n), d.uniform(0.03, 0.3, n)], axis=1)
    section, pitch = _any_section(n, d), np.where(d.chance(0.5, n), 0, d.uniform(-0.8, 0.8, n))
    for i in range(8):
        angle = 2 * np.pi * i / copies
        reach = hub + 0.8 * half[:, 0]
        centre = np.stack([reach * np.cos(angle), reach * np.sin(angle), 0 * angle], axis=1)
        a.prism(centre, half, section=section, rotation=about(2, angle) @ about(0, pitch), present=i < copies)
    rim = d.chance(0.5, n)
    wide = (hub + 1.6 * half[:, 0])[:, None] * np.ones(3, np.float32)
    wide[:, 2] = half[:, 2]
    a.loft(lofts.ring(d.uniform(0.08, 0.2, n), square=True), np.zeros(3), wide, present=rim, solid=False)
    return a


# -- things --------------------------------------------------------------------------------------------------------


def _xyz(*columns: Floats | float) -> Floats:
    """(n, 3) from three columns."""
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float32)


def _legs(a: Assembly, d: Draw, x: Floats, y: Floats, height: Floats, floor: Floats, **more: NDArray[np.bool_]) -> None:
    """Four legs of one kind from `floor` up by 2 * `height`, perhaps thinner or splayed at the foot."""
    n = a.count
    thick, slender = d.uniform(0.02, 0.09, n), d.uniform(0.5, 1.0, n)
    section = np.where(d.chance(0.5, n, 1), SQUARE, CIRCLE)
    splay = np.where(d.chance(0.6, n), 0, d.uniform(0, 2.5, n))
    for sx, sy in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        centre = _xyz(sx * (x - thick), sy * (y - thick), floor + height)
        # Built upside down, so that `top` and `shift` act on the foot.
        half, flip = _xyz(thick, thick, height), np.diag([1, -1, -1]).astype(np.float32)
        shift = np.stack([sx * splay, -sy * splay], axis=1)
        a.prism(centre, half, section=section, top=slender[:, None], shift=shift, rotation=flip[None], **more)


def _table(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.4, 1, n), d.uniform(0.3, 0.8, n), d.uniform(0.2, 0.6, n)
    thick = d.uniform(0.015, 0.08, n)
    round_top = d.chance(0.25, n, 1)
    a.prism(_xyz(0 * h, 0 * h, 2 * h + thick), _xyz(x, y, thick), section=np.where(round_top, CIRCLE, SQUARE))
    post = d.chance(0.25, n)
    inset = np.where(round_top[:, 0], 0.68, 1.0) * d.uniform(0.8, 1, n)
    _legs(a, d, x * inset, y * inset, h, 0 * h, present=~post)
    r = d.uniform(0.04, 0.15, n)
    a.prism(_xyz(0 * h, 0 * h, h), _xyz(r, r, h), section=CIRCLE, present=post)
    foot = d.uniform(0.4, 0.7, n)
    foot_size = _xyz(foot * x, foot * y, 0.03 + 0 * h)
    a.prism(_xyz(0 * h, 0 * h, 0 * h), foot_size, section=_any_section(n, d), present=post)
    shelf = d.chance(0.3, n) & ~post
    a.prism(_xyz(0 * h, 0 * h, d.uniform(0.3, 1.2, n) * h), _xyz(0.9 * x, 0.9 * y, 0.7 * thick), present=shelf)
    drawer = d.chance(0.4, n) & ~post
    side = np.where(d.chance(0.5, n), 1, -1) * 0.6 * x
    a.prism(_xyz(side, 0 * h, 1.5 * h), _xyz(0.35 * x, 0.9 * y, 0.5 * h), present=drawer)
    return a


def _chair(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.3, 0.5, n), d.uniform(0.3, 0.5, n), d.uniform(0.2, 0.4, n)
    thick, back = d.uniform(0.02, 0.12, n), d.uniform(0.25, 0.7, n)
    seat = 2 * h + thick
    zero = 0 * h
    a.prism(_xyz(zero, zero, seat), _xyz(x, y, thick), section=lofts.superellipse(d.uniform(2, 12, n)))
    swivel = d.chance(0.2, n)
    _legs(a, d, x, y, h, zero, present=~swivel)
    a.prism(_xyz(zero, zero, h), _xyz(0.06 + zero, 0.06 + zero, h), section=CIRCLE, present=swivel)
    for i in range(5):
        spin = about(2, np.full(n, 2 * np.pi * i / 5, np.float32))
        where = 0.2 * spin[:, :, 0] + np.array([0, 0, 0.03], np.float32)
        a.prism(where, np.array([0.2, 0.03, 0.03]), rotation=spin, present=swivel)
    lean = about(1, d.uniform(-0.3, 0.0, n))
    slats = d.chance(0.4, n)
    behind = np.stack([-x + 0.04, zero, seat], axis=1)
    rise = lean @ np.stack([zero, zero, back], axis=1)[..., None]
    half = _xyz(d.uniform(0.02, 0.07, n), y, back)
    a.prism(behind + rise[..., 0], half, top=d.uniform(0.6, 1, n, 1) * [1, 1], rotation=lean, present=~slats)
    for i in range(4):
        share = (i - 1.5) / 1.6
        where = behind + (lean @ np.stack([zero, share * y, back], axis=1)[..., None])[..., 0]
        a.prism(where, _xyz(0.02 + zero, 0.05 + zero, back), rotation=lean, present=slats)
    rail = behind + (lean @ np.stack([zero, zero, 1.9 * back], axis=1)[..., None])[..., 0]
    a.prism(rail, _xyz(0.03 + zero, y, 0.1 * back), rotation=lean, present=slats)
    arms = d.chance(0.45, n)
    for side in (1, -1):
        a.prism(_xyz(0 * x, side * y, seat + 0.3), _xyz(x, 0.04 + zero, 0.03 + zero), present=arms)
        a.prism(_xyz(0.8 * x, side * y, seat + 0.15), _xyz(0.03 + zero, 0.03 + zero, 0.15 + zero), present=arms)
    return a


def _stool(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    r, h, thick = d.uniform(0.25, 0.5, n), d.uniform(0.3, 0.7, n), d.uniform(0.02, 0.1, n)
    zero = 0 * h
    a.prism(_xyz(zero, zero, 2 * h + thick), _xyz(r, r, thick), section=_any_section(n, d))
    _legs(a, d, 0.65 * r, 0.65 * r, h, zero)
    hoop = _xyz(0.7 * r, 0.7 * r, 0.03 + zero)
    a.loft(lofts.ring(d.uniform(0.1, 0.2, n)), _xyz(zero, zero, 0.7 * h), hoop, present=d.chance(0.5, n), solid=False)
    return a


def _sofa(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.3, 0.5, n), d.uniform(0.4, 1, n), d.uniform(0.12, 0.25, n)
    zero, arm, back = 0 * h, d.uniform(0.05, 0.14, n), d.uniform(0.2, 0.5, n)
    soft = lofts.superellipse(d.uniform(4, 12, n))
    a.prism(_xyz(zero, zero, h), _xyz(x, y, h), section=SQUARE)
    a.prism(
        _xyz(-x + arm, zero, 2 * h + back), _xyz(arm, y, back), section=soft, rotation=about(1, d.uniform(-0.2, 0, n))
    )
    high = h + d.uniform(0.02, 0.3, n)
    for side in (1, -1):
        a.prism(_xyz(zero, side * (y + arm), high), _xyz(x, arm, high), section=SQUARE)
    cushions = d.integer(1, 4, n)
    for i in range(3):
        wide = y / cushions
        where = _xyz(arm, -y + wide * (2 * i + 1), 2 * h + 0.05)
        a.prism(where, _xyz(x - arm, 0.94 * wide, 0.06 + zero), section=soft, present=i < cushions)
    return a


def _bed(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.7, 1, n), d.uniform(0.35, 0.8, n), d.uniform(0.06, 0.18, n)
    zero, legs = 0 * h, d.uniform(0.02, 0.15, n)
    a.prism(_xyz(zero, zero, 2 * legs + h), _xyz(x, y, h))
    a.prism(_xyz(0.02 + zero, zero, 2 * (legs + h) + 0.05), _xyz(0.96 * x, 0.96 * y, 0.06 + zero))
    head, foot = d.uniform(0.15, 0.5, n), d.uniform(0.1, 0.3, n)
    a.prism(_xyz(-x, zero, head), _xyz(0.03 + zero, y, head), top=d.uniform(0.7, 1, n, 1) * [1, 1])
    a.prism(_xyz(x, zero, foot), _xyz(0.03 + zero, y, foot), present=d.chance(0.6, n))
    _legs(a, d, x, y, legs, zero)
    for side in (-0.5, 0.5):
        where = _xyz(-0.75 * x, side * y, 2 * (legs + h) + 0.14)
        a.loft(lofts.ball(0.5), where, _xyz(0.15 + zero, 0.38 * y, 0.05 + zero), section=SQUARE)
    return a


def _shelf(n: int, d: Draw) -> Assembly:
    """Boards in a frame: bookshelves, racks, desks seen from behind, xboxes of boards."""
    a = Assembly(n)
    x, y, z = d.uniform(0.1, 0.35, n), d.uniform(0.25, 0.8, n), d.uniform(0.4, 1, n)
    zero, thick = 0 * x, d.uniform(0.01, 0.04, n)
    for side in (1, -1):
        a.prism(_xyz(zero, side * y, zero), _xyz(x, thick, z))
    boards = d.integer(2, 8, n)
    for i in range(7):
        level = -z + 2 * z * i / (boards - 1)
        a.prism(_xyz(zero, zero, level), _xyz(x, y, thick), present=i < boards)
    a.prism(_xyz(-x, zero, zero), _xyz(0.5 * thick, y, z), present=d.chance(0.6, n))
    middle = d.uniform(-0.5, 0.5, n) * y
    a.prism(_xyz(zero, middle, zero), _xyz(x, thick, z), present=d.chance(0.4, n))
    for _ in range(4):  # things on it
        where = np.stack([zero, d.uniform(-0.9, 0.9, n) * y, d.uniform(-0.9, 0.9, n) * z], axis=1)
        a.prism(where, d.uniform(0.02, 0.12, n, 3), section=_any_section(n, d), present=d.chance(0.4, n))
    return a


def _cabinet(n: int, d: Draw) -> Assembly:
    """A box with doors or drawers, handles, a top and feet."""
    a = Assembly(n)
    x, y, z = d.uniform(0.2, 0.5, n), d.uniform(0.25, 0.8, n), d.uniform(0.25, 1, n)
    zero = 0 * x
    a.prism(_xyz(zero, zero, zero), _xyz(x, y, z))
    over = d.uniform(1, 1.15, n)
    a.prism(_xyz(zero, zero, z), _xyz(over * x, over * y, 0.03 + zero), present=d.chance(0.5, n))
    columns, rows = d.integer(1, 4, n), d.integer(1, 4, n)
    knob = d.chance(0.5, n)
    for i in range(3):
        for j in range(3):
            there = (i < columns) & (j < rows)
            wide, high = y / columns, z / rows
            where = _xyz(x, -y + wide * (2 * i + 1), -z + high * (2 * j + 1))
            a.prism(where, _xyz(0.025 + zero, 0.88 * wide, 0.88 * high), present=there)
            handle = where + _xyz(0.045 + zero, zero, 0.4 * high)
            a.prism(handle, _xyz(0.02 + zero, np.where(knob, 0.02, 0.4 * wide), 0.02 + zero), present=there)
    feet = d.uniform(0.02, 0.12, n)
    _legs(a, d, x, y, feet, -z - 2 * feet, present=d.chance(0.5, n))
    return a


def _lamp(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    h, r, wide = d.uniform(0.3, 0.9, n), d.uniform(0.1, 0.35, n), d.uniform(0.15, 0.5, n)
    zero, stem = 0 * h, d.uniform(0.015, 0.05, n)
    a.prism(
        _xyz(zero, zero, 0.03 + zero), _xyz(r, r, 0.03 + zero), section=_any_section(n, d), top=d.uniform(0.5, 1, n, 1)
    )
    bent = d.chance(0.3, n)
    a.prism(_xyz(zero, zero, h), _xyz(stem, stem, h), section=CIRCLE, present=~bent)
    s = np.linspace(0, 1, lofts.LEVELS - 2, dtype=np.float32)[None]
    reach, drop = d.uniform(0.3, 1, n, 1), d.uniform(0.1, 0.6, n, 1)
    arc = np.stack(
        [reach * s**3, 0 * s + 0 * reach, 2 * h[:, None] * np.sin(np.pi / 2 * s * (1 + drop * 0.5))], axis=-1
    )
    a.sweep(arc.astype(np.float32), stem, present=bent)
    top = np.where(bent[:, None], arc[:, -1], _xyz(zero, zero, 2 * h)).astype(np.float32)
    shade, open_top = d.uniform(0.1, 0.3, n), d.uniform(0.2, 1, n)
    wall = np.full(n, 0.04, np.float32)
    radius = np.stack([np.ones(n), open_top, np.maximum(open_top - wall, 0.02), 1 - wall, np.ones(n)], axis=1)
    height = np.broadcast_to(np.array([-1, 1, 1, -1, -1]), radius.shape)
    section = np.where(d.chance(0.7, n, 1), CIRCLE, _any_section(n, d))
    profile = lofts.padded(np.stack([radius, height], axis=-1))
    a.loft(profile, top, _xyz(wide, wide, shade), section=section, solid=False)
    a.loft(lofts.ball(), top, _xyz(0.07 + zero, 0.07 + zero, 0.1 + zero), present=d.chance(0.5, n))
    return a


def _vessel(n: int, d: Draw) -> Assembly:
    """Cups, bowls, vases, pots and bottles, some with a handle, a spout, or a plant in them."""
    a = Assembly(n)
    half = _xyz(*(d.uniform(0.3, 1, n),) * 2, d.uniform(0.3, 1, n))
    section = np.where(d.chance(0.75, n, 1), CIRCLE, _any_section(n, d))
    closed = d.chance(0.35, n)
    a.loft(lofts.turned(d, n), np.zeros(3), half, section=section, present=closed)
    a.loft(lofts.vessel(d, n), np.zeros(3), half, section=section, present=~closed, solid=False)
    s = np.linspace(-1, 1, lofts.LEVELS - 2, dtype=np.float32)[None]
    reach, span = d.uniform(0.2, 0.6, n, 1), d.uniform(0.3, 0.8, n, 1) * half[:, 2:]
    loop = np.stack([0.7 * half[:, :1] + reach * np.cos(np.pi / 2 * s), 0 * s + 0 * reach, span * s], axis=-1)
    wire = d.uniform(0.03, 0.09, n)
    a.sweep(loop.astype(np.float32), wire, present=d.chance(0.35, n))
    a.sweep((loop * np.array([-1, 1, 1])).astype(np.float32), wire, present=d.chance(0.12, n))
    _leaves(a, d, 7, half[:, 2], d.chance(0.3, n))
    return a


def _leaves(a: Assembly, d: Draw, leaves: int, base: Floats, present: NDArray[np.bool_]) -> None:
    n = a.count
    long, wide = d.uniform(0.2, 0.7, n), d.uniform(0.03, 0.2, n)
    for _ in range(leaves):
        tilt = about(2, d.uniform(0, 2 * np.pi, n)) @ about(1, d.uniform(0.1, 1.3, n))
        size = long * d.uniform(0.6, 1.2, n)
        centre = (tilt @ np.stack([0 * size, 0 * size, size], axis=1)[..., None])[..., 0]
        centre[:, 2] += 0.8 * base
        section = np.broadcast_to(CIRCLE, (n, lofts.ANGLES))
        there = present & d.chance(0.8, n)
        a.loft(lofts.ball(), centre, _xyz(0.015 + 0 * wide, wide, size), section=section, rotation=tilt, present=there)


def _airplane(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    body, thick = d.uniform(0.7, 1, n), d.uniform(0.07, 0.16, n)
    zero = 0 * body
    forward = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32)[None]  # z of the loft along x
    a.loft(lofts.capsule(d.uniform(0.15, 0.7, n)), _xyz(zero, zero, zero), _xyz(thick, thick, body), rotation=forward)
    span, chord, sweep = d.uniform(0.4, 1, n), d.uniform(0.1, 0.28, n), d.uniform(0, 2, n)
    where, high = d.uniform(-0.2, 0.3, n) * body, d.uniform(-0.8, 0.8, n) * thick
    taper = np.stack([d.uniform(0.25, 0.9, n), d.uniform(0.4, 1, n)], axis=1)
    lift = d.uniform(-0.1, 0.25, n)
    tail, tail_chord = d.uniform(0.15, 0.4, n), d.uniform(0.06, 0.14, n)
    engines = d.chance(0.6, n), d.chance(0.25, n)
    for side in (1, -1):
        out = np.array([[1, 0, 0], [0, 0, side], [0, -side, 0]], np.float32)  # z of the prism out to the side
        roll = about(0, side * lift)
        shift = np.stack([-sweep, zero], axis=1)
        centre = (roll @ _xyz(where, side * span, high)[..., None])[..., 0]
        a.prism(centre, _xyz(chord, 0.02 + zero, span), section=SQUARE, top=taper, shift=shift, rotation=roll @ out)
        centre = _xyz(-0.85 * body, side * tail, 0.4 * thick)
        a.prism(
            centre, _xyz(tail_chord, 0.012 + zero, tail), section=SQUARE, top=taper, shift=shift, rotation=out[None]
        )
        for shown, along in zip(engines, (0.35, 0.7), strict=True):
            centre = _xyz(where - sweep * chord * along + 0.1, side * span * 2 * along, high - 0.08)
            size = np.array([0.05, 0.05, 0.13])
            a.prism(centre, size, section=CIRCLE, rotation=forward, present=shown)
    fin = d.uniform(0.12, 0.3, n)
    a.prism(
        _xyz(-0.85 * body, zero, thick + fin),
        _xyz(tail_chord, 0.012 + zero, fin),
        top=taper,
        shift=np.stack([-d.uniform(0, 1.5, n), zero], axis=1),
    )
    return a


def _car(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    x, y, h = d.uniform(0.7, 1, n), d.uniform(0.25, 0.45, n), d.uniform(0.08, 0.2, n)
    zero, r = 0 * x, d.uniform(0.1, 0.2, n)
    a.prism(_xyz(zero, zero, r + h), _xyz(x, y, h), top=np.stack([d.uniform(0.85, 1, n), d.uniform(0.8, 1, n)], 1))
    cabin, place = d.uniform(0.35, 0.9, n) * x, d.uniform(-0.3, 0.2, n) * x
    top = np.stack([d.uniform(0.5, 1, n), d.uniform(0.7, 1, n)], axis=1)
    tall = d.uniform(0.1, 0.35, n)
    a.prism(_xyz(place, zero, r + 2 * h + tall), _xyz(cabin, 0.9 * y, tall), top=top)
    axle, lying = d.uniform(0.55, 0.75, n) * x, about(0, np.full(n, np.pi / 2, np.float32))
    for sx in (1, -1):
        for sy in (1, -1):
            a.prism(_xyz(sx * axle, sy * y, r), _xyz(r, r, 0.06 + zero), section=CIRCLE, rotation=lying)
    a.prism(_xyz(-0.9 * x, zero, r + 2 * h + 0.1), _xyz(0.05 + zero, y, 0.015 + zero), present=d.chance(0.25, n))
    return a


def _stairs(n: int, d: Draw) -> Assembly:
    a = Assembly(n)
    steps, rise, wide = d.integer(3, 11, n), d.uniform(0.05, 0.12, n), d.uniform(0.2, 0.6, n)
    run, solid = d.uniform(0.06, 0.15, n), d.chance(0.6, n)
    spiral = np.where(d.chance(0.25, n), d.uniform(0.2, 0.5, n), 0)
    for i in range(10):
        spin = about(2, spiral * i)
        half = _xyz(run, wide, np.where(solid, rise * (i + 1), 0.25 * rise))
        height = np.where(solid, rise * (i + 1), 2 * rise * (i + 1))
        straight = _xyz(run * 2 * i, 0 * run, height)
        around = (spin @ _xyz(0 * run, wide, 0 * run)[..., None])[..., 0] + _xyz(0 * run, 0 * run, height)
        a.prism(np.where((spiral > 0)[:, None], around, straight), half, rotation=spin, present=i < steps)
    rail = d.chance(0.4, n) & (spiral == 0)
    s = np.linspace(0, 1, lofts.LEVELS - 2, dtype=np.float32)[None]
    for side in (1, -1):
        along = run[:, None] * 2 * steps[:, None] * s
        line = np.stack([along, 0 * s + side * wide[:, None], 2 * rise[:, None] * steps[:, None] * s + 0.35], axis=-1)
        a.sweep(line.astype(np.float32), np.full(n, 0.025, np.float32), present=rail)
    return a


def _person(n: int, d: Draw) -> Assembly:
    """Limbs on a trunk."""
    a = Assembly(n)
    hip, trunk, wide = d.uniform(0.35, 0.5, n), d.uniform(0.2, 0.3, n), d.uniform(0.1, 0.2, n)
    zero = 0 * hip
    limb = lofts.capsule(np.full(n, 0.2, np.float32))
    chest = _xyz(0.6 * wide, wide, trunk)
    a.loft(lofts.ball(0.6), _xyz(zero, zero, 2 * hip + trunk), chest, section=lofts.superellipse(d.uniform(2, 4, n)))
    head = d.uniform(0.08, 0.12, n)
    a.loft(lofts.ball(), _xyz(zero, zero, 2 * hip + 2 * trunk + 1.2 * head), _xyz(head, head, 1.2 * head))
    for side in (1, -1):
        for top, long, thick, out in ((2 * hip, hip, 0.07, 0.5), (2 * hip + 1.9 * trunk, 0.28 + zero, 0.05, 1.0)):
            swing = about(0, side * d.uniform(0, 0.5 if out < 0.8 else 1.5, n)) @ about(1, d.uniform(-0.6, 0.6, n))
            hang = (swing @ _xyz(zero, zero, -long)[..., None])[..., 0]
            a.loft(
                limb, _xyz(zero, side * out * wide, top) + hang, _xyz(thick + zero, thick + zero, long), rotation=swing
            )
    return a


def _instrument(n: int, d: Draw) -> Assembly:
    """Guitars, rackets, bottles on their side: a flat body, a neck, a head."""
    a = Assembly(n)
    body, deep, neck = d.uniform(0.2, 0.35, n), d.uniform(0.02, 0.08, n), d.uniform(0.25, 0.45, n)
    zero = 0 * body
    waist = d.uniform(0.6, 0.95, n)
    a.prism(_xyz(zero, zero, zero), _xyz(1.2 * body, body, deep), section=_any_section(n, d))
    a.prism(_xyz(1.3 * body, zero, zero), _xyz(waist * body, 0.85 * waist * body, deep), section=CIRCLE)
    reach = 1.3 * body + waist * body
    a.prism(_xyz(reach + neck, zero, deep), _xyz(neck, 0.03 + zero, 0.02 + zero))
    a.prism(
        _xyz(reach + 2 * neck, zero, deep), _xyz(0.08 + zero, 0.05 + zero, 0.015 + zero), top=d.uniform(0.5, 1, n, 2)
    )
    return a


def _screen(n: int, d: Draw) -> Assembly:
    """Monitors, laptops, pictures on a stand."""
    a = Assembly(n)
    x, z, thick = d.uniform(0.5, 1, n), d.uniform(0.3, 0.65, n), d.uniform(0.01, 0.08, n)
    zero = 0 * x
    laptop = d.chance(0.4, n)
    tilt = about(0, np.where(laptop, d.uniform(-0.6, 0.4, n), d.uniform(-0.2, 0.2, n)))
    up = np.where(laptop, 0, d.uniform(0.05, 0.4, n))
    centre = (tilt @ _xyz(zero, zero, z)[..., None])[..., 0] + _xyz(zero, zero, up)
    a.prism(centre, _xyz(x, thick, z), rotation=tilt)
    back = centre + (tilt @ _xyz(zero, 1.5 * thick + 0.03, zero)[..., None])[..., 0]
    a.prism(back, _xyz(0.5 * x, 0.06 + zero, 0.5 * z), rotation=tilt, present=~laptop & d.chance(0.5, n))
    a.prism(
        _xyz(zero, 0.03 + zero, up / 2 + 0.1 * z), _xyz(0.05 + zero, 0.02 + zero, up / 2 + 0.1 * z), present=~laptop
    )
    a.prism(_xyz(zero, zero, zero), _xyz(0.4 * x, 0.2 + zero, 0.02 + zero), section=_any_section(n, d), present=~laptop)
    a.prism(_xyz(zero, -z, zero), _xyz(x, z, 0.025 + zero), present=laptop)
    _keys(a, d, x, z, -z, laptop)
    return a


def _keys(a: Assembly, d: Draw, x: Floats, y: Floats, middle: Floats, present: NDArray[np.bool_]) -> None:
    zero = 0 * x
    for i in range(4):
        for j in range(2):
            where = _xyz((i - 1.5) / 2 * x, middle + (j - 0.3) * 0.6 * y, 0.04 + zero)
            a.prism(where, _xyz(0.2 * x, 0.22 * y, 0.02 + zero), present=present)


def _board(n: int, d: Draw) -> Assembly:
    """Keyboards, pianos, radios: a slab with rows of keys, knobs and a raised back."""
    a = Assembly(n)
    x, y, z = d.uniform(0.6, 1, n), d.uniform(0.15, 0.5, n), d.uniform(0.03, 0.25, n)
    zero = 0 * x
    a.prism(_xyz(zero, zero, zero), _xyz(x, y, z), top=np.stack([1 + zero, d.uniform(0.7, 1, n)], 1))
    _keys(a, d, x, y, zero, d.chance(0.7, n))
    a.prism(_xyz(zero, y, z), _xyz(x, 0.05 + zero, d.uniform(0.05, 0.5, n)), present=d.chance(0.5, n))
    for side in (1, -1):
        knob = d.uniform(0.03, 0.15, n)
        a.prism(
            _xyz(side * 0.7 * x, 0.5 * y, z), _xyz(knob, knob, 0.06 + zero), section=CIRCLE, present=d.chance(0.4, n)
        )
    feet = d.uniform(0.05, 0.4, n)
    _legs(a, d, x, y, feet, -z - 2 * feet, present=d.chance(0.3, n))
    return a


def _frame(n: int, d: Draw) -> Assembly:
    """Doors, windows, curtains, mantels: thin rectangles with bars, panels or folds."""
    a = Assembly(n)
    y, z, bar = d.uniform(0.4, 0.9, n), d.uniform(0.5, 1, n), d.uniform(0.03, 0.12, n)
    zero, deep = 0 * y, d.uniform(0.02, 0.12, n)
    for side in (1, -1):
        a.prism(_xyz(zero, side * y, zero), _xyz(deep, bar, z))
    a.prism(_xyz(zero, zero, z), _xyz(deep * d.uniform(1, 2, n), y + bar, bar))
    a.prism(_xyz(zero, zero, -z), _xyz(deep, y + bar, bar), present=d.chance(0.6, n))
    a.prism(_xyz(zero, zero, zero), _xyz(0.3 * deep, y, z), present=d.chance(0.5, n))
    a.prism(_xyz(zero, zero, d.uniform(-0.5, 0.5, n) * z), _xyz(deep, y, 0.5 * bar), present=d.chance(0.4, n))
    folds = d.chance(0.35, n)
    for i in range(6):
        where = _xyz(zero, (i - 2.5) / 3 * y, zero)
        thick = d.uniform(0.05, 0.15, n)
        a.prism(where, _xyz(0.5 * thick, thick, z), section=CIRCLE, top=d.uniform(0.6, 1, n, 1), present=folds)
    knob = _xyz(deep + 0.03, 0.8 * y, zero)
    a.loft(lofts.ball(), knob, np.full(3, 0.04), present=d.chance(0.4, n))
    return a


def _tent(n: int, d: Draw) -> Assembly:
    """Roofs and tents: a ridge over walls."""
    a = Assembly(n)
    x, y, h, wall = d.uniform(0.5, 1, n), d.uniform(0.3, 0.8, n), d.uniform(0.2, 0.6, n), d.uniform(0.02, 0.5, n)
    zero = 0 * x
    a.prism(_xyz(zero, zero, wall), _xyz(x, y, wall))
    ridge = np.stack([np.where(d.chance(0.5, n), 1, d.uniform(0, 1, n)), d.uniform(0, 0.1, n)], axis=1)
    eaves = d.uniform(1, 1.2, n)
    a.prism(_xyz(zero, zero, 2 * wall + h), _xyz(eaves * x, eaves * y, h), top=ridge)
    place = d.uniform(-0.6, 0.6, n)
    a.prism(_xyz(place * x, 0.5 * y, 2 * wall + h), _xyz(0.08 + zero, 0.08 + zero, h), present=d.chance(0.4, n))
    a.prism(_xyz(x, zero, wall), _xyz(d.uniform(0.05, 0.3, n), 0.3 * y, 0.7 * wall), present=d.chance(0.5, n))
    return a


def _basin(n: int, d: Draw) -> Assembly:
    """Sinks, bathtubs, toilets: an open basin on a foot, a tank behind it, a tap."""
    a = Assembly(n)
    x, y, z = d.uniform(0.4, 1, n), d.uniform(0.3, 0.6, n), d.uniform(0.15, 0.35, n)
    zero = 0 * x
    section = lofts.superellipse(d.uniform(2, 9, n))
    wall, floor = d.uniform(0.05, 0.2, n), d.uniform(-0.8, -0.2, n)
    foot = d.uniform(0.5, 1, n)
    radius = np.stack([zero, foot, 1 + zero, 1 - wall, foot - wall * foot, zero], axis=1)
    height = np.stack([-1 + zero, -1 + zero, 1 + zero, 1 + zero, floor, floor], axis=1)
    profile = lofts.padded(np.stack([radius, height], axis=-1))
    a.loft(profile, np.zeros(3), _xyz(x, y, z), section=section, solid=False)
    pedestal, width = d.chance(0.5, n), d.uniform(0.1, 0.4, n)
    a.prism(_xyz(zero, zero, -z - 0.3), _xyz(width, width, 0.3 + zero), section=section, present=pedestal)
    tank = d.chance(0.4, n)
    a.prism(_xyz(-x - 0.12, zero, z + 0.1), _xyz(0.12 + zero, 0.9 * y, d.uniform(0.2, 0.4, n)), present=tank)
    lid = about(1, d.uniform(-1.7, -1.2, n))
    above = _xyz(-x, zero, z) + (lid @ _xyz(x, zero, zero)[..., None])[..., 0]
    a.prism(above, _xyz(x, y, 0.02 + zero), section=section, rotation=lid, present=tank & d.chance(0.6, n))
    s = np.linspace(0, 1, lofts.LEVELS - 2, dtype=np.float32)[None]
    bow = np.stack([-x[:, None] + 0.35 * s, 0 * s + 0 * x[:, None], z[:, None] + 0.35 * np.sin(2.4 * s)], axis=-1)
    a.sweep(bow.astype(np.float32), np.full(n, 0.03, np.float32), present=~tank)
    return a


def _tree(n: int, d: Draw) -> Assembly:
    """Plants: a pot or none, a stem, branches, leaves or a crown."""
    a = Assembly(n)
    pot, tall = d.uniform(0.1, 0.35, n), d.uniform(0.1, 0.5, n)
    zero = 0 * pot
    a.prism(_xyz(zero, zero, -0.25 + zero), _xyz(pot, pot, 0.25 + zero), section=CIRCLE, top=d.uniform(1, 1.4, n, 1))
    a.prism(_xyz(zero, zero, tall), _xyz(0.03 + zero, 0.03 + zero, tall), section=CIRCLE)
    _leaves(a, d, 12, 2 * tall, d.chance(0.75, n))
    crown = d.chance(0.3, n)
    for _ in range(3):
        where = d.uniform(-0.25, 0.25, n, 3) + _xyz(zero, zero, 2 * tall + 0.2)
        a.loft(
            lofts.ball(d.uniform(0.6, 1.6, n)),
            where,
            d.uniform(0.15, 0.4, n, 3),
            section=lofts.blob(d, n),
            present=crown,
        )
    return a


FAMILIES: dict[str, Family] = {
    "box": _one(),
    "plate": _one(low=0.03),
    "cylinder": _one(CIRCLE),
    "cone": _one(CIRCLE, top=(0, 0.5)),
    "pyramid": _one(SQUARE, top=(0, 0.4)),
    "prism": _one(lambda n, d: lofts.PROFILES[d.integer(2, len(lofts.PROFILES), n)]),
    "star": _one(lambda n, d: np.stack(lofts.STARS)[d.integer(0, len(lofts.STARS), n)]),
    "blob": _one(lambda n, d: lofts.blob(d, n, roughness=0.7), top=(0.3, 1)),
    "wedge": _wedge,
    "ellipsoid": _turned(lambda n, d: np.broadcast_to(lofts.ball(), (n, lofts.LEVELS, 2))),
    "superquadric": _turned(lambda n, d: lofts.ball(d.uniform(0.15, 2.2, n)), section=True),
    "capsule": _turned(lambda n, d: lofts.capsule(d.uniform(0.1, 0.9, n))),
    "revolution": _turned(lambda n, d: lofts.turned(d, n)),
    "torus": _torus,
    "tube": _turned(lambda n, d: lofts.ring(d.uniform(0.03, 0.6, n), square=True), solid=False, section=True),
    "helix": _helix,
    "swept": _swept,
    "pair": _union(2),
    "union": _union(4),
    "cluster": _union(7, spread=0.7),
    "scattered": _union(4, spread=1.0, aligned=0.0),
    "mirrored": _mirrored,
    "rosette": _rosette,
    "table": _table,
    "chair": _chair,
    "stool": _stool,
    "sofa": _sofa,
    "bed": _bed,
    "shelf": _shelf,
    "cabinet": _cabinet,
    "lamp": _lamp,
    "vessel": _vessel,
    "airplane": _airplane,
    "car": _car,
    "stairs": _stairs,
    "person": _person,
    "instrument": _instrument,
    "screen": _screen,
    "board": _board,
    "frame": _frame,
    "tent": _tent,
    "basin": _basin,
    "tree": _tree,
}
# Primitives alone are easy or symmetric, so they are drawn less often than unions and things.
_PRIMITIVES = list(FAMILIES)[:17]
_UNIONS = list(FAMILIES)[17:23]
WEIGHTS: dict[str, float] = {name: 0.4 if name in _PRIMITIVES else 2.5 if name in _UNIONS else 1.0 for name in FAMILIES}
