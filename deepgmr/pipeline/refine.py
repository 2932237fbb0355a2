"""Hypotheses pulled to local minima: generalised ICP on the components."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import small_gicp
import torch

from deepgmr.geometry.neighbours import Tree
from deepgmr.geometry.procrustes import align_few
from deepgmr.geometry.transform import RigidTransform, first_apart
from deepgmr.io.quiet import quiet_descriptor
from deepgmr.pipeline.cohort import asked
from deepgmr.pipeline.pace import check
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import RefineSettings

_SCANTY = 10  # points up to which small_gicp complains of too few, on stderr


def refine(
    motions: RigidTransform, source: Level, target: Level, prior: Prior, settings: RefineSettings
) -> RigidTransform:
    """Pull each of the motions (H,) to its nearest fit of the components, by generalised ICP (Segal et al. 2009).

    With the nearest components as matches d this descends sum_j d_j^T (Q_j + R P_j R^T)^-1 d_j / 2: in the places of the
    components the least sum of two same-index bounds, from a mixture in the middle to both clouds (docs/method.md).
    Two rounds: a wide one that forgives the coarseness of a hypothesis, for which some of the source is enough, and a
    narrow one that forgets what does not overlap. Motions that meet on the way go on as one. Those that leave what
    the prior allows are dropped.
    """
    spacing = max(source.spacing, target.spacing)
    matrices = motions.matrix.double().numpy()
    if min(len(source), len(target)) <= settings.tiny:
        reach = settings.reaches[-1] * spacing
        matrices = np.stack([pull(source.points, target.tree, each, reach, settings.pulls) for each in matrices])
        return prior.apply(RigidTransform.from_matrix(torch.from_numpy(matrices)))
    some = source.thinned(max(1, round(len(source) / settings.thinned)), fewest=settings.thinned_normals)
    last = len(settings.reaches) - 1
    for number, (reach, least) in enumerate(zip(settings.reaches, settings.least_reaches, strict=True)):
        fitted = descend(
            source if number == last else some,
            target,
            matrices,
            max(reach * spacing, least),
            iterations=settings.iterations,
            settled=settings.settled if number == last else settings.nearly_settled,
            dwarf=settings.dwarf,
        )
        motions = RigidTransform.from_matrix(torch.from_numpy(fitted))
        if number < last:
            met = first_apart(motions, len(matrices), angle=settings.same_angle, distance=settings.same_distance)
            matrices = motions.matrix[met].numpy()
    return prior.apply(motions)


def descend(
    source: Level, target: Level, starts: np.ndarray, reach: float, *, iterations: int, settled: float, dwarf: float
) -> np.ndarray:
    """Generalised ICP of the source onto the target from motions (H, 4, 4); of the smaller onto a much larger one.

    small_gicp's tree visits all of a cloud for a point that is far from everything in it, so a dwarf has to move.
    """
    if source.extent > dwarf * target.extent:
        return np.linalg.inv(asked(align, target, source, np.linalg.inv(starts), reach, iterations, settled))
    return asked(align, source, target, starts, reach, iterations, settled)


def align(
    source: Level, target: Level, starts: np.ndarray, reach: float, iterations: int, settled: float
) -> np.ndarray:
    """Generalised ICP by small_gicp from each of motions (H, 4, 4)."""
    return np.stack([_align(source, target, start, reach, iterations, settled) for start in starts])


def _align(
    source: Level, target: Level, start: np.ndarray, reach: float, iterations: int, settled: float
) -> np.ndarray:
    check()
    # One thread: the sums of several threads depend on their order, and the same input must give the same bytes.
    with quiet_descriptor() if min(len(source), len(target)) <= _SCANTY else nullcontext():
        result = small_gicp.align(
            target.cloud,
            source.cloud,
            target.tree.tree,
            start,
            registration_type="GICP",
            max_correspondence_distance=reach,
            num_threads=1,
            max_iterations=iterations,
            rotation_epsilon=settled,
            translation_epsilon=settled,
        )
    return tidied(np.array(result.T_target_source), start, result.num_inliers)


def tidied(matrix: np.ndarray, start: np.ndarray, inliers: int) -> np.ndarray:
    """A fitted motion (4, 4) without the rounding that many small steps leave in the rotation, or its start."""
    if inliers < 3 or not np.isfinite(matrix).all():
        return start  # nothing within reach: the hypothesis stays as it was and is ranked as such
    left, _, right = np.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = left @ right
    return matrix


def pull(source: np.ndarray, target: Tree, matrix: np.ndarray, reach: float, steps: int) -> np.ndarray:
    """Point-to-point ICP (Besl and McKay 1992) of points (N, 3) until it stands still."""
    for _ in range(steps):
        distance, index = target.within(moved(source, matrix), reach)
        close = np.isfinite(distance)
        if close.sum() < 3:
            break
        previous, matrix = matrix, np.eye(4)
        pairs = source[close], target.points[index[close]]
        matrix[:3, :3], matrix[:3, 3] = align_few(*pairs, np.ones(len(pairs[0])), previous[:3, :3])
        if np.abs(matrix - previous).max() < 1e-12:
            break
    return matrix


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (N, 3) under a motion (4, 4)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def matches(
    source: Level, target: Level, matrix: np.ndarray, reach: float, *, factor: float = 1.0
) -> tuple[np.ndarray, ...]:
    """Each component of either cloud with its nearest within reach: moved source, its normals, target, its normals.

    The source is taken `factor` times as large before it is moved.
    """
    x, m = moved(factor * source.points, matrix), source.axes @ matrix[:3, :3].T
    forward, there = target.tree.within(x, reach)
    backward, here = source.tree.within((target.points - matrix[:3, 3]) @ matrix[:3, :3] / factor, reach / factor)
    forth, back = np.isfinite(forward), np.isfinite(backward)
    own, other = (
        np.concatenate([np.flatnonzero(forth), here[back]]),
        np.concatenate([there[forth], np.flatnonzero(back)]),
    )
    return x[own], m[own], target.points[other], target.axes[other]
