"""The winner at the resolution of the data, and what the points say of its precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.partial import descend_together
from deepgmr.pipeline.refine import descend, matches, moved, pull
from deepgmr.pipeline.sandwich import cross, spread
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import DescentSettings, PolishSettings, RefineSettings
from deepgmr.pipeline.uncertainty import Uncertainty, observe


@dataclass(frozen=True, eq=False)
class Polished:
    """The final motion in the pair's frame, and what the points say of its precision."""

    target_from_source: RigidTransform  # float64
    uncertainty: Uncertainty


def polish(
    source: Level,
    target: Level,
    initial: RigidTransform,
    *,
    sparse: Level,
    reach: float,
    settings: PolishSettings,
    refinement: RefineSettings,
    descent: DescentSettings | None = None,
) -> Polished:
    """Generalised ICP of the finest levels from a motion that is already close.

    `reach` is the precision of the initial motion, frame units; `sparse` is the source at the level that it was found
    at, which is enough to come within the reach of a narrow fit. With no iterations the motion stays as it is and is
    only observed. Where the clouds turn out to hold the very same points, the last steps are closed-form
    point-to-point ones, which are exact where surfaces can only slide.
    """
    matrix = initial.matrix.double().numpy()
    narrow = min(reach, max(settings.narrow * target.spacing, settings.least_narrow * reach))
    same = False
    if settings.iterations:
        rounds = [(sparse, reach), (source, narrow)] if min(len(source), len(target)) > refinement.tiny else []
        if rounds and descent is not None:
            matrix = _together(source, target, matrix, reach, descent)
        for level, radius in rounds if descent is None else ():
            matrix = descend(
                level,
                target,
                matrix[None],
                radius,
                iterations=settings.iterations,
                settled=settings.nearly_settled,
                dwarf=refinement.dwarf,
            )[0]
        matrix, same = _point_to_point(source, target, matrix, settings, tiny=refinement.tiny, steps=refinement.pulls)
        if rounds and descent is None and not same:
            matrix = _both_ways(source, target, matrix, settings.close * narrow, settings)
    uncertainty = observe(source, target, matrix, radius=narrow, same=same, settings=settings)
    return Polished(RigidTransform.from_matrix(torch.from_numpy(matrix)), uncertainty)


def _together(source: Level, target: Level, matrix: np.ndarray, reach: float, settings: DescentSettings) -> np.ndarray:
    """The motion (4, 4) pulled to where both surfaces meet best, from widths that its precision asks for to the last."""
    wide = reach / (settings.along * max(source.spacing, target.spacing))
    widths = [settings.across[-1]]
    while widths[0] < wide:
        widths.insert(0, 2 * widths[0])
    settings = replace(
        settings,
        across=tuple(widths),
        least_across=(0.0,) * len(widths),
        asked=(max(len(source), len(target)),) * len(widths),
        iterations=(settings.iterations[-1],) * len(widths),
        settled=settings.at_last,
    )
    return descend_together(source, target, matrix[None], settings)[0]


def _point_to_point(
    source: Level, target: Level, start: np.ndarray, settings: PolishSettings, *, tiny: int, steps: int
) -> tuple[np.ndarray, bool]:
    """Closed-form steps on nearest pairs, kept only if they show the points of the clouds to be the same ones."""
    spacing = target.spacing
    probes = source.points[:: max(1, len(source) // settings.probes)]
    gap = target.tree.nearest(moved(probes, start))[0]
    if len(source) > tiny and np.quantile(gap, settings.nearest) > settings.looks_same * spacing:
        return start, False  # other samples lie half a spacing apart
    matrix = pull(source.points, target.tree, start, spacing, steps)
    distance, _ = target.tree.within(moved(source.points, matrix), spacing)
    close = np.isfinite(distance)
    same = bool(close.sum() >= 3 and np.sqrt(np.mean(distance[close] ** 2)) < settings.is_same * spacing)
    return (matrix, True) if same else (start, False)


def _both_ways(source: Level, target: Level, matrix: np.ndarray, reach: float, settings: PolishSettings) -> np.ndarray:
    """A few steps of Gauss and Newton on generalised ICP with matches from either cloud, and disks as thick as they are.

    A match with normals m and n costs r^T S^-1 r / 2 with S = 2 I - a (m m^T + n n^T), a one less the thickness of the
    disks, as a share of their width, both variances. The thickness follows from how far matches lie apart across the
    surfaces and along them: where noise or curvature lifts the points off their planes, thin disks would see rotations
    that are not there.
    """
    for _ in range(settings.steps):
        x, m, y, n = matches(source, target, matrix, reach)
        if len(x) < settings.fewest:
            break
        cosine = np.einsum("ij,ij->i", m, n)
        m, cosine = np.where(cosine[:, None] < 0, -m, m), np.abs(cosine).clip(max=1.0)
        residual, middle = x - y, m + n
        across, along = spread(residual, m, n)
        a = 1 - float(np.clip(settings.thickness * across / along, settings.thinnest, 1.0))
        # S^-1 = I / 2 + p (m + n)(m + n)^T + q (m - n)(m - n)^T
        p, q = (np.sqrt(a / (8 - 4 * a * (1 + sign * cosine)))[:, None] for sign in (1, -1))
        centre = x.mean(axis=0)
        arm = x - centre
        directions = p * middle, q * (m - n)
        jacobian = np.concatenate([np.hstack([cross(arm, each), each]) for each in directions])  # (2 matches, 6)
        errors = np.concatenate([np.einsum("ij,ij->i", residual, each) for each in directions])
        scatter = arm.T @ arm
        information = jacobian.T @ jacobian  # and of the I / 2, for which the arms add up to zero:
        information[:3, :3] += (np.trace(scatter) * np.eye(3) - scatter) / 2
        information[3:, 3:] += len(x) * np.eye(3) / 2
        slope = jacobian.T @ errors + np.concatenate([cross(arm, residual).sum(0), residual.sum(0)]) / 2
        damping = settings.free * np.trace(information) * np.eye(6)
        step = -np.linalg.solve(information + damping, slope)
        turn = Rotation.from_rotvec(step[:3]).as_matrix()
        matrix = np.block(
            [[turn @ matrix[:3, :3], (turn @ (matrix[:3, 3] - centre) + centre + step[3:])[:, None]], [0, 0, 0, 1]]
        )
        if np.abs(step).max() < settings.settled:
            break
    return matrix
