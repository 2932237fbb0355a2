"""Lofts: one representation for every procedural surface, so that thousands are built and sampled at once.

A loft is a section, a closed curve given by its radius at 24 angles, carried along levels that scale, shift or sweep
it. A box is a square section over two levels with caps, a sphere a circle over a half-circle of levels, a torus a
circle over a closed loop of levels. Everything is NumPy in float32 and vectorised over all parts of all shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]

ANGLES = 24  # points of a section; 15 degrees apart, so polygons of 3, 4, 6, 8, 12 and 24 sides are exact
LEVELS = 16  # levels of a curved loft
_THETA = (2 * np.pi / ANGLES * np.arange(ANGLES)).astype(np.float32)
_COS, _SIN = np.cos(_THETA), np.sin(_THETA)
_INSIDE = 1e-3  # how far under the skin of a part (of unit size) a point must be to count as inside it


class Draw:
    """Uniform numbers as NumPy arrays, all of them from one torch generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, low: ArrayLike, high: ArrayLike, *shape: int) -> Floats:
        """Uniform in [low, high), float32."""
        unit = torch.rand(shape, generator=self._generator).numpy()
        return (np.asarray(low, np.float32) + (np.subtract(high, low)).astype(np.float32) * unit).astype(np.float32)

    def chance(self, probability: float, *shape: int) -> NDArray[np.bool_]:
        return torch.rand(shape, generator=self._generator).numpy() < probability

    def integer(self, low: int, high: int, *shape: int) -> NDArray[np.int64]:
        """Uniform integers in [low, high)."""
        return torch.randint(low, high, shape, generator=self._generator).numpy()

    def normal(self, *shape: int) -> Floats:
        return torch.randn(shape, generator=self._generator).numpy()

    def rotations(self, *shape: int) -> Floats:
        """Uniform rotations (*shape, 3, 3)."""
        q = self.normal(*shape, 4)
        q /= np.linalg.norm(q, axis=-1, keepdims=True)
        w, x, y, z = np.moveaxis(q, -1, 0)
        rows = [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ]
        return np.stack(rows, axis=-1).reshape(*shape, 3, 3)


