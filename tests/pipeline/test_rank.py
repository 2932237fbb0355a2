"""How two surfaces meet: terms, plausibility, what is the same pose, what chance would do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems_pipeline import RANKING, SETTINGS, level, motion, moved, shape

from deepgmr.divergence.partial import kl_oriented
from deepgmr.geometry.transform import RigidTransform, random_rotations
from deepgmr.pipeline.rank import accidents, distinct, first_look, measure, unlikeness


def chance(motion, source, target):
    return accidents(motion, source, target, SETTINGS.rank, SETTINGS.accidents)


def test_the_divergence_of_oriented_components_is_a_gaussian_kl() -> None:
    rng = np.random.default_rng(0)
    residual = torch.from_numpy(rng.normal(size=3))
    n, m = (torch.from_numpy(v / np.linalg.norm(v)) for v in rng.normal(size=(2, 3)))
    m = m if float(n @ m) > 0 else -m
    sigma = 0.3
    deviations = torch.tensor([sigma] * 3 + [0.7] * 3, dtype=torch.float64)
    p = torch.distributions.Independent(torch.distributions.Normal(torch.cat([residual, n]), deviations), 1)
    q = torch.distributions.Independent(
        torch.distributions.Normal(torch.cat([torch.zeros(3, dtype=torch.float64), m]), deviations), 1
    )
    expected = torch.distributions.kl_divergence(p, q)
    for normal in (m, -m):
        found = kl_oriented(residual.square().sum(), n @ normal, sigma=sigma, sigma_normal=0.7)
        assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_the_truth_ranks_first_and_identity_of_surfaces_scores_one() -> None:
    points, truth = shape(7), motion(5)
    p, q = level(points), level(moved(truth, points))
    others = RigidTransform.random((20,), generator=torch.Generator().manual_seed(1), max_translation=1.0)
    pool = RigidTransform(
        torch.cat([truth.rotation.float()[None], others.rotation]),
        torch.cat([truth.translation.float()[None], others.translation]),
    )
    terms = measure(pool, p, q, SETTINGS.rank)
    assert int(terms.score.argmax()) == 0 and int(RANKING.plausibility(terms).argmax()) == 0
    assert float(terms.score[0]) > 0.97
    assert (terms.score >= 0).all() and (terms.score <= 1 + 1e-6).all()
    assert float(terms.source_overlap[0]) == pytest.approx(1)
    assert int(first_look(pool, p, q, SETTINGS.rank).argmax()) == 0


def test_half_a_cloud_costs_half_its_overlap() -> None:
    points = shape(8, 1200)
    half = points[points[:, 0] > np.median(points[:, 0])]
    whole, part = level(points), level(half)
    terms = measure(RigidTransform.identity((1,)), whole, part, SETTINGS.rank)
    assert float(terms.target_overlap[0]) == pytest.approx(1, abs=0.01)
    assert float(terms.source_overlap[0]) == pytest.approx(0.5, abs=0.06)


def test_a_motion_that_meets_nothing_is_the_least_plausible() -> None:
    # Nothing meets, so nothing is amiss: without a belief about motions at random it would have no gaps at all.
    points, other = shape(7), shape(9)
    turns = random_rotations((30,), generator=torch.Generator().manual_seed(3))
    shifts = torch.zeros(30, 3)
    shifts[-1] = torch.tensor([50.0, 0.0, 0.0])
    terms = measure(RigidTransform(turns, shifts), level(points), level(other), SETTINGS.rank)
    assert float(terms.source_overlap[-1]) == 0 and torch.isfinite(RANKING.plausibility(terms)).all()
    assert int(RANKING.plausibility(terms).argmin()) == 29


def test_gaps_tell_walls_that_cross_from_walls_that_meet() -> None:
    # Two samplings of a corner; turned by two degrees it overlaps itself as well as ever, but not as closely.
    rng = np.random.default_rng(4)
    corners = []
    for _ in range(2):
        walls = rng.uniform(0, 1, (900, 3))
        walls[np.arange(900), np.arange(900) % 3] = 0
        corners.append(walls + 0.001 * rng.normal(size=walls.shape))
    turned = RigidTransform.exp(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.02, 0.02, -0.03, 0.0, 0.0, 0.0]]))
    terms = measure(turned, *(level(walls) for walls in corners), SETTINGS.rank)
    assert abs(float(terms.source_overlap[0] - terms.source_overlap[1])) < 0.1
    assert float(terms.misfit[0]) < float(terms.misfit[1]) - 0.3
    assert float(RANKING.plausibility(terms)[0]) > float(RANKING.plausibility(terms)[1]) + 2


def test_likeness_of_motions_is_up_to_the_symmetry_of_the_surface() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (900, 3))
    points[np.arange(900), np.arange(900) % 3] = np.sign(points[np.arange(900), np.arange(900) % 3])
    cube, plane = level(points), level(shape(7))
    quarter, eighth = (RigidTransform.exp(torch.tensor([0, 0, angle, 0, 0, 0])) for angle in (math.pi / 2, math.pi / 4))
    start = motion(5)
    others = [start @ quarter.to(torch.float64), start @ eighth.to(torch.float64), start]
    pool = RigidTransform(torch.stack([m.rotation for m in others]), torch.stack([m.translation for m in others]))
    unlike = unlikeness(start, pool, cube, SETTINGS.rank)
    assert float(unlike[0]) < 0.02 and float(unlike[1]) > 0.08 and float(unlike[2]) < 1e-6
    assert (unlikeness(start, pool, plane, SETTINGS.rank)[:2] > 0.05).all()


def test_distinct_motions_are_apart_and_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    base = RigidTransform.random((6,), generator=generator, max_translation=1.0)
    shaken = RigidTransform.exp(0.01 * torch.randn(6, 6, generator=generator)) @ base
    pool = RigidTransform(
        torch.cat([base.rotation, shaken.rotation]), torch.cat([base.translation, shaken.translation])
    )
    scores = torch.rand(12, generator=generator)
    kept = distinct(pool, scores, 12, angle=0.2, distance=0.2)
    assert len(kept) == 6
    assert (scores[kept].diff() <= 0).all()
    assert {int(k) % 6 for k in kept} == set(range(6))
    assert len(distinct(pool, scores, 2, angle=0.2, distance=0.2)) == 2


def test_a_meeting_beyond_chance_is_told_from_an_accident() -> None:
    truth, wrong = motion(1), motion(2)
    p, q = level(shape(6, 1200)[:600]), level(moved(truth, shape(6, 1200)[600:1100]))
    assert chance(truth, p, q) < -100
    assert chance(wrong, p, q) > 0
    assert chance(truth.inverse(), q, p) == chance(truth, p, q)  # the smaller one is moved
    far = RigidTransform(torch.eye(3, dtype=torch.float64), torch.full((3,), 50.0, dtype=torch.float64))
    assert chance(far, p, q) > 20


def test_three_points_fit_anywhere_and_more_have_to_be_close() -> None:
    points = np.random.default_rng(0).normal(size=(12, 3))
    still = motion(0) @ motion(0).inverse()
    few = [chance(still, level(points[:n]), level(points[:n])) for n in (3, 4, 6, 12)]
    assert few[0] > 0 > few[1] > few[2] > few[3]
    shaken = points + 0.3 * np.random.default_rng(1).normal(size=points.shape)
    assert chance(still, level(points), level(shaken)) > few[3]
