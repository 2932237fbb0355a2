"""Surfaces of large worlds as triangles, sampled uniformly by area, fast and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepgmr.datasets.worlds.sections import Floats, about
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
        """Points (points, 3) float32 in random order, uniform by area over what `keep` keeps.

        Gaussian `noise` in metres is added to every coordinate, after which `pose` (4, 4) moves the points. Raises
        `InvalidConfig` for fewer than one point, or where hardly anything is kept.
        """
        if points < 1:
            raise InvalidConfig(f"cannot sample {points} points; give a positive number")
        share = np.cumsum(self.area())
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
    rough = None
    if any(part.rough is not None for part in parts):
        rough = np.concatenate([np.zeros(len(part)) if part.rough is None else part.rough for part in parts])
    return Triangles(np.concatenate([part.corners for part in parts]), rough)


def boxes(centre: ArrayLike, half: ArrayLike, yaw: ArrayLike = 0.0, *, standing: bool = False) -> Triangles:
    """Upright boxes: centres (n, 3), half-sizes (n, 3), turned by `yaw` (n,); those that stand show no underside."""
    centre, half = np.broadcast_arrays(np.atleast_2d(centre), np.atleast_2d(half))
    turn = about(2, np.broadcast_to(np.asarray(yaw, float), (len(centre),)))
    corners = centre[:, None] + (half[:, None] * _CUBE) @ turn.transpose(0, 2, 1)  # (n, 8, 3)
    return Triangles(corners[:, _SIDES[:10] if standing else _SIDES].reshape(-1, 3, 3))
