"""Motions pulled to the nearest minima of the partial divergence of two surfaces, all of them at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from deepgmr.geometry.neighbours import Tree
from deepgmr.geometry.transform import RigidTransform, first_apart
from deepgmr.pipeline.cohort import asked
from deepgmr.pipeline.pace import check
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import DescentSettings

_NEGLIGIBLE = 60.0  # nats beyond which a counterpart is none
_DAMPING = 1e-9  # of a step, as a share of the information


def descend_together(source: Level, target: Level, matrices: np.ndarray, settings: DescentSettings) -> np.ndarray:
    """Pull motions (H, 4, 4) to minima (H', 4, 4) of the mean of D(source || target) and D(target || source).

    D is the partial divergence (eq. 1 of `deepgmr.divergence.partial`) of disks over places and normals: a component
    deviates by `across` spacings over its surface, one round after the other, and by more along it. Its counterpart is
    the nearest component of the other surface, and the surface faces the mean of the two normals. Each step is that of
    Gauss and Newton on sum_j w_j KL_j with w_j = exp(-KL_j) / (exp(-KL_j) + beta), the derivative of D: what has no
    counterpart has no say, and what only one cloud holds pulls nothing. As expectation maximisation does, it moves little
    where surfaces slide on one another, and there the hypothesis is mostly right. Motions that meet on the way go on as one.
    """
    last = len(settings.across) - 1
    rounds = zip(settings.across, settings.least_across, settings.asked, settings.iterations, strict=True)
    for number, (across, least, most, iterations) in enumerate(rounds):
        sides = _Side.of(source, most), _Side.of(target, most)
        width = max(across * max(source.spacing, target.spacing), least)
        matrices = _round(*sides, matrices, width, iterations, settings)
        if number < last and len(matrices) > 1:
            motions = RigidTransform.from_matrix(torch.from_numpy(matrices))
            apart = {"angle": settings.same_angle, "distance": settings.same_distance}
            matrices = matrices[first_apart(motions, len(matrices), **apart)]
    left, _, right = np.linalg.svd(matrices[:, :3, :3])  # hypotheses are rounded to float32
    matrices[:, :3, :3] = left @ right
    return matrices


def _round(
    source: _Side, target: _Side, matrices: np.ndarray, across: float, iterations: int, settings: DescentSettings
) -> np.ndarray:
    """Motions (H, 4, 4) after as many steps as they need, with components that deviate so much across their surface."""
    matrices, moving = matrices.copy(), np.arange(len(matrices))
    for _ in range(iterations):
        check()
        steps, centres = _steps(source, target, matrices[moving], (across, settings.along * across), settings)
        longest = np.abs(steps).max(axis=1)
        steps *= np.minimum(1.0, settings.stride / np.maximum(longest, 1e-30))[:, None]
        matrices[moving] = _stepped(matrices[moving], steps, centres)
        moving = moving[longest > settings.settled]
        if not len(moving):
            break
    return matrices


@dataclass(frozen=True, eq=False)
class _Side:
    """A surface, and those of its components that are asked for their counterparts."""

    level: Level
    points: np.ndarray  # (J, 3)
    axes: np.ndarray  # (J, 3)

    @classmethod
    def of(cls, level: Level, most: int) -> _Side:
        step = max(1, round(len(level) / most))
        return cls(level, level.points[::step], level.axes[::step])


def _steps(
    source: _Side, target: _Side, matrices: np.ndarray, lengths: tuple[float, float], settings: DescentSettings
) -> tuple[np.ndarray, np.ndarray]:
    """The steps (H, 6), a turn about each of the centres (H, 3) and a shift, and the centres."""
    points, residual, normals, kl = _meetings(source, target, matrices, lengths, settings)
    likeness = np.exp(-np.minimum(kl, _NEGLIGIBLE))
    weights = np.where(kl < _NEGLIGIBLE, likeness / (likeness + settings.background), 0.0)  # (H, M)
    total = weights.sum(axis=1)
    weighted = weights[..., None]
    centres = (weighted * points).sum(axis=1) / np.maximum(total, 1e-30)[:, None]
    arms = points - centres[:, None]
    jacobian = np.concatenate([np.cross(arms, normals), normals], axis=2)  # (H, M, 6)
    errors = np.einsum("hij,hij->hi", residual, normals)
    information = (weighted * jacobian).transpose(0, 2, 1) @ jacobian
    slope = np.einsum("hij,hi->hj", jacobian, weights * errors)
    # The disks are no lines: along the surface gaps count, too, by so much less. Arms add up to zero.
    along = (lengths[0] / lengths[1]) ** 2
    scatter = (weighted * arms).transpose(0, 2, 1) @ arms
    information *= 1 - along
    slope *= 1 - along
    information[:, :3, :3] += along * (np.trace(scatter, axis1=1, axis2=2)[:, None, None] * np.eye(3) - scatter)
    information[:, 3:, 3:] += along * total[:, None, None] * np.eye(3)
    slope[:, :3] += along * np.cross(arms, weighted * residual).sum(axis=1)
    slope[:, 3:] += along * (weighted * residual).sum(axis=1)
    damping = _DAMPING * np.trace(information, axis1=1, axis2=2) + 1e-30
    return -np.linalg.solve(information + damping[:, None, None] * np.eye(6), slope[..., None])[..., 0], centres


def _meetings(
    source: _Side, target: _Side, matrices: np.ndarray, lengths: tuple[float, float], settings: DescentSettings
) -> tuple[np.ndarray, ...]:
    """Of M components of both surfaces: moved places, residuals, mean normals (H, M, 3), and divergences (H, M)."""
    turns, shifts = matrices[:, :3, :3], matrices[:, None, :3, 3]
    back = turns.transpose(0, 2, 1)
    reach = settings.reach * lengths[1]
    here, there = source.points @ back + shifts, (target.points - shifts) @ turns
    forth, to = _nearest(target.level, here, reach)
    come, out_of = _nearest(source.level, there, reach)
    ends = source.level.points[out_of] @ back + shifts
    points = np.concatenate([here, ends], axis=1)
    residual = np.concatenate([here - target.level.points[to], ends - target.points], axis=1)
    own = np.concatenate([source.axes @ back, source.level.axes[out_of] @ back], axis=1)
    other = np.concatenate([target.level.axes[to], np.broadcast_to(target.axes, there.shape)], axis=1)
    cosine = np.einsum("hij,hij->hi", own, other)
    normals = np.where(cosine[..., None] < 0, -own, own) + other
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    height = np.einsum("hij,hij->hi", residual, normals) ** 2
    slid = np.einsum("hij,hij->hi", residual, residual) - height
    kl = (height / lengths[0] ** 2 + slid / lengths[1] ** 2) / 2
    kl += (1 - np.abs(cosine)) / settings.sigma_normal**2
    return points, residual, normals, np.where(np.isfinite(np.concatenate([forth, come], axis=1)), kl, np.inf)


def _nearest(level: Level, queries: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices (H, J) of the nearest components to queries (H, J, 3)."""
    distance, index = asked(Tree.within, level.tree, queries.reshape(-1, 3), reach)
    return distance.reshape(queries.shape[:2]), index.reshape(queries.shape[:2])


def _stepped(matrices: np.ndarray, steps: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Motions (H, 4, 4) after steps (H, 6) about centres (H, 3)."""
    turns = Rotation.from_rotvec(steps[:, :3]).as_matrix()
    moved = matrices.copy()
    moved[:, :3, :3] = turns @ matrices[:, :3, :3]
    moved[:, :3, 3] = ((turns @ (matrices[:, :3, 3] - centres)[..., None])[..., 0]) + centres + steps[:, 3:]
    return moved
