"""Rotations that carry dominant normals onto dominant normals, and translations by phase correlation.

Scenes that people build have a few directions that most surfaces face. As in Makadia, Patterson and Daniilidis (CVPR
2006), normals give the rotations and correlated occupancies the translations; the spectrum is whitened (Kuglin and Hines
1975), so that what is rare decides, not the long walls and floors that slide along one another. Needs no descriptor
and little overlap, but surfaces that share directions.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch

from deepgmr.geometry.transform import RigidTransform, first_apart
from deepgmr.pipeline.pace import check
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import CorrelationSettings

_HIGH, _MANY = 0.3, 16  # share of the highest from which a cell may be a peak; how many are looked at for one
_EVERY = 16  # cell of which the others' values are guessed from


@dataclass(frozen=True, eq=False)
class Turns:
    """Rotations that carry dominant normals of the source onto those of the target."""

    rotations: np.ndarray  # (R, 3, 3)
    upright: np.ndarray  # (3, 3) lays the target's dominant directions along the axes: its walls fill layers of cells

    @classmethod
    def of(
        cls,
        source: np.ndarray,
        target: np.ndarray,
        prior: Prior,
        settings: CorrelationSettings,
        *,
        evident: bool = False,
    ) -> Turns:
        """From normals (J, 3), (K, 3) of either cloud, not necessarily of all of it; none where no direction dominates.

        If `evident`, a direction has to dominate by far, and rotations that match the directions less well are left out.
        """
        here = dominant(source, settings)
        there = dominant(target, settings) if len(here[0]) else here
        if not len(there[0]) or (evident and min(here[1][0], there[1][0]) < settings.evident):
            return cls(np.zeros((0, 3, 3)), np.eye(3))
        turns = rotations(here, there, settings, least=settings.alike if evident else 0.0)
        return cls(turns[prior.allows(torch.from_numpy(turns)).numpy()], _upright(there[0]))


def correlated_motions(
    source: Level, target: Level, turns: Turns, settings: CorrelationSettings
) -> tuple[RigidTransform, float]:
    """The motions (H,) at the highest peaks of phase correlation, highest first, and the size of the cells."""
    if not len(turns.rotations):
        return RigidTransform.identity((0,), dtype=torch.float64), 0.0
    spacing = max(source.spacing, target.spacing)
    grid = turns.upright
    goal = grid @ target.points.T  # (3, K): whole rows are the faster to look through
    low = goal.min(axis=1)
    extent = goal.max(axis=1) - low
    spectra: dict[tuple[int, ...], tuple[float, np.ndarray]] = {}
    heights, shifts, chosen = [], [], []
    for number, turn in enumerate(turns.rotations):
        check()
        turned = (grid @ turn) @ source.points.T
        start = turned.min(axis=1)
        room = turned.max(axis=1) - start + extent  # free of wrapping round
        size = cell_size(room, spacing, settings)
        shape = tuple(scipy.fft.next_fast_len(int(length / size) + 2, real=True) for length in room)
        if shape not in spectra:
            spectra[shape] = size, _spectrum(goal - low[:, None], size, shape)
        size, spectrum = spectra[shape]
        cross = np.conj(_spectrum(turned - start[:, None], size, shape)) * spectrum
        strength = np.abs(cross)
        cross /= np.maximum(strength, settings.floor * strength.max())
        peaks, height = _peaks(scipy.fft.irfftn(cross, shape), settings.peaks)
        shape_of_target = np.ceil(extent / size) + 1
        steps = np.where(peaks >= shape_of_target, peaks - np.array(shape), peaks)
        heights.append(height)
        shifts.append(steps * size + low - start)
        chosen.append(np.full(len(peaks), number))
    order = np.argsort(-np.concatenate(heights), kind="stable")[: settings.kept]
    motions = RigidTransform(
        torch.from_numpy(turns.rotations[np.concatenate(chosen)[order]]),
        torch.from_numpy(np.concatenate(shifts)[order] @ grid),
    )
    return motions, max(size for size, _ in spectra.values())


def cell_size(sides: np.ndarray, spacing: float, settings: CorrelationSettings) -> float:
    """Of cells that a box of three sides has about as many of as it may, however thin it is; or a few spacings."""
    cells = np.cumprod(np.sort(sides)[::-1]) / settings.cells  # of size one, by its longest side, two and all of them
    return float(max(*cells ** (1 / np.arange(1, 4)), settings.voxel * spacing))


def dominant(axes: np.ndarray, settings: CorrelationSettings) -> tuple[np.ndarray, np.ndarray]:
    """The directions (P, 3) that most of the axes (J, 3) share, signs left out, and how many times chance they do."""
    sample = axes[:: max(1, len(axes) // settings.counted)].astype(np.float32)
    density = np.exp(settings.sharpness * ((sample @ sample.T) ** 2 - 1)).mean(axis=1)
    # What uniform directions give: the mean of exp(k (x^2 - 1)) over x in [0, 1].
    grid = (np.arange(1000) + 0.5) / 1000
    chance = float(np.exp(settings.sharpness * (grid**2 - 1)).mean())
    free, found, weights = np.ones(len(sample), dtype=bool), list[np.ndarray](), list[float]()
    while len(found) < settings.directions and free.any():
        best = int(np.argmax(np.where(free, density, -1.0)))
        if density[best] < settings.salient * chance:
            break
        centre = sample[best].astype(np.float64)
        for step in range(settings.shifts):  # ever narrower: across a hundred metres a degree is two metres
            weight = np.exp(settings.sharpness * settings.narrower**step * ((axes @ centre) ** 2 - 1))
            centre = np.linalg.eigh((axes * weight[:, None]).T @ axes)[1][:, -1]
        found.append(centre)
        weights.append(density[best] / chance)
        free &= np.abs(sample @ centre) < math.cos(settings.apart)
        free[best] = False
    return np.array(found).reshape(-1, 3), np.array(weights)


def rotations(
    source: tuple[np.ndarray, np.ndarray],
    target: tuple[np.ndarray, np.ndarray],
    settings: CorrelationSettings,
    *,
    least: float = 0.0,
) -> np.ndarray:
    """Different rotations (R, 3, 3) that carry two directions onto two, those that carry most weight onto weight first.

    Where a cloud has but one direction, turns about it in equal steps. `least` is the share of the most weight that a
    rotation has to carry.
    """
    (a, v), (b, w) = source, target
    if not len(a) or not len(b):
        return np.zeros((0, 3, 3))
    both = np.concatenate([b, -b])
    if min(len(a), len(b)) == 1:
        steps = np.arange(settings.turns) * (2 * math.pi / settings.turns)
        found = [_frame(two, _across(two, step)) @ _frame(a[0], _across(a[0], 0.0)).T for two in both for step in steps]
        return np.array(found)[: settings.rotations]
    found = []
    cosines = both @ both.T
    angles, apart = np.arccos(np.clip(cosines, -1, 1)), np.abs(cosines) < math.cos(settings.tolerance)
    for i, j in itertools.combinations(range(len(a)), 2):
        between = math.acos(np.clip(a[i] @ a[j], -1, 1))
        here, there = np.nonzero((np.abs(angles - between) < settings.tolerance) & apart)
        found.append(_frame(both[here], both[there]) @ _frame(a[i], a[j]).T)
    turns = np.concatenate(found)
    if not len(turns):
        return turns
    cosines = np.einsum("rij,pj,qi->rpq", turns, a, b)
    score = (np.exp(settings.sharpness * (cosines**2 - 1)) * np.sqrt(np.outer(v, w))).sum(axis=(1, 2))
    order = np.argsort(-score, kind="stable")
    order = order[score[order] >= least * score[order[0]]]
    ordered = torch.from_numpy(turns[order])
    about_one_place = RigidTransform(ordered, torch.zeros(len(ordered), 3, dtype=ordered.dtype))
    return turns[order][first_apart(about_one_place, settings.rotations, angle=settings.tolerance, distance=1.0)]


def _upright(directions: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) that lays the first of the directions (P, 3) and the next most upright on it along axes."""
    first = directions[0]
    across = np.abs(directions @ first) < 0.5
    return _frame(first, directions[across][0] if across.any() else _across(first, 0.0)).T


