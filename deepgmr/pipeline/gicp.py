"""Generalised ICP of many motions at once, in tensors on any device: each with its own pair of clouds.

The steps are those of small_gicp, in double precision, but for who is nearest: all distances are compared, which suits a
GPU. On one core it takes some twenty times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deepgmr.geometry.procrustes import inverse_3x3
from deepgmr.geometry.transform import RigidTransform, hat
from deepgmr.pipeline.scan import Level

ENTRIES = 1 << 26  # of distances in float64 that are held at a time: half a gigabyte
HELD = 64  # numbers that a fit holds for each component
_THICKNESS = 1e-3  # variance of a disk across it, as a share of that in its plane: small_gicp's
_LAMBDA, _FACTOR, _TRIES = 1e-3, 10.0, 10  # of Levenberg and Marquardt, as in small_gicp


@dataclass(frozen=True, eq=False)
class Fit:
    """Generalised ICP of motions (B, 4, 4), each for one of P pairs of clouds; float64."""

    points: Tensor  # (P, J, 3) of the sources ...
    disks: Tensor  # (P, J, 3, 3) ... and their covariances
    counts: Tensor  # (P,) how many of them there are: what follows counts for nothing
    goals: Tensor  # (P, K, 3)
    goal_disks: Tensor  # (P, K, 3, 3)
    reaches: Tensor  # (P,)

    @classmethod
    def of(
        cls, sources: Sequence[Level], targets: Sequence[Level], reaches: Sequence[float], device: torch.device
    ) -> Fit:
        disks, goal_disks = (
            torch.eye(3, dtype=axes.dtype, device=device) - (1 - _THICKNESS) * axes.unsqueeze(-1) * axes.unsqueeze(-2)
            for axes in (padded([level.axes for level in levels], device) for levels in (sources, targets))
        )
        return cls(
            padded([level.points for level in sources], device),
            disks,
            torch.tensor([len(level) for level in sources], device=device),
            padded([level.points for level in targets], device, fill=torch.inf),
            goal_disks,
            torch.tensor(reaches, dtype=disks.dtype, device=device),
        )

    def descend(self, pair: Tensor, motions: Tensor, iterations: int, settled: float) -> tuple[Tensor, Tensor]:
        """Motions (B, 4, 4) of pairs (B,) as Levenberg and Marquardt's steps leave them, and (B,) how many matches held.

        The steps are small_gicp's: of one linearisation, ever shorter until the cost falls; then matches are sought
        again, until a step is small, none helps, or there were so many.
        """
        motions, damping = motions.clone(), torch.full_like(motions[:, 0, 0], _LAMBDA)
        inliers = torch.zeros_like(pair)
        going = torch.arange(len(pair), device=pair.device)
        eye = torch.eye(6, dtype=motions.dtype, device=motions.device)
        for _ in range(iterations):
            if not len(going):
                break
            start = motions[going]
            system = self._linearised(pair[going], start)
            inliers[going] = system.inliers
            falls = torch.zeros_like(going, dtype=torch.bool)
            taken = torch.zeros_like(start[:, :1, 0]).expand(-1, 6)
            for _ in range(_TRIES):
                step = -torch.linalg.solve(system.information + damping[going, None, None] * eye, system.slope)
                there = start @ RigidTransform.exp(step).matrix
                now = ~falls & (system.cost_at(there) <= system.cost)
                before = damping[going]
                damping[going] = torch.where(now, before / _FACTOR, torch.where(falls, before, before * _FACTOR))
                motions[going] = torch.where(now[:, None, None], there, motions[going])
                taken, falls = torch.where(now[:, None], step, taken), falls | now
                if falls.all():
                    break
            small = (taken[:, :3].norm(dim=-1) <= settled) & (taken[:, 3:].norm(dim=-1) <= settled)
            going = going[falls & ~small]
        return motions, inliers

    def _linearised(self, pair: Tensor, motions: Tensor) -> _System:
        """About motions (B, 4, 4) of pairs (B,), in the frames of the sources: y - T x is turned back."""
        turn, points = motions[:, :3, :3], self.points[pair]
        distance, index = nearest(points @ turn.mT + motions[:, None, :3, 3], self.goals[pair])
        counted = torch.arange(points.shape[1], device=pair.device) < self.counts[pair, None]
        close = counted & (distance <= self.reaches[pair, None])  # (B, J)
        goals, disks = (values[pair[:, None], index] for values in (self.goals, self.goal_disks))
        weights = inverse_3x3(turn.mT[:, None] @ disks @ turn[:, None] + self.disks[pair])  # (B, J, 3, 3)
        return _System.of(points, goals, weights * close[..., None, None], motions, close.sum(-1))


@dataclass(frozen=True, eq=False)
class _System:
    """The cost of B motions, with matches and weights that stay as they are, to second order in a twist on the right."""

    points: Tensor  # (B, J, 3)
    goals: Tensor  # (B, J, 3)
    weights: Tensor  # (B, J, 3, 3), zero where there is no match, in the frame of the points
    turn: Tensor  # (B, 3, 3) that carries this frame into that of the goals
    information: Tensor  # (B, 6, 6)
    slope: Tensor  # (B, 6)
    cost: Tensor  # (B,)
    inliers: Tensor  # (B,)

    @classmethod
    def of(cls, points: Tensor, goals: Tensor, weights: Tensor, motions: Tensor, inliers: Tensor) -> _System:
        turn = motions[:, :3, :3]
        residual = _residual(points, goals, motions, turn)
        minus = -torch.eye(3, dtype=points.dtype, device=points.device).expand(*points.shape, 3)
        jacobian = torch.cat([hat(points), minus], dim=-1).flatten(1, 2)  # (B, 3 J, 6)
        weighted = (weights @ jacobian.unflatten(1, (-1, 3))).flatten(1, 2)
        slope = (weighted.mT @ residual.flatten(1).unsqueeze(-1)).squeeze(-1)
        return cls(points, goals, weights, turn, jacobian.mT @ weighted, slope, _cost(residual, weights), inliers)

    def cost_at(self, motions: Tensor) -> Tensor:
        """(B,) at other motions (B, 4, 4)."""
        return _cost(_residual(self.points, self.goals, motions, self.turn), self.weights)


def _residual(points: Tensor, goals: Tensor, motions: Tensor, turn: Tensor) -> Tensor:
    """(B, J, 3) in the frame that `turn` (B, 3, 3) carries into that of the goals."""
    return (goals - points @ motions[:, :3, :3].mT - motions[:, None, :3, 3]) @ turn


def _cost(residual: Tensor, weights: Tensor) -> Tensor:
    return ((weights @ residual.unsqueeze(-1)).squeeze(-1) * residual).sum((-2, -1)) / 2


# -- clouds of different sizes ------------------------------------------------------------------------------------------


def padded(clouds: Sequence[np.ndarray], device: torch.device, fill: float = 0.0) -> Tensor:
    """(B, N, ...) float64 of arrays (N, ...) of different lengths."""
    return pad_sequence([torch.from_numpy(each) for each in clouds], batch_first=True, padding_value=fill).to(device)


def nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (B, Q) and index (B, Q) of the nearest of points (B, N, 3) to each of queries (B, Q, 3)."""
    few = max(1, ENTRIES // (queries.shape[1] * points.shape[1]))
    found = [  # exact: not by way of a product
        torch.cdist(*part, compute_mode="donot_use_mm_for_euclid_dist").min(-1)
        for part in zip(queries.split(few), points.split(few), strict=True)
    ]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])
