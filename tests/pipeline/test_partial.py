"""The descent of the partial divergence: a minimum by finite differences, exact answers, and what pulls nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from problems_pipeline import SETTINGS, level, motion, moved, shape
from scipy.optimize import approx_fprime
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.partial import descend_together
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.refine import refine

TIGHT = replace(
    SETTINGS.descent,
    across=(1.0, 0.5),
    least_across=(0.0, 0.0),
    settled=1e-9,
    iterations=(60, 60),
    asked=(10_000, 10_000),
)


def nudged(matrix: np.ndarray, twist: list[float]) -> np.ndarray:
    off = np.eye(4)
    off[:3, :3], off[:3, 3] = Rotation.from_rotvec(twist[:3]).as_matrix(), twist[3:]
    return off @ matrix


def halves(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two samplings of parts of a shape that share some of it, and the motion between them."""
    points, truth = shape(seed, 1600), motion(seed).matrix.double().numpy()
    along = points[:, 0] - np.median(points[:, 0])
    source, target = points[:800][along[:800] > -0.2], points[800:][along[800:] < 0.2]
    return source, target @ truth[:3, :3].T + truth[:3, 3], truth


def test_where_it_ends_the_divergence_has_no_slope() -> None:
    source, target, truth = halves(3)
    p, q = level(source), level(target)
    found = descend_together(p, q, nudged(truth, [0.05, -0.03, 0.04, 0.01, 0.02, 0.0])[None], TIGHT)[0]
    spacing = max(p.spacing, q.spacing)
    across = TIGHT.across[-1] * spacing
    along = TIGHT.along * across
    x = source @ found[:3, :3].T + found[:3, 3]
    (_, there), (_, here) = cKDTree(target).query(x), cKDTree(x).query(target)
    own = np.concatenate([np.arange(len(source)), here])
    other = np.concatenate([there, np.arange(len(target))])
    m, n = p.axes[own] @ found[:3, :3].T, q.axes[other]
    cosine = np.sum(m * n, axis=1)
    middle = m * np.sign(cosine)[:, None] + n
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)

    def divergence(twist: np.ndarray) -> float:
        """Both directions of the partial divergence, with counterparts and tangent planes as they are."""
        residual = Rotation.from_rotvec(twist[:3]).apply(x[own]) + twist[3:] - target[other]
        height = np.sum(residual * middle, axis=1) ** 2
        slid = np.sum(residual**2, axis=1) - height
        kl = (height / across**2 + slid / along**2) / 2 + (1 - np.abs(cosine)) / TIGHT.sigma_normal**2
        far = np.linalg.norm(x[own] - target[other], axis=1) > TIGHT.reach * along
        likeness = np.where(far, 0.0, np.exp(-kl))
        return -float(np.log((likeness + TIGHT.background) / (1 + TIGHT.background)).sum())

    slope = approx_fprime(np.zeros(6), divergence, 1e-7)
    before = approx_fprime(np.r_[0.02, 0.02, 0.02, 0.01, 0.01, 0.01], divergence, 1e-7)
    assert np.abs(slope).max() < 2e-3 * np.abs(before).max()


def test_the_same_points_end_where_they_lie() -> None:
    points, truth = shape(5, 600), motion(2)
    p, q = level(points), level(moved(truth, points))
    starts = np.stack([nudged(truth.matrix.numpy(), [0.03 * s, 0.02, -0.02 * s, 0.01, 0.0, 0.01]) for s in (1, -1)])
    found = descend_together(p, q, starts, TIGHT)
    for matrix in found:
        np.testing.assert_allclose(matrix, truth.matrix, atol=1e-7)


def test_motions_that_meet_go_on_as_one_and_do_not_feel_one_another() -> None:
    source, target, truth = halves(7)
    p, q = level(source), level(target)
    starts = np.stack([nudged(truth, [0.1 * s, 0.05, -0.1, 0.03 * s, 0.0, 0.03]) for s in (1, -1)])
    together = descend_together(p, q, np.concatenate([starts, starts]), SETTINGS.descent)
    alone = [descend_together(p, q, start[None], SETTINGS.descent)[0] for start in starts]
    assert len(together) <= 2
    for matrix in together:
        assert min(np.abs(matrix - each).max() for each in alone) < 1e-9


def test_either_cloud_may_be_the_one_that_moves() -> None:
    source, target, truth = halves(9)
    p, q = level(source), level(target)
    start = nudged(truth, [0.04, -0.02, 0.03, 0.01, 0.0, 0.01])
    forth = descend_together(p, q, start[None], TIGHT)[0]
    back = descend_together(q, p, np.linalg.inv(start)[None], TIGHT)[0]
    np.testing.assert_allclose(forth @ back, np.eye(4), atol=3e-4)


def test_what_only_one_cloud_has_pulls_nothing() -> None:
    source, target, truth = halves(11)
    spacing = max(level(source).spacing, level(target).spacing)
    start = nudged(truth, [0.04, -0.02, 0.03, 0.01, 0.0, 0.01])[None]
    far = target + np.array([0.0, 0.0, 50.0])
    settings = replace(TIGHT, across=tuple(each * spacing for each in TIGHT.across))

    def found(more: list[np.ndarray]) -> np.ndarray:
        p, q = level(source), level(np.concatenate([target, *more]))
        fixed = replace(settings, across=tuple(each / max(p.spacing, q.spacing) for each in settings.across))
        return descend_together(p, q, start, fixed)[0]

    np.testing.assert_allclose(found([]), found([far]), atol=1e-6)


def test_it_ends_nearer_to_the_truth_than_generalised_icp_where_clouds_share_a_part() -> None:
    errors: dict[str, list[float]] = {"together": [], "icp": []}
    for seed in range(16):
        source, target, truth = halves(seed)
        p, q = level(source), level(target)
        start = nudged(truth, list(np.random.default_rng(seed).normal(size=6) * np.repeat([0.04, 0.02], 3)))
        ends = {
            "together": descend_together(p, q, start[None], SETTINGS.descent)[0],
            "icp": refine(RigidTransform.from_matrix(torch.from_numpy(start[None])), p, q, Prior(), SETTINGS.refine)
            .matrix[0]
            .numpy(),
        }
        for name, end in ends.items():
            gap = source @ (end - truth)[:3, :3].T + (end - truth)[:3, 3]
            errors[name].append(float(np.linalg.norm(gap, axis=1).mean()))
    assert np.mean(errors["together"]) < 0.9 * np.mean(errors["icp"])
