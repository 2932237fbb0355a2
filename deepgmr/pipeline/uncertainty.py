"""How precise a motion is, from the residuals of the matched points: also where neighbours err together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.refine import matches, moved
from deepgmr.pipeline.sandwich import (
    common,
    disk_terms,
    inverted,
    plain_information,
    point_terms,
    row,
    sandwich,
    spread,
)
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import PolishSettings


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Of a motion, about the centre of the points that are matched; lengths in units of the frame."""

    centre: np.ndarray  # (3,)
    covariance: np.ndarray  # (6, 6) of (rotation vector, translation), left, finite where a direction is free
    free: np.ndarray  # (F, 6) twists that nothing holds, orthonormal where rotations are measured by what they move
    lever: float  # how far the points are from the centre, root mean square of a coordinate
    observability: float  # least over largest eigenvalue of the information of the matched points


def observe(
    source: Level, target: Level, matrix: np.ndarray, *, radius: float, same: bool, settings: PolishSettings
) -> Uncertainty:
    """What the points of the moved source and the nearest of the target within `radius` say of the motion.

    Points known to be the `same` ones, and few ones, measure all three directions each on its own. Surfaces measure
    where their disks are thin, as generalised ICP does, and neighbours share normals, bias and warp: see `sandwich`.
    """
    points = moved(source.points, matrix)
    distance, index = target.tree.within(points, radius)
    close = np.isfinite(distance)
    x, residual, normals = points[close], points[close] - target.points[index[close]], target.axes[index[close]]
    centre = x.mean(axis=0) if len(x) else np.zeros(3)
    arm = x - centre
    lever = float(np.sqrt(np.mean(arm**2))) if len(x) >= 3 else 0.0
    observability = _observability(arm, [*np.eye(3)] if same else [normals], lever)
    unit = np.repeat([1 / lever if lever > 0 else 1.0, 1.0], 3)  # rotations by how far they move the points
    few = same or (distance < settings.close * radius).sum() < settings.fewest
    if few:
        information = point_terms(arm, residual, unit).bread
    else:
        information = plain_information(arm, source.axes[close] @ matrix[:3, :3].T, normals, unit)
    free, held = _directions(information, settings)
    if few:
        noise = (residual**2).sum() / max(3 * len(x) - 6, 1)
        covariance = noise * inverted(information.sum(axis=0), held)
    else:
        covariance = _of_surfaces(source, target, matrix, settings.close * radius, centre, unit, held, settings)
    covariance += settings.rounding**2 * np.eye(6) + free @ free.T / settings.least_information
    return Uncertainty(centre, covariance * np.outer(unit, unit), (free * unit[:, None]).T, lever, observability)


def observability(source: Level, target: Level, motion: RigidTransform, *, radius: float) -> float:
    """Least over largest eigenvalue of the information that matches within a radius hold of a motion as it is."""
    points = moved(source.points, motion.matrix.double().numpy())
    distance, index = target.tree.within(points, radius)
    close = np.isfinite(distance)
    arm = points[close] - points[close].mean(axis=0) if close.any() else np.zeros((0, 3))
    lever = float(np.sqrt(np.mean(arm**2))) if len(arm) >= 3 else 0.0
    return _observability(arm, [target.axes[index[close]]], lever)


def _of_surfaces(
    source: Level,
    target: Level,
    matrix: np.ndarray,
    reach: float,
    centre: np.ndarray,
    unit: np.ndarray,
    held: np.ndarray,
    settings: PolishSettings,
) -> np.ndarray:
    """The covariance (6, 6), in units (6,) of twists about a centre, of the fit that `polish` ends with."""
    x, m, y, n = matches(source, target, matrix, reach)
    arm, residual = x - centre, x - y
    forward = np.arange(len(x)) < np.isfinite(target.tree.within(moved(source.points, matrix), reach)[0]).sum()
    spacing = max(source.spacing, target.spacing)
    across, along = spread(residual, m, n)
    thickness = float(np.clip(settings.thickness * across / along, settings.thinnest, settings.thickest))
    covariance = sandwich(
        disk_terms(arm, residual, m, n, unit, thickness),
        arm,
        forward,
        spacing=spacing,
        along=np.sqrt(along),
        even=settings.random_gaps - _gaps(target),
        held=held,
        settings=settings,
    )
    height = np.einsum("ij,ij->i", residual, n) * np.sign(np.einsum("ij,ij->i", arm, n))  # outwards
    whole = common(x[forward], height[forward], spacing, settings)
    return covariance + whole**2 * held @ held.T


def _gaps(level: Level) -> float:
    """The standard deviation of the logarithm of the distance to the nearest other component."""
    some = level.points[:: max(1, len(level) // 1000)]
    return float(np.std(np.log(np.maximum(level.tree.nearest(some, 2)[0][:, 1], 1e-9))))


def _directions(plain: np.ndarray, settings: PolishSettings) -> tuple[np.ndarray, np.ndarray]:
    """The directions (6, F) that nothing holds, or no more than chance would, and the others (6, 6 - F)."""
    values, vectors = np.linalg.eigh(plain.sum(axis=0))
    chance = np.sqrt((np.einsum("ik,nij,jk->nk", vectors, plain, vectors, optimize=True) ** 2).sum(axis=0))
    doubtful = (values <= settings.held * chance) & (values <= settings.nearly_slides * values[-1])
    free = doubtful | (values <= settings.slides * max(values[-1], 1e-300))
    return vectors[:, free], vectors[:, ~free]


def _observability(arm: np.ndarray, directions: list[np.ndarray], lever: float) -> float:
    """Least over largest eigenvalue of the information of point-to-plane residuals, about the centre."""
    if lever <= 0:
        return 0.0
    rows = np.concatenate([row(arm, np.broadcast_to(n, arm.shape)) for n in directions])
    information = rows.T @ rows
    scale = np.repeat([1 / lever, 1.0], 3)
    values = np.linalg.eigvalsh(information * np.outer(scale, scale))
    return float(max(values[0], 0.0) / values[-1]) if values[-1] > 0 else 0.0