def about(axis: int, angle: Floats) -> Floats:
    """Rotations (n, 3, 3) about a coordinate axis."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.zeros((len(angle), 3, 3), np.float32)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, axis, axis] = 1
    matrix[:, i, i], matrix[:, j, j], matrix[:, i, j], matrix[:, j, i] = c, c, -s, s
    return matrix


# -- sections: radius at each of the 24 angles -------------------------------------------------------------------


def polygon(angles_degrees: Sequence[float], radii: Sequence[float]) -> Floats:
    """The section (24,) of a polygon that is star-shaped about the origin, from its vertices in order of angle."""
    a = np.deg2rad(np.append(angles_degrees, angles_degrees[0] + 360.0))
    x, y = np.append(radii, radii[0]) * np.cos(a), np.append(radii, radii[0]) * np.sin(a)
    rho = np.empty(ANGLES)
    for k in range(ANGLES):
        theta = a[0] + (float(_THETA[k]) - a[0] + 1e-9) % (2 * np.pi) - 1e-9
        i = min(int(np.searchsorted(a, theta + 1e-6)) - 1, len(a) - 2)
        dx, dy = x[i + 1] - x[i], y[i + 1] - y[i]
        c, s = np.cos(theta), np.sin(theta)
        rho[k] = (x[i] * dy - y[i] * dx) / (c * dy - s * dx)
    return rho.astype(np.float32)


CIRCLE = np.ones(ANGLES, np.float32)
SQUARE = polygon([45, 135, 225, 315], [2**0.5] * 4)  # half-width 1
TRIANGLE = polygon([0, 120, 240], [1.0] * 3)
HEXAGON = polygon(list(range(0, 360, 60)), [1.0] * 6)
OCTAGON = polygon(list(range(0, 360, 45)), [1.0] * 8)
HALF_DISC = np.where(_COS < -1e-6, np.minimum(0.25 / np.maximum(-_COS, 1e-6), 1.0), 1.0).astype(np.float32)
CROSS = polygon(
    [15, 45, 75, 105, 135, 165, 195, 225, 255, 285, 315, 345],
    [1.0353, 0.3789, 1.0353] * 4,
)
ANGLE = polygon([45, 105, 135, 225, 315, 345], [0.35, 1.0, 1.1, 0.5, 1.1, 1.0])
STARS = [polygon(list(range(0, 360, 180 // n)), [1.0, 0.55] * n) for n in (3, 4, 6, 12)]
PROFILES = np.stack([CIRCLE, SQUARE, TRIANGLE, HEXAGON, OCTAGON, HALF_DISC, CROSS, ANGLE, *STARS])


def superellipse(exponent: Floats) -> Floats:
    """Sections (*B, 24): |x|^p + |y|^p = 1 for exponents (*B,); 2 is a circle, large is a square."""
    p = exponent[..., None]
    return ((np.abs(_COS) ** p + np.abs(_SIN) ** p) ** (-1 / p)).astype(np.float32)


def blob(draw: Draw, *shape: int, roughness: float = 0.35) -> Floats:
    """Smooth random sections (*shape, 24) with radius at most 1."""
    rho = np.ones((*shape, ANGLES), np.float32)
    for order in (1, 2, 3, 4):
        size, phase = draw.uniform(0, roughness / order, *shape, 1), draw.uniform(0, 2 * np.pi, *shape, 1)
        rho += size * np.cos(order * _THETA + phase)
    return rho / rho.max(axis=-1, keepdims=True)


# -- profiles: (radius, height) at each level ----------------------------------------------------------------------


def padded(levels: ArrayLike) -> Floats:
    """Levels (*B, L, 2) brought to LEVELS by repeating the last one; a repeated level has no area."""
    levels = np.asarray(levels, np.float32)
    missing = LEVELS - levels.shape[-2]
    return np.concatenate([levels, np.repeat(levels[..., -1:, :], missing, axis=-2)], axis=-2)


def ball(exponent: Floats | float = 1.0) -> Floats:
    """(*B, LEVELS, 2): the half of a superellipse; exponent 1 is a circle, small is boxy, 2 is a double cone."""
    phi = np.linspace(-np.pi / 2, np.pi / 2, LEVELS)
    e = np.asarray(exponent, np.float32)[..., None]
    radius = np.maximum(np.cos(phi), 0) ** e
    return np.stack([radius, np.sign(np.sin(phi)) * np.abs(np.sin(phi)) ** e], axis=-1).astype(np.float32)


def capsule(roundness: Floats) -> Floats:
    """(*B, LEVELS, 2): a cylinder with domes of height `roundness` (*B,) of the half-length."""
    phi = np.linspace(0, np.pi / 2, LEVELS // 2)
    end = np.sin(phi) * roundness[..., None]
    height = np.concatenate([-(1 - roundness[..., None]) - end[..., ::-1], (1 - roundness[..., None]) + end], -1)
    radius = np.concatenate([np.cos(phi)[::-1], np.cos(phi)])
    return np.stack([np.broadcast_to(radius, height.shape), height], axis=-1).astype(np.float32)


def ring(thickness: Floats, *, square: bool = False) -> Floats:
    """(*B, LEVELS, 2): a closed loop around the axis: a torus, or with `square` a tube with straight walls."""
    t = np.asarray(thickness, np.float32)[..., None]
    if square:
        radius = np.concatenate([np.ones_like(t), np.ones_like(t), 1 - t, 1 - t, np.ones_like(t)], axis=-1)
        height = np.broadcast_to(np.array([-1.0, 1, 1, -1, -1], np.float32), radius.shape)
        return padded(np.stack([radius, height], axis=-1))
    phi = np.linspace(-np.pi, np.pi, LEVELS)
    radius = 1 - t / 2 + t / 2 * np.cos(phi)
    return np.stack([radius, np.broadcast_to(np.sin(phi), radius.shape)], axis=-1).astype(np.float32)


def turned(draw: Draw, count: int) -> Floats:
    """(count, LEVELS, 2): the closed profile of something turned on a lathe."""
    s = np.linspace(-1, 1, LEVELS - 2)
    radius = np.full((count, len(s)), 0.6, np.float32) + draw.uniform(-0.5, 0.5, count, 1) * s
    for order in (1, 2, 3, 4):
        size, phase = draw.uniform(0, 0.35 / order**0.7, count, 1), draw.uniform(0, 2 * np.pi, count, 1)
        radius += size * np.sin(order * np.pi / 2 * s + phase)
    radius = np.maximum(radius, 0.08)
    radius /= radius.max(axis=1, keepdims=True)
    zero, height = np.zeros((count, 1), np.float32), np.broadcast_to(s, radius.shape)
    ends = np.full((count, 1), 1.0, np.float32)
    return np.stack(
        [np.concatenate([zero, radius, zero], 1), np.concatenate([-ends, height, ends], 1)], axis=-1
    ).astype(np.float32)


def vessel(draw: Draw, count: int) -> Floats:
    """(count, LEVELS, 2): an open vessel: up the outside, over the rim, down the inside to its floor."""
    half = (LEVELS - 2) // 2
    outer = turned(draw, count)[:, 1:-1][:, :: (LEVELS - 2) // half][:, :half]  # (count, half, 2)
    outer = outer.copy()
    outer[..., 1] = np.linspace(-1, 1, half)
    wall = draw.uniform(0.03, 0.15, count, 1)
    inner = outer[:, ::-1].copy()
    inner[..., 0] = np.maximum(inner[..., 0] - wall, 0.02)
    inner[..., 1] = np.maximum(inner[..., 1], -1 + wall)
    bottom, floor = np.zeros((count, 1, 2), np.float32), np.zeros((count, 1, 2), np.float32)
    bottom[..., 1], floor[..., 0, 1] = -1, inner[:, -1, 1]
    return np.concatenate([bottom, outer, inner, floor], axis=1).astype(np.float32)


# -- assembling parts -----------------------------------------------------------------------------------------------


@dataclass
class Assembly:
    """Parts of `count` shapes of one family, collected part by part; every array has a row a shape."""

    count: int
    prisms: list[tuple[Floats, ...]] = field(default_factory=list)  # two levels with caps
    lofts: list[tuple[Floats, ...]] = field(default_factory=list)  # LEVELS levels
    sweeps: list[tuple[Floats, ...]] = field(default_factory=list)  # LEVELS levels, along a curve

    def prism(
        self,
        centre: ArrayLike,
        half: ArrayLike,
        *,
        section: Floats = SQUARE,
        top: ArrayLike = 1.0,
        shift: ArrayLike = 0.0,
        rotation: Floats | None = None,
        present: NDArray[np.bool_] | None = None,
    ) -> None:
        """A solid between two parallel faces: `half` sizes (n, 3), the upper face scaled by `top` (n, 2) and moved
        by `shift` (n, 2), both relative to the lower one."""
        n = self.count
        top, shift = _rows(top, n, 2), _rows(shift, n, 2)
        self.prisms.append((*_placed(centre, half, rotation, present, n), _rows(section, n, ANGLES), top, shift))

    def loft(
        self,
        profile: Floats,
        centre: ArrayLike,
        half: ArrayLike,
        *,
        section: Floats = CIRCLE,
        rotation: Floats | None = None,
        present: NDArray[np.bool_] | None = None,
        solid: bool = True,
    ) -> None:
        """A section (n, 24) carried up a profile (n, LEVELS, 2); not `solid` if the profile is a loop or a vessel."""
        n = self.count
        r, z = np.moveaxis(np.broadcast_to(profile, (n, LEVELS, 2)), -1, 0)
        rho = _rows(section, n, ANGLES)[:, None, :] * r[..., None]  # (n, L, 24)
        grid = np.stack([rho * _COS, rho * _SIN, np.broadcast_to(z[..., None], rho.shape)], axis=-1)
        table = _heights(r, z) if solid else np.zeros((n, LEVELS), np.float32)
        self.lofts.append((*_placed(centre, half, rotation, present, n), _rows(section, n, ANGLES), table, grid))

    def sweep(
        self,
        spine: Floats,
        radius: ArrayLike,
        *,
        section: Floats = CIRCLE,
        present: NDArray[np.bool_] | None = None,
    ) -> None:
        """A section carried along a spine (n, LEVELS - 2, 3), with closed ends; `radius` (n,) or a level each."""
        n = self.count
        tangent = np.gradient(spine, axis=1)
        tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-9
        least = np.eye(3, dtype=np.float32)[np.abs(tangent[:, 0]).argmin(axis=-1)]
        side = np.cross(tangent[:, 0], least)
        sides = []
        for level in range(spine.shape[1]):  # parallel transport: the frame turns no more than the tangent does
            side = side - (side * tangent[:, level]).sum(-1, keepdims=True) * tangent[:, level]
            side /= np.linalg.norm(side, axis=-1, keepdims=True) + 1e-9
            sides.append(side)
        across = np.stack(sides, axis=1)  # (n, L-2, 3)
        other = np.cross(tangent, across)
        size = np.broadcast_to(np.asarray(radius, np.float32).reshape(n, -1), (n, spine.shape[1]))
        rho = _rows(section, n, ANGLES)[:, None] * size[..., None]  # (n, L-2, 24)
        skin = spine[:, :, None] + (rho * _COS)[..., None] * across[:, :, None]
        skin = skin + (rho * _SIN)[..., None] * other[:, :, None]
        ends = [np.repeat(spine[:, i, None, None], ANGLES, axis=2) for i in (0, -1)]
        grid = np.concatenate([ends[0], skin, ends[1]], axis=1).astype(np.float32)
        placed = _placed(np.zeros(3), np.ones(3), None, present, n)
        self.sweeps.append((*placed, _rows(section, n, ANGLES), np.zeros((n, LEVELS), np.float32), grid))


def _placed(
    centre: ArrayLike, half: ArrayLike, rotation: Floats | None, present: NDArray[np.bool_] | None, n: int
) -> tuple[Floats, Floats, Floats]:
    """The linear map (n, 3, 3), the centre (n, 3) and the presence (n,) of a part."""
    size = _rows(half, n, 3)
    linear = size[:, None, :] * (np.eye(3, dtype=np.float32) if rotation is None else rotation.astype(np.float32))
    exists = np.ones(n, np.float32) if present is None else present.astype(np.float32)
    return np.broadcast_to(linear, (n, 3, 3)), _rows(centre, n, 3), exists


def _rows(value: ArrayLike, n: int, width: int) -> Floats:
    return np.broadcast_to(np.asarray(value, np.float32), (n, width))


def _heights(r: Floats, z: Floats) -> Floats:
    """The radius (n, LEVELS) at evenly spaced heights in [-1, 1] of profiles whose height never falls."""
    even = np.linspace(-1, 1, LEVELS, dtype=np.float32)
    same = z.shape[0] > 1 and bool((z == z[:1]).all()) and bool((r == r[:1]).all())
    rows = [np.interp(even, z[i], r[i]) for i in range(1 if same else len(z))]
    return np.broadcast_to(np.stack(rows).astype(np.float32), r.shape)


# -- meshes and inside tests of all parts at once --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Solids:
    """All parts of a batch of shapes, as vertices on grids and as an inside test."""

    vertices: Floats  # (V, 3)
    corners: NDArray[np.int32]  # (T, 3) vertices of each triangle, counter-clockwise seen from outside
    triangle_owner: NDArray[np.int64]  # (T,) the shape a triangle belongs to, in rising order
    triangle_part: NDArray[np.int64]  # (T,)
    inverse: Floats  # (Q, 3, 3) from shape coordinates to those of the part
    centre: Floats  # (Q, 3)
    section: Floats  # (Q, 24)
    radius: Floats  # (Q, LEVELS, 2) scale of the section along x and y at even heights; zero: never inside
    shift: Floats  # (Q, 2) of the section at the top
    owner: NDArray[np.int64]  # (Q,)
    solid: NDArray[np.bool_]  # (Q,) whether the part has an inside
    extent: Floats  # (Q, 3) half-sizes of a box around its inside

    def inside(self, points: Floats, parts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each point (n, 3) lies inside its part (n,), by more than a thin skin."""
        x, y, z = np.moveaxis(np.einsum("nij,nj->ni", self.inverse[parts], points - self.centre[parts]), -1, 0)
        result = np.zeros(len(points), bool)
        near = np.flatnonzero(np.abs(z) < 1 - _INSIDE)
        parts, x, y, z = parts[near], x[near], y[near], z[near]
        place = (z + 1) * ((LEVELS - 1) / 2)
        level = np.minimum(place.astype(np.int64), LEVELS - 2)
        part = (place - level)[:, None]
        size = (1 - part) * self.radius[parts, level] + part * self.radius[parts, level + 1]  # (n, 2)
        moved = self.shift[parts] * ((z + 1) / 2)[:, None]
        size = np.maximum(size, 1e-9)
        x, y = (x - moved[:, 0]) / size[:, 0], (y - moved[:, 1]) / size[:, 1]
        k = np.floor(np.arctan2(y, x) * (ANGLES / (2 * np.pi))).astype(np.int64) % ANGLES
        after = (k + 1) % ANGLES
        rho, next_rho = self.section[parts, k], self.section[parts, after]
        ax, ay, bx, by = rho * _COS[k], rho * _SIN[k], next_rho * _COS[after], next_rho * _SIN[after]
        left = (bx - ax) * (y - ay) - (by - ay) * (x - ax)  # positive on the side of the origin
        result[near] = (left > _INSIDE * rho) & (size[:, 0] > 1e-6)
        return result


