"""From a coarse motion to a fine one: generalised ICP on the components, then on the full clouds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
import torch
from scipy.spatial import cKDTree

from deepgmr.geometry.procrustes import weighted_procrustes
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.clouds import UNLIKE_SIZES
from deepgmr.pipeline.search import Prior
from deepgmr.pipeline.surface import Surface, reduce_to, spacing_of

Side = tuple[Any, Any]  # small_gicp's PointCloud with covariances, and its KdTree
FULL_RESOLUTION = 6_000  # points of each cloud that the last polish looks at
_NEIGHBOURS = 12
_COARSE, _FINE = 3e-3, 1e-5  # steps (rad, frame units) below which a fit stands still
_TINY = 10  # points below which small_gicp warns that there is no surface to fit; closed-form steps then suffice
_LEAST = 1e-6  # information, frame units: a standard deviation of a thousand times the size of the clouds
_FREE = 1e-9  # share of the largest information below which a direction counts as free in the covariance


def refine_together(motions: RigidTransform, source: Surface, target: Surface, prior: Prior) -> RigidTransform:
    """Pull each of the motions (H,) to its nearest fit of the components, by generalised ICP (Segal et al. 2009).

    Two rounds: a wide one that forgives the coarseness of a hypothesis, and a narrow one that forgets what does not
    overlap. Motions that leave what the prior allows are dropped.
    """
    spacing = max(source.spacing, target.spacing)
    tiny = min(len(source), len(target)) <= _TINY
    x, y = source.points.double().numpy(), target.points.double().numpy()
    dwarfed = _dwarfs(x, y)
    refined = []
    for matrix in motions.matrix.double().numpy():
        if tiny:
            refined.append(_pull(x, y, target.tree, matrix, 2 * spacing))
            continue
        for reach in (max(4 * spacing, 0.1), max(2 * spacing, 0.03)):
            matrix = _align(
                (source.cloud, source.cloud_tree),
                (target.cloud, target.cloud_tree),
                matrix,
                reach,
                iterations=8,
                settled=_COARSE,
                onto_source=dwarfed,
            )
        refined.append(matrix)
    return prior.apply(RigidTransform.from_matrix(torch.from_numpy(np.stack(refined))))


@dataclass(frozen=True, eq=False)
class Polish:
    """The final motion in the pair's frame, and what the points say of its precision."""

    target_from_source: RigidTransform  # float64
    information: np.ndarray  # (6, 6) of (rotation vector, translation), left, target frame; inverse noise included
    observability: float  # least over largest eigenvalue of the information about the centre of the matched points


def polish(source: np.ndarray, target: np.ndarray, initial: RigidTransform, *, reach: float, iterations: int) -> Polish:
    """Generalised ICP at full resolution from a motion that is already close.

    source (N, 3), target (M, 3), float64, in the frame; `reach` is the precision of the initial motion, frame units.
    With no iterations the motion stays as it is and is only observed.

    Where the clouds turn out to hold the very same points, the last steps are closed-form point-to-point ones, which
    are exact where surfaces can only slide.
    """
    source, target = reduce_to(source, FULL_RESOLUTION), reduce_to(target, FULL_RESOLUTION)
    source_side, target_side = _prepare(source), _prepare(target)
    tree = cKDTree(target)
    spacing = spacing_of(target, tree)
    matrix = initial.matrix.double().numpy()
    narrow = min(reach, max(3 * spacing, reach / 4))
    same = False
    if iterations:
        for radius in (reach, narrow) if min(len(source), len(target)) > _TINY else ():
            matrix = _align(
                source_side,
                target_side,
                matrix,
                radius,
                iterations=iterations,
                settled=_FINE,
                onto_source=_dwarfs(source, target),
            )
        matrix, same = _point_to_point(source, target, tree, matrix, spacing)
    return _observe(source, target, target_side[0], tree, matrix, radius=narrow, same=same)


def _prepare(points: np.ndarray) -> Side:
    cloud = small_gicp.PointCloud(points)
    tree = small_gicp.KdTree(cloud)
    small_gicp.estimate_normals_covariances(cloud, tree, min(_NEIGHBOURS, len(points)))
    return cloud, tree


def _dwarfs(source: np.ndarray, target: np.ndarray) -> bool:
    """Whether the source is so much larger that most of it lies far from all of the target."""
    return bool(np.ptp(source, axis=0).max() > UNLIKE_SIZES * np.ptp(target, axis=0).max())


