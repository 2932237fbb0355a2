"""The similarity near a rigid motion: by how much the source would have to be larger to fit better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from deepgmr.geometry.procrustes import align_similar
from deepgmr.pipeline.refine import matches, moved
from deepgmr.pipeline.sandwich import cross, summed
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import PolishSettings, ScaleSettings

_FEWEST = 10  # matches
_DEVIATION = 1.4826  # standard deviations of a normal variable per median of its size
_EXACT = 1e-6  # spacings, below which points are the same
_NEAR = 0.95  # how far closed-form steps may take the scale
_TINY = np.finfo(float).tiny


@dataclass(frozen=True, eq=False)
class Stretch:
    """`x_target = R (factor x_source) + t` in the pair's frame, and what the points say of the factor."""

    matrix: np.ndarray  # (4, 4) rigid: R, t
    factor: float
    deviation: float  # standard deviation of the factor's logarithm; infinite where nothing holds it
    swing: np.ndarray  # (6,) how the twist (rotation vector, translation) about the centre follows the logarithm


def stretch(
    source: Level,
    target: Level,
    matrix: np.ndarray,
    reach: float,
    settings: ScaleSettings,
    *,
    same: PolishSettings,
    least: float = 0.0,
) -> Stretch:
    """Gauss and Newton on point-to-plane distances over similarities, from a rigid motion (4, 4) within `reach`.

    Matches from either cloud, along the mean of their normals, weighed by Cauchy's function of their distance. Where
    the clouds turn out to hold the very same points (as settings of the polish say), the last steps are closed-form
    ones (Umeyama 1991, eq. 40-42), which are exact. Of a factor whose logarithm is no larger than `least` the deviation
    is not asked for: it is infinite.
    """
    rigid, factor = matrix, 1.0
    for _ in range(settings.steps):
        terms = _terms(source, target, rigid, factor, reach)
        if terms is None:
            return Stretch(matrix, 1.0, math.inf, np.zeros(6))
        x, jacobian, residual, weight = terms
        centre = x.mean(axis=0)
        information = jacobian.T @ (weight[:, None] * jacobian)
        information += (settings.damping * np.trace(information) + _TINY) * np.eye(7)
        step = -np.linalg.solve(information, jacobian.T @ (weight * residual))
        step *= min(1.0, settings.stride / max(np.abs(step).max(), 1e-300))
        turn, grown = Rotation.from_rotvec(step[:3]).as_matrix(), math.exp(step[6])
        change = np.eye(4)
        change[:3, :3] = turn
        # x -> grown turn (x - centre) + centre + shift, with `grown` taken out of the translation of the rigid part
        change[:3, 3] = centre + step[3:6] - grown * turn @ centre
        rigid = change @ np.block([[rigid[:3, :3], grown * rigid[:3, 3:]], [np.zeros((1, 3)), np.ones((1, 1))]])
        factor *= grown
        if np.abs(step).max() < settings.settled:
            break
    rigid, factor = _exact(source, target, rigid, factor, same)
    if abs(math.log(factor)) < least:
        return Stretch(rigid, factor, math.inf, np.zeros(6))
    return _observed(source, target, rigid, factor, reach, settings)


def _terms(
    source: Level, target: Level, matrix: np.ndarray, factor: float, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """M matches: moved source (M, 3), derivatives about the centre (M, 7), residuals and weights (M,); None if too few."""
    x, m, y, n = matches(source, target, matrix, reach, factor=factor)
    if len(x) < _FEWEST:
        return None
    cosine = np.einsum("ij,ij->i", m, n)
    middle = np.where(cosine[:, None] < 0, n - m, n + m)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)  # at least the square root of two long
    arm = x - x.mean(axis=0)
    residual = np.einsum("ij,ij->i", x - y, middle)
    jacobian = np.hstack([cross(arm, middle), middle, np.einsum("ij,ij->i", arm, middle)[:, None]])
    typical = _DEVIATION * float(np.median(np.abs(residual))) + np.finfo(float).eps  # frame units: rounding is no error
    weight = np.abs(cosine) / (1 + np.square(residual / (2 * typical)))
    return x, jacobian, residual, weight


def _exact(
    source: Level, target: Level, matrix: np.ndarray, factor: float, settings: PolishSettings
) -> tuple[np.ndarray, float]:
    """Closed-form steps on nearest pairs, kept only if they show the points of the clouds to be the same ones."""
    rigid, grown = matrix, factor
    for _ in range(settings.steps + 1):
        there = moved(grown * source.points, rigid)
        distance, index = target.tree.within(there, target.spacing)
        close = np.isfinite(distance)
        if close.sum() < 4 or np.median(distance[close]) > settings.is_same * target.spacing:
            return matrix, factor
        grown, turn, shift = align_similar(source.points[close], target.points[index[close]], np.ones(close.sum()))
        if not _NEAR < grown / factor < 1 / _NEAR:
            return matrix, factor  # what is matched with few points falls together on them
        rigid = np.block([[turn, shift[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    return rigid, grown


def _observed(
    source: Level, target: Level, matrix: np.ndarray, factor: float, reach: float, settings: ScaleSettings
) -> Stretch:
    """The deviation of the factor by sums over patches, within which errors agree: `sandwich.sandwich`, in short."""
    terms = _terms(source, target, matrix, factor, reach)
    if terms is None:
        return Stretch(matrix, factor, math.inf, np.zeros(6))
    x, jacobian, residual, weight = terms
    lever = float(np.sqrt(np.mean((x - x.mean(axis=0)) ** 2))) + _TINY
    unit = np.repeat([1 / lever, 1.0, 1 / lever], [3, 3, 1])
    jacobian = jacobian * unit
    information = jacobian.T @ (weight[:, None] * jacobian)
    values, vectors = np.linalg.eigh(information)
    if np.abs(vectors[6, values < settings.slides * values[-1]]).max(initial=0.0) > settings.leans:
        return Stretch(matrix, factor, math.inf, np.zeros(6))
    inverse = np.linalg.pinv(information, rcond=settings.slides, hermitian=True)
    cells = np.floor(x / (settings.patch * max(source.spacing, target.spacing)))
    label = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
    sums = summed((weight * residual)[:, None] * jacobian, label)
    deviation = settings.correlated * float(np.linalg.norm(sums @ inverse[:, 6])) / lever
    swing = np.linalg.pinv(information[:6, :6], rcond=settings.slides, hermitian=True) @ -information[:6, 6]
    floor = settings.discretised * bool(np.median(np.abs(residual)) > _EXACT * source.spacing)
    return Stretch(matrix, factor, math.hypot(deviation, floor), swing * unit[:6] * lever)
