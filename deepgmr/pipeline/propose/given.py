"""What the caller already knows of the motion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import RigidTransform, hat, rotation_angle
from deepgmr.pipeline.scan import Pair
from deepgmr.pipeline.settings import InitialSettings


@dataclass(frozen=True, eq=False)
class Prior:
    """An initial motion, if any, and the largest rotation (radians) the answer may be away from it.

    Without an initial motion the angle is the answer's own.
    """

    initial: RigidTransform | None = None
    max_rotation: float = math.pi
    reach: float = 0.05  # frame units: how far, on the mean, the initial motion may put a point from where it belongs

    @classmethod
    def of(
        cls, pair: Pair, settings: InitialSettings, initial: Any, covariance: Any, max_rotation_degrees: float | None
    ) -> Prior:
        """What `register` was told, in the frame of the pair. Raises `InvalidConfig`."""
        degrees = 180.0 if max_rotation_degrees is None else float(max_rotation_degrees)
        if not 0 < degrees <= 180:
            raise InvalidConfig(f"max_rotation_degrees must be in (0, 180], got {max_rotation_degrees}")
        if initial is None:
            if covariance is not None:
                raise InvalidConfig(
                    "initial_covariance says how far `initial` may be off, and there is none; give both"
                )
            return cls(None, math.radians(degrees))
        known = pair.enter(initial)
        if covariance is None:
            return cls(known, math.radians(degrees), settings.reach)
        return cls(known, math.radians(degrees), settings.deviations * _spread(covariance, pair))

    def allows(self, rotations: Tensor) -> Tensor:
        """Which rotations (*B, 3, 3) the prior allows, (*B) bool."""
        if self.max_rotation >= math.pi:
            return torch.ones(rotations.shape[:-2], dtype=torch.bool, device=rotations.device)
        return rotation_angle(self._centre(rotations).mT @ rotations) <= self.max_rotation

    def apply(self, motions: RigidTransform) -> RigidTransform:
        """The motions (H,) that are allowed; if none is, the nearest thing to knowledge: the initial one."""
        allowed = self.allows(motions.rotation)
        if allowed.any():
            return motions[allowed]
        return (self.initial or RigidTransform.identity())[None].to(motions.rotation)

    def near(self, grid: Tensor) -> Tensor:
        """The part of a grid of rotations (G, 3, 3) that the prior allows, about its centre; never empty."""
        grid = self._centre(grid) @ grid
        allowed = self.allows(grid)
        return grid[allowed] if allowed.any() else self._centre(grid).unsqueeze(0)

    def _centre(self, like: Tensor) -> Tensor:
        if self.initial is None:
            return torch.eye(3, dtype=like.dtype, device=like.device)
        return self.initial.rotation.to(like)


def _spread(covariance: Any, pair: Pair) -> float:
    """How far, in frame units, a motion of a covariance (6, 6) puts points from where they belong: a root mean square."""
    given = np.asarray(covariance, dtype=np.float64)
    if given.shape != (6, 6) or not np.isfinite(given).all() or np.linalg.eigvalsh((given + given.T) / 2)[0] < 0:
        raise InvalidConfig(
            "initial_covariance must be (6, 6) of (rotation vector, translation), finite and positive semi-definite, "
            f"got shape {given.shape}: {given.tolist()}"
        )
    carried = np.eye(6)  # a perturbation y -> y + w x y + v moves the centre of the target by v + w x centre
    carried[3:, :3] = -hat(torch.from_numpy(pair.target.origin)).numpy()
    about = carried @ given @ carried.T
    radius = pair.scale / 2
    return float(np.sqrt(np.trace(about[3:, 3:]) + 2 / 3 * radius**2 * np.trace(about[:3, :3])) / pair.scale)
