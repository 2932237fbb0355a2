"""What the caller already knows of the motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.geometry.transform import RigidTransform, rotation_angle


@dataclass(frozen=True, eq=False)
class Prior:
    """An initial motion, if any, and the largest rotation (radians) the answer may be away from it.

    Without an initial motion the angle is the answer's own.
    """

    initial: RigidTransform | None = None
    max_rotation: float = math.pi
    reach: float = 0.05  # frame units: how far, on the mean, the initial motion may put a point from where it belongs

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
