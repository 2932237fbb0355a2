"""How precise a motion is, from the residuals of the matched points: also where neighbours err together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.refine import moved
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
    where their disks are thin, as generalised ICP does, and neighbours share normals, bias and warp: see `_sandwich`.
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
    if same or len(x) < settings.fewest:
        terms = _points(arm, residual, unit)
    else:
        terms = _disks(arm, residual, (source.axes[close] @ matrix[:3, :3].T, normals), unit, settings)
    free, held = _directions(terms.plain, settings)
    if same or len(x) < settings.fewest:
        noise = (residual**2).sum() / max(3 * len(x) - 6, 1)
        covariance = noise * _inverse(terms.bread.sum(axis=0), held)
    else:
        spacing = max(source.spacing, target.spacing)
        covariance = _sandwich(terms, x, distance[close], radius, spacing, held, settings)
        near = distance[close] < settings.close * radius
        height = np.einsum("ij,ij->i", residual, normals) * np.sign(np.einsum("ij,ij->i", arm, normals))  # outwards
        bent = _shared(x[near], height[near], settings.bent_over * spacing, settings)
        covariance += ((settings.discretised * spacing) ** 2 + (settings.bent * bent) ** 2) * held @ held.T
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


@dataclass(frozen=True, eq=False)
class _Terms:
    """What each of N matches says of the six directions."""

    score: np.ndarray  # (N, 6) the slope of its cost
    bread: np.ndarray  # (N, 6, 6) how the slope changes with the motion
    plain: np.ndarray  # (N, 6, 6) the same, of matches that weigh the same: those that agree by chance do not stand out


def _points(arm: np.ndarray, residual: np.ndarray, unit: np.ndarray) -> _Terms:
    rows = np.stack([_row(arm, np.broadcast_to(axis, arm.shape)) * unit for axis in np.eye(3)], axis=1)  # (N, 3, 6)
    bread = np.einsum("nki,nkj->nij", rows, rows)
    return _Terms(np.einsum("nki,nk->ni", rows, residual), bread, bread)


def _disks(
    arm: np.ndarray,
    residual: np.ndarray,
    normals: tuple[np.ndarray, np.ndarray],
    unit: np.ndarray,
    settings: PolishSettings,
) -> _Terms:
    """Generalised ICP's, with S as in `polish._both_ways`.

    Matches change as surfaces slide, so that only the directions of the normals m and n hold. Their product m n^T, of
    two estimates that err apart, has the expectation of the true one; n n^T would see what holds in mere noise.
    """
    m, n = normals
    cosine = np.einsum("ij,ij->i", m, n)
    m, cosine = np.where(cosine[:, None] < 0, -m, m), np.abs(cosine).clip(max=1.0)
    a = 1 - settings.disk
    pull = residual / 2  # S^-1 r
    for sign, axis in ((1, m + n), (-1, m - n)):
        pull = pull + (a * np.einsum("ij,ij->i", axis, residual) / (8 - 4 * a * (1 + sign * cosine)))[:, None] * axis
    weight = 4 * a / (8 - 4 * a * (1 + cosine))
    product = np.einsum("ni,nj->nij", _row(arm, m) * unit, _row(arm, n) * unit)
    plain = (product + product.swapaxes(1, 2)) / 2
    return _Terms(_row(arm, pull) * unit, weight[:, None, None] * plain, plain)


def _directions(plain: np.ndarray, settings: PolishSettings) -> tuple[np.ndarray, np.ndarray]:
    """The directions (6, F) that nothing holds, or no more than chance would, and the others (6, 6 - F)."""
    values, vectors = np.linalg.eigh(plain.sum(axis=0))
    chance = np.sqrt((np.einsum("ik,nij,jk->nk", vectors, plain, vectors, optimize=True) ** 2).sum(axis=0))
    doubtful = (values <= settings.held * chance) & (values <= settings.nearly_slides * values[-1])
    free = doubtful | (values <= settings.slides * max(values[-1], 1e-300))
    return vectors[:, free], vectors[:, ~free]


def _inverse(bread: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Of a matrix (6, 6) in the directions that are held, zero in the others."""
    inside = held.T @ bread @ held
    values, vectors = np.linalg.eigh((inside + inside.T) / 2)
    basis = held @ vectors
    return (basis / np.maximum(values, 1e-6 * np.abs(values).max(initial=1e-300))) @ basis.T