def _frame(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Rotations (*B, 3, 3) whose first axis is `one` (*B, 3) and whose first two span `one` and `two` (*B, 3)."""
    second = two - (two * one).sum(-1, keepdims=True) * one
    second /= np.linalg.norm(second, axis=-1, keepdims=True)
    return np.stack([one, second, np.cross(one, second)], axis=-1)


def _across(axis: np.ndarray, angle: float) -> np.ndarray:
    """A unit vector (3,) perpendicular to an axis, `angle` round from one that depends on the axis alone."""
    first = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    first /= np.linalg.norm(first)
    return math.cos(angle) * first + math.sin(angle) * np.cross(axis, first)


def _spectrum(points: np.ndarray, size: float, shape: tuple[int, ...]) -> np.ndarray:
    """Of the occupied cells of a size; points (3, N) have no coordinate below zero."""
    cells = np.zeros(shape, dtype=np.float32)
    cells[tuple((points * (1 / size)).astype(np.int64))] = 1.0
    return scipy.fft.rfftn(cells)


def _peaks(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where (P, 3) the highest values lie, neighbours of higher ones left out, and how many deviations high (P,)."""
    flat = values.ravel()
    deviation = math.sqrt(float(flat @ flat) / len(flat))
    high = np.flatnonzero(flat > _HIGH * float(flat.max()))
    if len(high) < count or len(high) > _MANY * count:
        some = np.sort(flat[::_EVERY])[::-1]
        high = np.flatnonzero(flat >= some[min(_MANY * count // _EVERY, len(some) - 1)])
    high = high[np.argsort(-flat[high], kind="stable")]
    places = np.stack(np.unravel_index(high, values.shape), axis=1)
    near = np.logical_and.reduce([np.abs(axis[:, None] - axis) <= 1 for axis in places.T])
    free, kept = np.ones(len(high), dtype=bool), []
    for i in range(len(high)):
        if free[i]:
            kept.append(i)
            if len(kept) == count:
                break
            free &= ~near[i]
    return places[kept], flat[high[kept]] / deviation
