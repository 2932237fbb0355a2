"""Lofts: one representation for every procedural surface, so that thousands are built and sampled at once.

A loft is a section carried along levels that scale, shift or sweep it. A box is a square section over two levels with
caps, a sphere a circle over a half-circle of levels, a torus a circle over a closed loop of levels. Everything is
NumPy in float32 and vectorised over all parts of all shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepgmr.datasets.worlds.sections import ANGLES, CIRCLE, COS, LEVELS, SIN, SQUARE, Floats

PRISM = 6  # levels of a prism: two caps and a wall in three, short enough that areas hardly change along them
_INSIDE = 1e-3  # how far under the skin of a part (of unit size) a point must be to count as inside it


@dataclass
class Assembly:
    """Parts of `count` shapes of one family, collected part by part; every array has a row a shape."""

    count: int
    prisms: list[tuple[Floats, ...]] = field(default_factory=list)  # PRISM levels
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
        grid = np.stack([rho * COS, rho * SIN, np.broadcast_to(z[..., None], rho.shape)], axis=-1)
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
        skin = spine[:, :, None] + (rho * COS)[..., None] * across[:, :, None]
        skin = skin + (rho * SIN)[..., None] * other[:, :, None]
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
        ax, ay, bx, by = rho * COS[k], rho * SIN[k], next_rho * COS[after], next_rho * SIN[after]
        left = (bx - ax) * (y - ay) - (by - ay) * (x - ax)  # positive on the side of the origin
        result[near] = (left > _INSIDE * rho) & (size[:, 0] > 1e-6)
        return result


def build(assemblies: Sequence[tuple[Assembly, NDArray[np.int64]]]) -> Solids:
    """Put together the parts of assemblies whose rows are the shapes `owners` (n,)."""
    columns: tuple[list[Any], ...] = tuple([] for _ in range(9))
    vertices, corners, tri_part, linear, centre, section, radius, shift, owner = columns
    first_vertex, first_part = 0, 0
    for levels in (PRISM, LEVELS):
        rows: list[tuple[Floats, ...]] = []
        owners: list[NDArray[np.int64]] = []
        for assembly, who in assemblies:
            parts = assembly.prisms if levels == PRISM else assembly.lofts + assembly.sweeps
            rows += parts
            owners += [who] * len(parts)
        if not rows:
            continue
        keep = np.concatenate([row[2] for row in rows]) > 0
        whose = np.concatenate(owners)[keep]
        a, c, _, rho, first, second = (np.concatenate(column)[keep] for column in zip(*rows, strict=True))
        count = len(whose)
        if levels == PRISM:
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
    """Vertices (Q, PRISM, 24, 3) of prisms: a centre, levels of the wall, a centre."""
    height = np.linspace(0, 1, PRISM - 2, dtype=np.float32)  # from the lower face to the upper one
    size = 1 + height[None, :, None] * (top[:, None] - 1)  # (Q, PRISM - 2, 2)
    wall = np.stack([rho * COS, rho * SIN], axis=-1)[:, None] * size[:, :, None]
    wall += (height[None, :, None] * shift[:, None])[:, :, None]
    grid = np.zeros((len(rho), PRISM, ANGLES, 3), np.float32)
    grid[:, 1:-1, :, :2] = wall
    grid[:, -1, :, :2] = shift[:, None]
    grid[..., 2] = np.array([-1, *(2 * height - 1), 1], np.float32)[:, None]
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
    faces = _grid_faces(PRISM).reshape(2, PRISM - 1, ANGLES, 3)
    return np.concatenate([faces[0, 1:].reshape(-1, 3), faces[1, :-1].reshape(-1, 3)])


_FACES = {PRISM: _capped_faces(), LEVELS: _grid_faces(LEVELS)}
