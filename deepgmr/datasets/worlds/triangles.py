"""Surfaces of large worlds as triangles, sampled uniformly by area, fast and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepgmr.datasets.worlds.sections import Floats, about
from deepgmr.datasets.worlds.sensors import BALL, BOX, CYLINDER, Scene
from deepgmr.errors import InvalidConfig

Keep = Callable[[Floats], NDArray[np.bool_]]  # which points (n, 3) of the world stay

_BLOCK = 1 << 19  # points drawn at once
_CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
# Two triangles a side, the underside last, so that what stands on something can go without it.
_SIDES = np.array(
    [
        *([1, 5, 7], [1, 7, 3], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]),
        *([0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 2, 6], [0, 6, 4]),
    ]
)


@dataclass(frozen=True, eq=False)
class Triangles:
    """Triangles of a world in metres; those of foliage give points that stray."""

    corners: Floats  # (T, 3, 3)
    rough: Floats | None = None  # (T,) standard deviation of what grows there, in metres
    density: Floats | None = None  # (T,) points for each area, relative to the other triangles; none: all the same

    def __len__(self) -> int:
        return len(self.corners)

    def area(self) -> Floats:
        """(T,) in square metres."""
        edges = self.corners[:, 1:] - self.corners[:, :1]
        return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2

    def sample(
        self,
        points: int,
        rng: np.random.Generator,
        *,
        keep: Keep | None = None,
        noise: float = 0.0,
        pose: ArrayLike | None = None,
    ) -> Floats:
        """Points (points, 3) float32 in random order, uniform by area (times density) over what `keep` keeps.

        Gaussian `noise` in metres is added to every coordinate, after which `pose` (4, 4) moves the points. Raises
        `InvalidConfig` for fewer than one point, or where hardly anything is kept.
        """
        if points < 1:
            raise InvalidConfig(f"cannot sample {points} points; give a positive number")
        share = np.cumsum(self.area() * (1 if self.density is None else self.density))
        first, edges = self.corners[:, 0], self.corners[:, 1:] - self.corners[:, :1]
        matrix = np.eye(4) if pose is None else np.asarray(pose, float)
        cloud, have, drawn = np.empty((points, 3), np.float32), 0, 0
        while have < points:
            count = min(_BLOCK, 2 * (points - have) + 64)
            row = np.minimum(np.searchsorted(share, share[-1] * rng.random(count), side="right"), len(share) - 1)
            u = rng.random((2, count, 1), dtype=np.float32)
            u = np.where(u.sum(axis=0) > 1, 1 - u, u)
            found = first[row] + u[0] * edges[row, 0] + u[1] * edges[row, 1]
            if keep is not None:
                kept = keep(found)
                found, row = found[kept], row[kept]
            found, row = found[: points - have], row[: points - have]
            if noise:
                found += np.float32(noise) * rng.standard_normal(found.shape, dtype=np.float32)
            if self.rough is not None:
                found += self.rough[row, None] * rng.standard_normal(found.shape, dtype=np.float32)
            cloud[have : have + len(found)] = found @ matrix[:3, :3].T + matrix[:3, 3]
            have, drawn = have + len(found), drawn + count
            if drawn > 1000 * (have + 1000):
                raise InvalidConfig("nearly nothing of this world is kept, so it cannot be sampled")
        return cloud


def joined(parts: Sequence[Triangles]) -> Triangles:
    """All of several surfaces."""

    def column(name: str, default: float) -> Floats | None:
        columns = [getattr(part, name) for part in parts]
        if all(c is None for c in columns):
            return None
        return np.concatenate(
            [np.full(len(part), default) if c is None else c for part, c in zip(parts, columns, strict=True)]
        )

    corners = np.concatenate([part.corners for part in parts])
    return Triangles(corners, column("rough", 0.0), column("density", 1.0))


def boxes(centre: ArrayLike, half: ArrayLike, yaw: ArrayLike = 0.0, *, standing: bool = False) -> Triangles:
    """Upright boxes: centres (n, 3), half-sizes (n, 3), turned by `yaw` (n,); those that stand show no underside."""
    centre, half = np.broadcast_arrays(np.atleast_2d(centre), np.atleast_2d(half))
    turn = about(2, np.broadcast_to(np.asarray(yaw, float), (len(centre),)))
    corners = centre[:, None] + (half[:, None] * _CUBE) @ turn.transpose(0, 2, 1)  # (n, 8, 3)
    return Triangles(corners[:, _SIDES[:10] if standing else _SIDES].reshape(-1, 3, 3))


def grid(vertices: Floats) -> Triangles:
    """A sheet over vertices (R, C, 3), two triangles a cell."""
    a, b, c, d = vertices[:-1, :-1], vertices[:-1, 1:], vertices[1:, 1:], vertices[1:, :-1]
    halves = [np.stack(three, axis=2).reshape(-1, 3, 3) for three in ((a, b, c), (a, c, d))]
    return Triangles(np.concatenate(halves))


def of_scene(scene: Scene) -> Triangles:
    """The primitives of a scene, and the walls around them, as triangles."""
    unit = {BOX: _CUBE[_SIDES], BALL: _ball(), CYLINDER: _cylinder()}
    parts = [] if scene.walls is None else [boxes(scene.walls.mean(axis=0), np.ptp(scene.walls, axis=0) / 2)]
    for kind, corners in unit.items():
        rows = np.flatnonzero(scene.kind == kind)
        moved = np.einsum("pij,tcj->ptci", scene.linear[rows], corners) + scene.centre[rows, None, None]
        parts.append(Triangles(moved.reshape(-1, 3, 3), np.repeat(scene.rough[rows], len(corners))))
    return joined(parts)


def _ball(columns: int = 16, rows: int = 8) -> Floats:
    """The unit ball, its vertices on the sphere."""
    latitude, longitude = np.linspace(-np.pi / 2, np.pi / 2, rows + 1), np.linspace(0, 2 * np.pi, columns + 1)
    flat = np.cos(latitude)[:, None] * np.stack([np.cos(longitude), np.sin(longitude)])[:, None]  # (2, rows, columns)
    height = np.broadcast_to(np.sin(latitude)[:, None], flat.shape[1:])
    return grid(np.stack([*flat, height], axis=-1)).corners


def _cylinder(columns: int = 24) -> Floats:
    """The unit cylinder with its caps."""
    angle = np.linspace(0, 2 * np.pi, columns + 1)
    radius, height = np.array([0.0, 1, 1, 0])[:, None], np.array([-1.0, -1, 1, 1])[:, None]
    rings = np.broadcast_arrays(radius * np.cos(angle), radius * np.sin(angle), height)
    return grid(np.stack(rings, axis=-1)).corners