def _sandwich(
    terms: _Terms,
    places: np.ndarray,
    distance: np.ndarray,
    radius: float,
    spacing: float,
    held: np.ndarray,
    settings: PolishSettings,
) -> np.ndarray:
    """The covariance (6, 6) of the estimate, robust to errors that neighbours share.

    B^-1 (sum_p s_p s_p^T) B^-1 with the sums of scores over patches p, each as it would be without what the patch
    itself pulled the fit (Cameron and Miller 2015, section VI.B, CV3): the more the errors of neighbours agree, the
    larger are the sums. Patches grow as long as there are enough of them, and in each direction the widest counts. Where
    that has not stopped growing, as with warps, it grows on: most of a warp moves all points alike, and the fit follows
    unseen. Then the ratio of Birge (1932): where fits of nearer and of farther matches differ, it widens, too.
    """
    near = distance < settings.close * radius
    score, bread = terms.score[near], terms.bread[near]
    inverse = _inverse(bread.sum(axis=0), held)
    first = widest = np.zeros((6, 6))
    for size in settings.patches:
        label = _patch(places[near], size * spacing)
        if widest.any() and label.max(initial=0) + 1 < settings.fewest_patches:
            break
        sums, breads = _summed(score, label), _summed(bread, label)
        without = (1 + 1e-3) * np.eye(6) - breads @ inverse
        sums = np.linalg.solve(without, sums[:, :, None])[:, :, 0] @ inverse
        widest = _union(widest, sums.T @ sums, held)
        first = first if first.any() else widest
    fits = []
    for reach in (1.0, settings.nearer):
        chosen = distance < reach * radius
        fits.append(_inverse(terms.bread[chosen].sum(axis=0), held) @ terms.score[chosen].sum(axis=0))
    apart = fits[0] - fits[1]
    disagreement = float(apart @ _inverse(widest, held) @ apart)
    growth = float(np.trace(_inverse(first, held) @ widest)) / max(held.shape[1], 1)
    grown = max(growth / settings.settles, 1.0) ** settings.grows_on
    few = 1 + settings.few / max(len(distance), 1)
    return grown * few * (settings.patchwise + settings.unstable * disagreement) * widest


def _shared(places: np.ndarray, height: np.ndarray, size: float, settings: PolishSettings) -> float:
    """The standard deviation of what neighbours within cubes have in common of heights (N,), less where it may be chance.

    Surfaces that are bent, or seen by a sensor that errs the same way all along a wall, lie apart by this much; by as
    much they move as a whole, which the fit follows and no residual shows. By analysis of variance between the cubes.
    """
    inside = np.abs(height) < 3 * 1.4826 * np.median(np.abs(height))
    if inside.sum() < settings.fewest:
        return 0.0
    height, label = height[inside], _patch(places[inside], size)
    count = np.bincount(label)
    mean = np.bincount(label, height) / count
    full = count >= settings.bent_members
    if full.sum() < settings.bent_patches:
        return 0.0
    within = np.bincount(label, (height - mean[label]) ** 2)[full].sum() / (count[full] - 1).sum()
    between = float(np.mean(mean[full] ** 2 - within / count[full]))
    if between <= 0:
        return 0.0
    return float(np.sqrt(between) * min(1.0, np.sqrt(between) / (settings.plainly * height.std())))


def _union(a: np.ndarray, b: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The least covariance of a family that covers both: in the basis where both are diagonal, the larger of each."""
    if not a.any():
        return b
    values, vectors = np.linalg.eigh(held.T @ a @ held)
    root = held @ vectors * np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    whiten = held @ vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    ratio, turned = np.linalg.eigh(whiten.T @ b @ whiten)
    basis = root @ turned
    return (basis * np.maximum(ratio, 1.0)) @ basis.T


def _patch(places: np.ndarray, size: float) -> np.ndarray:
    """Which cube of this side each of places (N, 3) lies in, counted from zero."""
    cells = np.floor((places - places.min(axis=0)) / size + 0.5).astype(np.int64)
    across = cells.max(axis=0) + 1
    return np.unique((cells[:, 0] * across[1] + cells[:, 1]) * across[2] + cells[:, 2], return_inverse=True)[1]


def _summed(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The sums of values (N, ...) with the same label (N,)."""
    order = np.argsort(label, kind="stable")
    return np.add.reduceat(values[order], np.flatnonzero(np.diff(label[order], prepend=-1)))


def _observability(arm: np.ndarray, directions: list[np.ndarray], lever: float) -> float:
    """Least over largest eigenvalue of the information of point-to-plane residuals, about the centre."""
    if lever <= 0:
        return 0.0
    rows = np.concatenate([_row(arm, np.broadcast_to(n, arm.shape)) for n in directions])
    information = rows.T @ rows
    scale = np.repeat([1 / lever, 1.0], 3)
    values = np.linalg.eigvalsh(information * np.outer(scale, scale))
    return float(max(values[0], 0.0) / values[-1]) if values[-1] > 0 else 0.0


def _row(arm: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """(N, 6) how far a twist about the centre moves points (N, 3) along axes (N, 3)."""
    return np.hstack([cross(arm, axis), axis])


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross products of (N, 3) and (N, 3); NumPy's own takes three times as long."""
    (x, y, z), (u, v, w) = a.T, b.T
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=1)