def _align(
    source: Side,
    target: Side,
    start: np.ndarray,
    reach: float,
    *,
    iterations: int,
    settled: float,
    onto_source: bool,
) -> np.ndarray:
    """Generalised ICP of the source onto the target, or, `onto_source`, the other way round.

    The tree visits all of a cloud for a point that is far from everything in it, so a dwarf has to be the one that moves.
    """
    if onto_source:
        start = np.linalg.inv(start)
        options = {"iterations": iterations, "settled": settled, "onto_source": False}
        return np.linalg.inv(_align(target, source, start, reach, **options))  # type: ignore[arg-type]
    # One thread: the sums of several threads depend on their order, and the same input must give the same bytes.
    result = small_gicp.align(
        target[0],
        source[0],
        target[1],
        start,
        registration_type="GICP",
        max_correspondence_distance=reach,
        num_threads=1,
        max_iterations=iterations,
        rotation_epsilon=settled,
        translation_epsilon=settled,
    )
    matrix = np.array(result.T_target_source)
    if result.num_inliers < 3 or not np.isfinite(matrix).all():
        return start  # nothing within reach: the hypothesis stays as it was and is ranked as such
    left, _, right = np.linalg.svd(matrix[:3, :3])  # many small steps leave rounding in the rotation
    matrix[:3, :3] = left @ right
    return matrix


def _point_to_point(
    source: np.ndarray, target: np.ndarray, tree: cKDTree, start: np.ndarray, spacing: float
) -> tuple[np.ndarray, bool]:
    """Closed-form steps on nearest pairs, kept only if they show the points of the clouds to be the same ones."""
    gap, _ = tree.query(_moved(source[:: max(1, len(source) // 200)], start))
    if len(source) > _TINY and np.quantile(gap, 0.25) > 0.2 * spacing:  # other samples lie half a spacing apart
        return start, False
    matrix = _pull(source, target, tree, start, spacing)
    distance, _ = tree.query(_moved(source, matrix), distance_upper_bound=spacing)
    close = np.isfinite(distance)
    same = bool(close.sum() >= 3 and np.sqrt(np.mean(distance[close] ** 2)) < 0.1 * spacing)
    return (matrix, True) if same else (start, False)


def _pull(source: np.ndarray, target: np.ndarray, tree: cKDTree, matrix: np.ndarray, reach: float) -> np.ndarray:
    """Point-to-point ICP (Besl and McKay 1992) until it stands still."""
    for _ in range(20):
        distance, index = tree.query(_moved(source, matrix), distance_upper_bound=reach)
        close = np.isfinite(distance)
        if close.sum() < 3:
            break
        pairs = torch.from_numpy(source[close]), torch.from_numpy(target[index[close]])
        step = weighted_procrustes(*pairs, torch.ones(len(pairs[0]), dtype=torch.float64)).target_from_source
        previous, matrix = matrix, step.matrix.numpy()
        if np.abs(matrix - previous).max() < 1e-12:
            break
    return matrix


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _observe(
    source: np.ndarray,
    target: np.ndarray,
    target_cloud: Any,
    tree: cKDTree,
    matrix: np.ndarray,
    *,
    radius: float,
    same: bool,
) -> Polish:
    """What the matched points say of the motion: the information of their point-to-plane residuals.

    Each matched point y with target normal n measures n^T (w x y + v) with the variance of the residuals; points
    known to be the same ones measure all three directions.
    """
    moved = _moved(source, matrix)
    distance, index = tree.query(moved, distance_upper_bound=radius)
    close = np.isfinite(distance)
    y, residual = moved[close], moved[close] - target[index[close]]
    normals = target_cloud.normals()[index[close], :3]
    directions = [np.broadcast_to(axis, y.shape) for axis in np.eye(3)] if same else [normals]
    centre = y.mean(axis=0) if len(y) else np.zeros(3)
    jacobian = np.concatenate([np.hstack([np.cross(y, n), n]) for n in directions])  # (rows, 6)
    centred = np.concatenate([np.hstack([np.cross(y - centre, n), n]) for n in directions])
    errors = np.concatenate([(residual * n).sum(1) for n in directions])
    noise = max(float(np.mean(errors**2)) if len(errors) else 1.0, 1e-18)
    lever = float(np.sqrt(np.mean((y - centre) ** 2))) if len(y) >= 3 else 0.0
    values = np.linalg.eigvalsh(_unit_lever(centred, lever)) if lever > 0 else np.zeros(6)
    motion = RigidTransform.from_matrix(torch.from_numpy(matrix))
    observability = float(max(values[0], 0.0) / values[-1]) if values[-1] > 0 else 0.0
    # Residuals within a neighbourhood share the points that its normals were estimated from, in both clouds.
    shared = 1 if same else 2 * _NEIGHBOURS
    return Polish(motion, jacobian.T @ jacobian / (shared * noise), observability)


def _unit_lever(jacobian: np.ndarray, lever: float) -> np.ndarray:
    """J^T J with rotations measured by how far they move the points, so that its eigenvalues compare."""
    scaled = np.hstack([jacobian[:, :3] / lever, jacobian[:, 3:]])
    return scaled.T @ scaled


def covariance_of(information: np.ndarray) -> np.ndarray:
    """The inverse (6, 6), finite where a direction is free: there the variance is that of knowing next to nothing."""
    values, vectors = np.linalg.eigh(information)
    return (vectors / np.maximum(values, max(_FREE * values[-1], _LEAST))) @ vectors.T
