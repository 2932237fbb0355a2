"""How two surfaces meet: terms, plausibility, what is the same pose, what chance would do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from problems_pipeline import RANKING, SETTINGS, level, motion, moved, shape

from deepgmr.divergence.partial import kl_oriented
from deepgmr.geometry.transform import RigidTransform, random_rotations
from deepgmr.pipeline.rank import RANKED, _cut, accidents, distinct, first_look, measure, unlikeness


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


def test_half_a_cloud_costs_half_its_overlap_and_the_seam() -> None:
    points = shape(8, 1200)
    kept = points[:, 0] > np.median(points[:, 0])
    terms = measure(RigidTransform.identity((1,)), level(points), level(points[kept]), SETTINGS.rank)
    assert float(terms.target_overlap[0]) == pytest.approx(1, abs=0.01)
    spacing = max(level(points).spacing, level(points[kept]).spacing)
    gaps = oracles.local_gaps(points), oracles.local_gaps(points[kept])
    far, _ = oracles.met(points, gaps[0], points[kept], gaps[1], spacing, SETTINGS.rank.stretch)
    assert far[kept].max() == 0 and (far[~kept] > 0).all()
    seam = float((far[~kept] <= SETTINGS.rank.seen).mean())  # of what was cut off, this much lies beside what was kept
    assert seam < 0.2
    assert float(terms.source_overlap[0]) == pytest.approx(0.5 + 0.5 * seam, abs=2e-3)


def test_a_motion_that_meets_nothing_is_the_least_plausible() -> None:
    # Nothing meets, so nothing is amiss: without a belief about motions at random it would have no gaps at all.
    points, other = shape(7), shape(9)
    turns = random_rotations((30,), generator=torch.Generator().manual_seed(3))
    shifts = torch.zeros(30, 3)
    shifts[-1] = torch.tensor([50.0, 0.0, 0.0])
    even = replace(SETTINGS.rank, stretch=1.0)  # as clouds without more detail are ranked
    terms = measure(RigidTransform(turns, shifts), level(points), level(other), even)
    assert float(terms.source_overlap[-1]) == 0 and torch.isfinite(RANKING.plausibility(terms)).all()
    assert int(RANKING.plausibility(terms).argmin()) == 29


def pair_and_motions() -> tuple[np.ndarray, np.ndarray, RigidTransform]:
    """Two samples of a shape, of which one lacks an end; the truth, and motions farther and farther off."""
    points, truth = shape(7, 900), motion(5)
    target = moved(truth, points[450:][points[450:, 0] < 0.3])
    twists = torch.linspace(0, 0.4, 6, dtype=torch.float64)[:, None] * torch.tensor([1, -1, 1, 0.2, 0.5, -0.3])
    return points[:450], target, RigidTransform.exp(twists) @ truth[None]


def test_overlap_and_contradiction_are_those_of_a_brute_search() -> None:
    source, target, motions = pair_and_motions()
    p, q = level(source), level(target)
    terms, rank = measure(motions, p, q, SETTINGS.rank), SETTINGS.rank
    spacing = max(p.spacing, q.spacing)
    gaps = oracles.local_gaps(source), oracles.local_gaps(target)
    for h in range(len(terms)):
        there, back = motions[h], motions[h].inverse()
        far, _ = oracles.met(moved(there, source), gaps[0], target, gaps[1], spacing, rank.stretch)
        near, _ = oracles.met(moved(back, target), gaps[1], source, gaps[0], spacing, rank.stretch)
        seen = far <= rank.seen, near <= rank.seen
        assert float(terms.source_overlap[h]) == pytest.approx(seen[0].mean(), abs=2.5 / len(source))
        assert float(terms.target_overlap[h]) == pytest.approx(seen[1].mean(), abs=2.5 / len(target))
        expected = [
            oracles.contradiction(*each, rank.patch) / (4 * each[0].mean() * (1 - each[0].mean()) + rank.strewn)
            for each in ((seen[0], source), (seen[1], target))
        ]
        assert float(terms.contradiction[h]) == pytest.approx(np.mean(expected), abs=0.03)
        shared = np.mean([np.log(each.mean() + rank.belief) for each in seen])
        assert float(terms.shared[h]) == pytest.approx(shared, abs=0.02)
    assert float(terms.contradiction[0]) < 0.3 < float(terms.contradiction.max())


def test_a_hole_amid_what_meets_contradicts_and_an_end_that_is_missing_does_not() -> None:
    rng = np.random.default_rng(0)
    sheet = np.column_stack([rng.uniform(-1, 1, (1200, 2)), 0.02 * rng.normal(size=1200)])
    speckled = sheet[np.sin(6 * sheet[:, 0]) * np.sin(6 * sheet[:, 1]) > 0]  # a chessboard: half of it
    half = sheet[sheet[:, 0] > 0]
    still = RigidTransform.identity((1,))
    edge, amid = (measure(still, level(sheet), level(part), SETTINGS.rank) for part in (half, speckled))
    assert abs(float(edge.source_overlap[0]) - float(amid.source_overlap[0])) < 0.25
    assert float(amid.contradiction[0]) > 3 * float(edge.contradiction[0])


@pytest.mark.parametrize("least", [0.0, 0.2])
def test_terms_do_not_know_the_frames(least: float) -> None:
    source, target, motions = pair_and_motions()
    first, second = motion(8), motion(9)
    terms = measure(motions, level(source), level(target), SETTINGS.rank, least=least)
    elsewhere = second[None] @ motions @ first.inverse()[None]
    again = measure(elsewhere, level(moved(first, source)), level(moved(second, target)), SETTINGS.rank, least=least)
    for name, value in vars(terms).items():
        torch.testing.assert_close(getattr(again, name), value, atol=5e-3, rtol=1e-2, msg=name)
    back = measure(motions.inverse(), level(target), level(source), SETTINGS.rank, least=least)
    for name in RANKED:
        torch.testing.assert_close(getattr(back, name), getattr(terms, name), atol=1e-4, rtol=1e-4, msg=name)
    torch.testing.assert_close(back.source_overlap, terms.target_overlap)


def test_lengths_are_measured_in_the_spacing_or_in_what_is_asked_for() -> None:
    source, target, motions = pair_and_motions()
    p, q = level(source), level(target)
    spacing = max(p.spacing, q.spacing)
    plain, same = (measure(motions[:1], p, q, SETTINGS.rank, least=least) for least in (0.0, spacing))
    assert plain.row(0) == same.row(0)
    coarse = measure(motions, p, q, SETTINGS.rank, least=3 * spacing)
    fine = measure(motions, p, q, SETTINGS.rank)
    # The same gaps in units three times as long; more counts as a counterpart.
    assert float(coarse.misfit[0]) == pytest.approx(float(fine.misfit[0]) - math.log(3), abs=0.4)
    assert float(coarse.relief[0]) == pytest.approx(float(fine.relief[0]) - math.log(3), abs=0.2)
    assert (coarse.source_overlap >= fine.source_overlap).all() and (coarse.score >= fine.score).all()


def test_what_is_sampled_sparsely_meets_at_its_own_spacing() -> None:
    """A sheet whose far half has a ninth of the points: another sample of it covers both halves."""
    halves = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        dense, sparse = rng.uniform([0, 0], [1, 1], (1100, 2)), rng.uniform([1, 0], [2, 1], (122, 2))
        halves.append(np.column_stack([np.concatenate([dense, sparse]), np.zeros(1222)]))
    p, q = (level(points) for points in halves)
    still = RigidTransform.identity((1,))
    local = measure(still, p, q, SETTINGS.rank)
    blind = measure(still, p, q, replace(SETTINGS.rank, stretch=1.0))
    assert 1 - float(local.source_overlap[0]) < 0.5 * (1 - float(blind.source_overlap[0])) < 0.1


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


def test_a_plane_that_parts_what_fits_from_what_does_not_is_seen() -> None:
    points = shape(8, 1200)
    cut = points[:, 0] > np.median(points[:, 0])
    strewn = np.random.default_rng(0).random(len(points)) > 0.5
    cuts = [
        float(_cut(torch.from_numpy(kept)[None], torch.from_numpy(points).float(), SETTINGS.rank.strewn)[0])
        for kept in (cut, strewn)
    ]
    assert cuts[0] > 0.6 and cuts[1] < 0.3
    spots = np.hstack([points, np.ones((len(points), 1))])
    left = cut - spots @ np.linalg.lstsq(spots, cut.astype(float), rcond=None)[0]
    share = cut.mean()
    expected = 1 - np.mean(left**2) / (share * (1 - share) + SETTINGS.rank.strewn)
    found = _cut(torch.from_numpy(cut)[None], torch.from_numpy(points).float(), SETTINGS.rank.strewn)
    assert float(found[0]) == pytest.approx(expected, abs=1e-4)


def test_narrow_disks_tell_a_small_gap_that_wide_ones_forgive() -> None:
    points = shape(9, 900)
    p = level(points)
    shifts = torch.tensor([0.0, 0.25]).double() * p.spacing
    motions = RigidTransform(
        torch.eye(3, dtype=torch.float64).expand(2, 3, 3), shifts[:, None] * torch.ones(3) / 3**0.5
    )
    terms = measure(motions, p, p, SETTINGS.rank)
    assert float(terms.closeness[0]) == pytest.approx(1, abs=1e-3)
    lost = {name: float(getattr(terms, name)[0] - getattr(terms, name)[1]) for name in ("score", "closeness")}
    assert lost["closeness"] > 1.5 * lost["score"] > 0
