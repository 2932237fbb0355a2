"""The search: surfaces, descriptors, matches, the rotation grid, the prior, and the ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from deepgmr.pipeline.search import Matches, Prior
from deepgmr.pipeline.search.grid import _overlap
from deepgmr.pipeline.search.ranking import oriented_divergence
from deepgmr.pipeline.surface import Surface, reduce_to, surfaces
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.geometry.transform import RigidTransform, random_rotations, rotation_angle
from deepgmr.mixture import GaussianMixture
from deepgmr.pipeline import search
from deepgmr.pipeline.refine import covariance_of, polish, refine_together


def shape(seed: int, count: int = 600) -> np.ndarray:
    points, _ = sample_shapes(1, count, generator=torch.Generator().manual_seed(seed), families=["airplane"])
    return points[0].double().numpy()


def motion(seed: int, **options: float) -> RigidTransform:
    generator = torch.Generator().manual_seed(seed)
    return RigidTransform.random(generator=generator, max_translation=1.0, dtype=torch.float64, **options)


def moved(truth: RigidTransform, points: np.ndarray) -> np.ndarray:
    return truth.apply(torch.from_numpy(points)).numpy()


# -- surfaces ------------------------------------------------------------------------------------------------------


def test_normals_are_those_of_the_surface() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    surface = Surface.of(points)
    cosine = (surface.normals * surface.points).sum(-1)
    assert cosine.max() < -0.95  # the hollow side of a sphere is inside, everywhere


def test_neighbours_agree_with_a_brute_search() -> None:
    surface = Surface.of(shape(0))
    distance = torch.cdist(surface.points, surface.points).fill_diagonal_(math.inf)
    nearest = distance.gather(1, surface.neighbours)
    np.testing.assert_allclose(nearest, distance.sort(1).values[:, : nearest.shape[1]], atol=1e-6)
    assert surface.spacing == pytest.approx(float(distance.min(1).values.median()), rel=0.02)


def test_both_clouds_come_to_one_resolution() -> None:
    dense, sparse = shape(0, 20_000), shape(0, 1_200)
    p, q = surfaces(dense, sparse)
    assert p.spacing == pytest.approx(q.spacing, rel=0.5)
    p, q = surfaces(dense, shape(0, 10_000))
    assert 1200 < len(p) < 1900
    assert len(surfaces(shape(0), shape(1))[0]) == 600  # small clouds of one density are used as they are


@pytest.mark.parametrize("count", [100, 1000])
def test_reduced_points_cover_the_cloud(count: int) -> None:
    points = shape(2, 8000)
    kept = reduce_to(points, count)
    assert 0.8 * count < len(kept) < 1.2 * count
    gap, _ = cKDTree(kept).query(points)
    assert gap.max() < 6 * gap.mean()


# -- descriptors and matches ---------------------------------------------------------------------------------------


def test_descriptors_do_not_change_with_the_pose() -> None:
    points = shape(3)
    a, b = Surface.of(points), Surface.of(moved(motion(0), points))
    first, second = search.describe(a), search.describe(b)
    assert (first * second).sum(1).quantile(0.02) > 0.999  # a few patches sit on a tie of nearest neighbours
    np.testing.assert_allclose(first.norm(dim=1), 1, atol=1e-5)


def test_descriptors_tell_places_apart() -> None:
    d = search.describe(Surface.of(shape(3)))
    similarity = d @ d.T
    assert similarity.fill_diagonal_(0).quantile(0.5) < 0.98


def test_matches_of_a_copy_are_the_points_themselves() -> None:
    points = np.random.default_rng(4).normal(size=(400, 3))  # no two neighbourhoods alike, as a mirror image's are
    d = search.describe(Surface.of(points)), search.describe(Surface.of(moved(motion(1), points)))
    found = search.match(*d, count=200)
    assert (found.source == found.target).double().mean() > 0.7  # the rest sit on a tie of nearest neighbours
    assert (found.scores.diff() <= 0).all()


def test_a_motion_is_found_among_many_false_matches() -> None:
    points, truth = shape(5), motion(2)
    p, q = Surface.of(points), Surface.of(moved(truth, points))
    rng = np.random.default_rng(0)
    right, wrong = rng.permutation(len(points))[:40], rng.integers(0, len(points), (160, 2))
    source = torch.from_numpy(np.concatenate([right, wrong[:, 0]]))
    target = torch.from_numpy(np.concatenate([right, wrong[:, 1]]))
    matches = Matches(source, target, torch.ones(len(source)))
    motions, agreement = search.consistent_motions(matches, p, q, Prior())
    best = motions[int(agreement.argmax())].to(torch.float64)
    assert float(rotation_angle(best.rotation.mT @ truth.rotation)) < 0.05
    forbidden = Prior(RigidTransform.identity(), 0.5 * float(rotation_angle(truth.rotation)))
    _, agreement = search.consistent_motions(matches, p, q, forbidden)
    allowed = forbidden.allows(motions.rotation)
    assert (agreement[~allowed] == 0).all() and not allowed.all()


# -- grid and prior ------------------------------------------------------------------------------------------------


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
    motions = search.grid_motions(p, q, count=16, prior=Prior())
    assert rotation_angle(motions.rotation.double().mT @ truth.rotation).min() < math.radians(25)
    near = Prior(truth, math.radians(40))
    motions = search.grid_motions(p, q, count=16, prior=near)
    assert near.allows(motions.rotation.double()).all()


def test_a_prior_never_leaves_nothing() -> None:
    prior = Prior(motion(4), 1e-3)
    assert len(prior.near(random_rotations((5,), generator=torch.Generator().manual_seed(0)))) == 1
    kept = prior.apply(RigidTransform.random((5,), generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    np.testing.assert_allclose(kept.matrix[0], motion(4).matrix)


# -- ranking -------------------------------------------------------------------------------------------------------


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
        found = oriented_divergence(residual.square().sum(), n @ normal, sigma)
        assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_the_truth_ranks_first_and_identity_of_surfaces_scores_one() -> None:
    points, truth = shape(7), motion(5)
    p, q = Surface.of(points), Surface.of(moved(truth, points))
    others = RigidTransform.random((20,), generator=torch.Generator().manual_seed(1), max_translation=1.0)
    pool = RigidTransform(
        torch.cat([truth.rotation.float()[None], others.rotation]),
        torch.cat([truth.translation.float()[None], others.translation]),
    )
    ranking = search.rank(pool, p, q)
    assert int(ranking.scores.argmax()) == 0 and int(ranking.plausibility.argmax()) == 0
    assert float(ranking.scores[0]) > 0.97
    assert (ranking.scores >= 0).all() and (ranking.scores <= 1 + 1e-6).all()
    assert float(ranking.source_overlap[0]) == pytest.approx(1)
    assert int(search.first_look(pool, p, q).argmax()) == 0


def test_half_a_cloud_costs_half_its_overlap() -> None:
    points = shape(8, 1200)
    half = points[points[:, 0] > np.median(points[:, 0])]
    whole, part = Surface.of(points), Surface.of(half)
    ranking = search.rank(RigidTransform.identity((1,)), whole, part)
    assert float(ranking.target_overlap[0]) == pytest.approx(1, abs=0.01)
    assert float(ranking.source_overlap[0]) == pytest.approx(0.5, abs=0.06)


def test_a_motion_that_meets_nothing_is_the_least_plausible() -> None:
    # Nothing meets, so nothing is amiss: without a belief about motions at random it would have no gaps at all.
    points, other = shape(7), shape(9)
    turns = random_rotations((30,), generator=torch.Generator().manual_seed(3))
    shifts = torch.zeros(30, 3)
    shifts[-1] = torch.tensor([50.0, 0.0, 0.0])
    ranking = search.rank(RigidTransform(turns, shifts), Surface.of(points), Surface.of(other))
    assert float(ranking.source_overlap[-1]) == 0 and torch.isfinite(ranking.plausibility).all()
    assert int(ranking.plausibility.argmin()) == 29


def test_gaps_tell_walls_that_cross_from_walls_that_meet() -> None:
    # Two samplings of a corner; turned by two degrees it overlaps itself as well as ever, but not as closely.
    rng = np.random.default_rng(4)
    corners = []
    for _ in range(2):
        walls = rng.uniform(0, 1, (900, 3))
        walls[np.arange(900), np.arange(900) % 3] = 0
        corners.append(walls + 0.001 * rng.normal(size=walls.shape))
    turned = RigidTransform.exp(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.02, 0.02, -0.03, 0.0, 0.0, 0.0]]))
    ranking = search.rank(turned, *(Surface.of(walls) for walls in corners))
    assert abs(float(ranking.source_overlap[0] - ranking.source_overlap[1])) < 0.1
    assert float(ranking.misfit[0]) < float(ranking.misfit[1]) - 0.3
    assert float(ranking.plausibility[0]) > float(ranking.plausibility[1]) + 2


def test_likeness_of_motions_is_up_to_the_symmetry_of_the_surface() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (900, 3))
    points[np.arange(900), np.arange(900) % 3] = np.sign(points[np.arange(900), np.arange(900) % 3])
    cube, plane = Surface.of(points), Surface.of(shape(7))
    quarter, eighth = (RigidTransform.exp(torch.tensor([0, 0, angle, 0, 0, 0])) for angle in (math.pi / 2, math.pi / 4))
    start = motion(5)
    others = [start @ quarter.to(torch.float64), start @ eighth.to(torch.float64), start]
    pool = RigidTransform(torch.stack([m.rotation for m in others]), torch.stack([m.translation for m in others]))
    unlike = search.unlikeness(start, pool, cube)
    assert float(unlike[0]) < 0.02 and float(unlike[1]) > 0.08 and float(unlike[2]) < 1e-6
    assert (search.unlikeness(start, pool, plane)[:2] > 0.05).all()


def test_distinct_motions_are_apart_and_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    base = RigidTransform.random((6,), generator=generator, max_translation=1.0)
    shaken = RigidTransform.exp(0.01 * torch.randn(6, 6, generator=generator)) @ base
    pool = RigidTransform(
        torch.cat([base.rotation, shaken.rotation]), torch.cat([base.translation, shaken.translation])
    )
    scores = torch.rand(12, generator=generator)
    kept = search.distinct(pool, scores, 12, angle=0.2, distance=0.2)
    assert len(kept) == 6
    assert (scores[kept].diff() <= 0).all()
    assert {int(k) % 6 for k in kept} == set(range(6))
    assert len(search.distinct(pool, scores, 2, angle=0.2, distance=0.2)) == 2


# -- refinement ----------------------------------------------------------------------------------------------------


def test_coarse_motions_are_pulled_to_the_truth() -> None:
    points, truth = shape(9, 2400), motion(6)
    p, q = Surface.of(points[:1200]), Surface.of(moved(truth, points[1200:]))
    start = (
        RigidTransform.exp(torch.tensor([[0.08, -0.05, 0.06, 0.02, 0.01, -0.02]], dtype=torch.float64)) @ truth[None]
    )
    refined = refine_together(start, p, q, Prior())
    before = rotation_angle(start.rotation.mT @ truth.rotation).item()
    after = rotation_angle(refined.rotation.mT @ truth.rotation).item()
    assert after < 0.3 * before
    outside = Prior(RigidTransform.exp(torch.tensor([2.0, 0, 0, 0, 0, 0], dtype=torch.float64)) @ truth, 0.5)
    assert outside.allows(refine_together(start, p, q, outside).rotation).all()


def test_the_polish_is_exact_for_shared_points_and_observes_without_steps() -> None:
    points, truth = shape(10), motion(7)
    target = moved(truth, points)
    start = RigidTransform.exp(torch.tensor([0.02, 0.01, -0.02, 0.01, 0, 0], dtype=torch.float64)) @ truth
    answer = polish(points, target, start, reach=0.1, iterations=10)
    np.testing.assert_allclose(answer.target_from_source.matrix, truth.matrix, atol=1e-12)
    still = polish(points, target, start, reach=0.1, iterations=0)
    np.testing.assert_allclose(still.target_from_source.matrix, start.matrix)
    assert np.isfinite(still.information).all() and still.observability > 0


def test_free_directions_have_large_finite_variances() -> None:
    information = np.diag([1e4, 1e4, 0.0, 1e6, 1e6, 1e6])
    covariance = covariance_of(information)
    np.testing.assert_allclose(np.diag(covariance)[[0, 1, 3, 4, 5]], [1e-4, 1e-4, 1e-6, 1e-6, 1e-6])
    assert 100 < covariance[2, 2] < np.inf
    assert np.isfinite(covariance_of(np.zeros((6, 6)))).all()


def test_rotations_in_tests_mean_what_scipy_means() -> None:
    vector = np.array([0.3, -0.2, 0.5])
    twist = torch.from_numpy(np.concatenate([vector, np.zeros(3)]))
    np.testing.assert_allclose(RigidTransform.exp(twist).rotation, Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)


# -- what chance would do ------------------------------------------------------------------------------------------


def test_a_meeting_beyond_chance_is_told_from_an_accident() -> None:
    truth, wrong = motion(1), motion(2)
    p, q = Surface.of(shape(6, 1200)[:600]), Surface.of(moved(truth, shape(6, 1200)[600:1100]))
    assert search.accidents(truth, p, q) < -100
    assert search.accidents(wrong, p, q) > 0
    assert search.accidents(truth.inverse(), q, p) == search.accidents(truth, p, q)  # the smaller one is moved
    far = RigidTransform(torch.eye(3, dtype=torch.float64), torch.full((3,), 50.0, dtype=torch.float64))
    assert search.accidents(far, p, q) > 20


def test_three_points_fit_anywhere_and_more_have_to_be_close() -> None:
    points = np.random.default_rng(0).normal(size=(12, 3))
    still = motion(0) @ motion(0).inverse()
    few = [search.accidents(still, Surface.of(points[:n]), Surface.of(points[:n])) for n in (3, 4, 6, 12)]
    assert few[0] > 0 > few[1] > few[2] > few[3]
    shaken = points + 0.3 * np.random.default_rng(1).normal(size=points.shape)
    assert search.accidents(still, Surface.of(points), Surface.of(shaken)) > few[3]
