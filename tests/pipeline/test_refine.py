"""Refinement and polish: pulled to the truth, exact for shared points, free directions known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from problems_pipeline import SETTINGS, level, motion, moved, shape
from scipy.spatial.transform import Rotation

from deepgmr.geometry.transform import RigidTransform, rotation_angle
from deepgmr.pipeline.polish import polish
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.refine import refine


def polished(source, target, start, **changes):
    settings = replace(SETTINGS.polish, **changes)
    return polish(
        level(source),
        level(target),
        start,
        sparse=level(source),
        reach=0.1,
        settings=settings,
        refinement=SETTINGS.refine,
    )


def test_coarse_motions_are_pulled_to_the_truth() -> None:
    points, truth = shape(9, 2400), motion(6)
    p, q = level(points[:1200]), level(moved(truth, points[1200:]))
    start = (
        RigidTransform.exp(torch.tensor([[0.08, -0.05, 0.06, 0.02, 0.01, -0.02]], dtype=torch.float64)) @ truth[None]
    )
    refined = refine(start, p, q, Prior(), SETTINGS.refine)
    before = rotation_angle(start.rotation.mT @ truth.rotation).item()
    after = rotation_angle(refined.rotation.mT @ truth.rotation).item()
    assert after < 0.3 * before
    outside = Prior(RigidTransform.exp(torch.tensor([2.0, 0, 0, 0, 0, 0], dtype=torch.float64)) @ truth, 0.5)
    assert outside.allows(refine(start, p, q, outside, SETTINGS.refine).rotation).all()


def test_the_polish_is_exact_for_shared_points_and_observes_without_steps() -> None:
    points, truth = shape(10), motion(7)
    target = moved(truth, points)
    start = RigidTransform.exp(torch.tensor([0.02, 0.01, -0.02, 0.01, 0, 0], dtype=torch.float64)) @ truth
    answer = polished(points, target, start, iterations=10)
    np.testing.assert_allclose(answer.target_from_source.matrix, truth.matrix, atol=1e-12)
    still = polished(points, target, start, iterations=0)
    np.testing.assert_allclose(still.target_from_source.matrix, start.matrix)
    assert np.isfinite(still.uncertainty.covariance).all() and still.uncertainty.observability > 0


def test_matches_from_both_clouds_and_thick_disks_see_through_noise() -> None:
    turns: dict[int, list[float]] = {0: [], 2: []}
    for seed in range(6):
        points, truth, chance = shape(20 + seed), motion(seed), np.random.default_rng(seed)
        source, target = (cloud + 0.01 * chance.normal(size=cloud.shape) for cloud in (points, moved(truth, points)))
        nudge = RigidTransform.exp(torch.tensor([0.02, 0.01, -0.02, 0.01, 0, 0], dtype=torch.float64))
        for steps, errors in turns.items():
            found = polished(source, target, nudge @ truth, iterations=10, steps=steps).target_from_source
            errors.append(float(rotation_angle(found.rotation.mT @ truth.rotation)))
    assert np.mean(turns[2]) < 0.7 * np.mean(turns[0])


def test_rotations_in_tests_mean_what_scipy_means() -> None:
    vector = np.array([0.3, -0.2, 0.5])
    twist = torch.from_numpy(np.concatenate([vector, np.zeros(3)]))
    np.testing.assert_allclose(RigidTransform.exp(twist).rotation, Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)