def build(assemblies: Sequence[tuple[Assembly, NDArray[np.int64]]]) -> Solids:
    """Put together the parts of assemblies whose rows are the shapes `owners` (n,)."""
    columns: tuple[list[Any], ...] = tuple([] for _ in range(9))
    vertices, corners, tri_part, linear, centre, section, radius, shift, owner = columns
    first_vertex, first_part = 0, 0
    for levels in (4, LEVELS):
        rows: list[tuple[Floats, ...]] = []
        owners: list[NDArray[np.int64]] = []
        for assembly, who in assemblies:
            parts = assembly.prisms if levels == 4 else assembly.lofts + assembly.sweeps
            rows += parts
            owners += [who] * len(parts)
        if not rows:
            continue
        keep = np.concatenate([row[2] for row in rows]) > 0
        whose = np.concatenate(owners)[keep]
        a, c, _, rho, first, second = (np.concatenate(column)[keep] for column in zip(*rows, strict=True))
        count = len(whose)
        if levels == 4:
            grid, scale, moved = _prism_grid(rho, first, second)
        else:
            grid, scale, moved = second, np.repeat(first[..., None], 2, axis=-1), np.zeros((count, 2), np.float32)
        per_part, faces = levels * ANGLES, _FACES[levels]
        placed = np.matmul(grid.reshape(count, per_part, 3), a.transpose(0, 2, 1)) + c[:, None]
        vertices.append(placed.reshape(-1, 3))
        offsets = first_vertex + per_part * np.arange(count, dtype=np.int32)
        corners.append((faces[None] + offsets[:, None, None]).reshape(-1, 3))
        tri_part.append(np.repeat(first_part + np.arange(count), len(faces)))
        for column, value in (
            *((linear, a), (centre, c), (section, rho), (radius, scale), (shift, moved), (owner, whose)),
        ):
            column.append(value)
        first_vertex += per_part * count
        first_part += count
    owner_of = np.concatenate(owner)
    part = np.concatenate(tri_part)
    order = np.argsort(owner_of[part], kind="stable")
    all_linear, all_shift = np.concatenate(linear), np.concatenate(shift)
    sizes = np.concatenate(radius)
    # Sections reach at most 1.5 from their axis, further where the top is wider or moved aside.
    reach = np.ones((len(sizes), 3), np.float32)
    reach[:, :2] = 1.5 * sizes.max(axis=1) + np.abs(all_shift)
    return Solids(
        vertices=np.concatenate(vertices).astype(np.float32, copy=False),
        corners=np.concatenate(corners)[order],
        triangle_owner=owner_of[part][order],
        triangle_part=part[order],
        inverse=np.linalg.inv(all_linear.astype(np.float64) + 1e-12 * np.eye(3)).astype(np.float32),
        centre=np.concatenate(centre),
        section=np.concatenate(section),
        radius=sizes,
        shift=all_shift,
        owner=owner_of,
        solid=sizes.max(axis=(1, 2)) > 0,
        extent=np.einsum("qij,qj->qi", np.abs(all_linear), reach).astype(np.float32),
    )


