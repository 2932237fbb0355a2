"""Descriptors, matches, the rotation grid and the prior."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from problems_pipeline import SETTINGS, level, motion, moved, shape

from deepgmr.geometry.transform import RigidTransform, random_rotations, rotation_angle
from deepgmr.mixture import GaussianMixture
from deepgmr.pipeline.agree import consistent_motions
from deepgmr.pipeline.propose.descriptors import describe
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.propose.grid import _overlap, grid_motions
from deepgmr.pipeline.propose.matches import Matches, match


def test_descriptors_do_not_change_with_the_pose() -> None:
    points = shape(3)
    a, b = level(points), level(moved(motion(0), points))
    first, second = describe(a), describe(b)
    assert (first * second).sum(1).quantile(0.02) > 0.999  # a few patches sit on a tie of nearest neighbours
    np.testing.assert_allclose(first.norm(dim=1), 1, atol=1e-5)


def test_descriptors_tell_places_apart() -> None:
    d = describe(level(shape(3)))
    similarity = d @ d.T
    assert similarity.fill_diagonal_(0).quantile(0.5) < 0.98


def test_matches_of_a_copy_are_the_points_themselves() -> None:
    points = np.random.default_rng(4).normal(size=(400, 3))  # no two neighbourhoods alike, as a mirror image's are
    d = describe(level(points)), describe(level(moved(motion(1), points)))
    found = match(*d, replace(SETTINGS.propose, matches=200))
    assert (found.source == found.target).double().mean() > 0.7  # the rest sit on a tie of nearest neighbours
    assert (found.scores.diff() <= 0).all()


def test_a_motion_is_found_among_many_false_matches() -> None:
    points, truth = shape(5), motion(2)
    p, q = level(points), level(moved(truth, points))
    rng = np.random.default_rng(0)
    right, wrong = rng.permutation(len(points))[:40], rng.integers(0, len(points), (160, 2))
    source = torch.from_numpy(np.concatenate([right, wrong[:, 0]]))
    target = torch.from_numpy(np.concatenate([right, wrong[:, 1]]))
    matches = Matches(source, target, torch.ones(len(source)))
    motions, agreement = consistent_motions(matches, p, q, Prior(), SETTINGS.agree, tolerance=0.1)
    best = motions[int(agreement.argmax())].to(torch.float64)
    assert float(rotation_angle(best.rotation.mT @ truth.rotation)) < 0.05
    forbidden = Prior(RigidTransform.identity(), 0.5 * float(rotation_angle(truth.rotation)))
    _, agreement = consistent_motions(matches, p, q, forbidden, SETTINGS.agree, tolerance=0.1)
    allowed = forbidden.allows(motions.rotation)
    assert (agreement[~allowed] == 0).all() and not allowed.all()


def test_the_overlap_integral_agrees_with_quadrature() -> None:
    generator = torch.Generator().manual_seed(0)
    p = GaussianMixture.fit(torch.randn(200, 3, generator=generator, dtype=torch.float64), 3).mixture.isotropic()
    q = GaussianMixture.fit(torch.randn(200, 3, generator=generator, dtype=torch.float64), 4).mixture.isotropic()
    rotation = random_rotations((1,), generator=generator, dtype=torch.float64)
    variance = p.variances.unsqueeze(-1) + q.variances
    weight = p.weights.log().unsqueeze(-1) + q.weights.log() - 1.5 * variance.log()
    value = _overlap(rotation, p.means, q.means, variance, weight) * (2 * math.pi) ** -1.5
    samples = p.transformed(RigidTransform(rotation[0], torch.zeros(3, dtype=torch.float64)))
    drawn = q.log_prob(samples.sample(400_000, generator=generator)).exp()
    error = float(drawn.std() / math.sqrt(len(drawn)))
    assert abs(float(value) - float(drawn.mean())) < 4 * error


def test_the_grid_finds_a_whole_shape() -> None:
    points, truth = torch.from_numpy(shape(6)).float(), motion(3)
    target = truth.to(torch.float32).apply(points)
    p, q = (GaussianMixture.fit(cloud, 24, max_iterations=10).mixture for cloud in (points, target))
    motions = grid_motions(p, q, count=16, prior=Prior(), blur=0.08)
    assert rotation_angle(motions.rotation.double().mT @ truth.rotation).min() < math.radians(25)
    near = Prior(truth, math.radians(40))
    motions = grid_motions(p, q, count=16, prior=near, blur=0.08)
    assert near.allows(motions.rotation.double()).all()


def test_a_prior_never_leaves_nothing() -> None:
    prior = Prior(motion(4), 1e-3)
    assert len(prior.near(random_rotations((5,), generator=torch.Generator().manual_seed(0)))) == 1
    kept = prior.apply(RigidTransform.random((5,), generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    np.testing.assert_allclose(kept.matrix[0], motion(4).matrix)