def _prism_grid(rho: Floats, top: Floats, shift: Floats) -> tuple[Floats, Floats, Floats]:
    """Vertices (Q, 4, 24, 3) of prisms: centre, lower face, upper face, centre."""
    count = len(rho)
    low = np.stack([rho * _COS, rho * _SIN], axis=-1)  # (Q, 24, 2)
    high = low * top[:, None] + shift[:, None]
    grid = np.zeros((count, 4, ANGLES, 3), np.float32)
    grid[:, 1, :, :2], grid[:, 2, :, :2] = low, high
    grid[:, 3, :, :2] = shift[:, None]
    grid[:, :2, :, 2], grid[:, 2:, :, 2] = -1, 1
    s = np.linspace(0, 1, LEVELS, dtype=np.float32)[None, :, None]
    return grid, 1 + s * (top[:, None] - 1), shift


def _grid_faces(levels: int) -> NDArray[np.int32]:
    level, k = np.meshgrid(np.arange(levels - 1), np.arange(ANGLES), indexing="ij")
    here, beside = level * ANGLES + k, level * ANGLES + (k + 1) % ANGLES
    above, diagonal = here + ANGLES, beside + ANGLES
    lower, upper = np.stack([here, beside, diagonal], -1), np.stack([here, diagonal, above], -1)
    return np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)]).astype(np.int32)


def _capped_faces() -> NDArray[np.int32]:
    """The faces of a prism without the halves that its caps, fans around a centre, leave empty."""
    faces = _grid_faces(4).reshape(2, 3, ANGLES, 3)
    return np.concatenate([faces[0, 1:].reshape(-1, 3), faces[1, :2].reshape(-1, 3)])


_FACES = {4: _capped_faces(), LEVELS: _grid_faces(LEVELS)}
