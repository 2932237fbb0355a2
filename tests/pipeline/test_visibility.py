"""What a sensor saw through is empty: against brute force, ray by ray, and on a street."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems_pipeline import RANKING, SETTINGS, level, motion, moved, shape

from deepgmr.datasets.worlds.drives import street_pair
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.rank import RANKED, measure
from deepgmr.pipeline.registrar import register
from deepgmr.pipeline.scan import Pair, Scan
from deepgmr.pipeline.trace import Trace
from deepgmr.pipeline.visibility import View, seen_through

STILL = RigidTransform.identity((1,), dtype=torch.float64)
NUMBERS = SETTINGS.visibility


def share(view: View, points: np.ndarray, spacing: float = 0.0) -> float:
    """Of points where they are, and of as many as were looked at, without the belief."""
    believed = float(view.seen_through(STILL, torch.from_numpy(np.atleast_2d(points)), spacing)[0])
    return believed * (1 + NUMBERS.belief)


def room(rng: np.random.Generator, count: int) -> np.ndarray:
    """What a sensor at (1, 1, 1) sees of a box of 8 x 6 x 4 and a ball in it: exact hits of random rays."""
    rays = rng.normal(size=(count, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    walls = np.where(rays > 0, np.array([7.0, 5, 3]), -1.0) / rays
    middle, radius = np.array([3.0, 1.5, 0.2]), 0.6
    along = rays @ middle
    inside = along**2 - (middle @ middle - radius**2)
    ball = np.where((inside > 0) & (along > 0), along - np.sqrt(np.maximum(inside, 0)), np.inf)
    return rays * np.minimum(walls.min(axis=1), ball)[:, None] + 1


@pytest.mark.parametrize("count", [40, 2000])
def test_a_view_is_what_every_ray_says(count: int) -> None:
    # A point on the ray of a cloud's point stands in a cell that was looked at. It was certainly seen through if all
    # that the cloud shows within three cells lies behind it, and certainly not if something within .4 of one does not.
    rng = np.random.default_rng(count)
    cloud, origin = rng.normal(size=(count, 3)) * [3, 2, 1], np.array([0.2, -0.3, 0.1])
    view = View.of(cloud, origin, NUMBERS)
    offset = cloud - origin
    distance = np.linalg.norm(offset, axis=1)
    angles = np.arccos(np.clip((offset / distance[:, None]) @ (offset / distance[:, None]).T, -1, 1))
    found, certain, possible = [], [], []
    tilt = np.arccos(np.abs(offset[:, 2]) / distance)
    for i in np.flatnonzero(tilt > 3 * view.size):  # at the poles cells are cut more narrowly
        nearer = rng.uniform(0.2, 1.2)
        reach = (1 - NUMBERS.share) * distance - NUMBERS.margin * 0.05
        behind = nearer * distance[i] < reach
        found.append(share(view, origin + nearer * offset[i], 0.05) > 0.5)
        certain.append(behind[angles[i] < 3 * view.size].all())
        possible.append(behind[angles[i] < 0.4 * view.size].all() and behind[i])
    assert sum(certain) > count / 40 and sum(possible) < 0.9 * count
    assert all(f or not c for f, c in zip(found, certain, strict=True))
    assert all(p or not f for f, p in zip(found, possible, strict=True))


def test_what_stands_in_a_room_is_told_from_the_room() -> None:
    rng = np.random.default_rng(1)
    view = View.of(room(rng, 20_000), np.ones(3), NUMBERS)
    assert share(view, room(rng, 4000), 0.02) == 0.0  # edges and slanted walls included
    free = rng.uniform(0.4, 1.8, (500, 3))
    assert share(view, free, 0.02) == pytest.approx(1.0, abs=0.01)
    assert (
        share(view, np.array([[30.0, 2, 1], [4.0, 2.5, 1.2], [6.0, 3.5, 1.3], [-2, 0, 0]]), 0.02) == 0.0
    )  # behind all


def test_a_direction_that_was_not_looked_in_says_nothing() -> None:
    rng = np.random.default_rng(2)
    ahead = room(rng, 20_000)
    view = View.of(ahead[ahead[:, 0] > 1.5], np.ones(3), NUMBERS)
    behind = np.array([[0.5, 1, 1], [0.0, 0.5, 1.2]])
    assert share(view, behind, 0.02) == 0.0
    both = np.concatenate([behind, [[2.0, 1, 1.0]]])
    assert float(view.seen_through(STILL, torch.from_numpy(both), 0.02)[0]) == pytest.approx(1 / (1 + 0.03))


@pytest.mark.parametrize("seed", range(3))
def test_a_view_turns_with_its_cloud_and_needs_no_order(seed: int) -> None:
    rng, truth = np.random.default_rng(seed), motion(seed)
    points, other = room(rng, 20_000), torch.from_numpy(rng.uniform(-1, 4, (2000, 3)))
    view, mixed = (View.of(cloud, np.ones(3), NUMBERS) for cloud in (points, points[rng.permutation(len(points))]))
    assert view.size == pytest.approx(mixed.size, rel=0.05)
    turned = View.of(moved(truth, points), moved(truth, np.ones((1, 3)))[0], NUMBERS)
    here, there = (float(v.seen_through(m, other, 0.02)[0]) for v, m in ((view, STILL), (turned, truth[None])))
    assert 0.1 < here < 0.9 and here == pytest.approx(there, abs=0.02)  # cells lie elsewhere


def test_motions_at_once_are_motions_one_by_one() -> None:
    points, other = shape(3), torch.from_numpy(shape(4))
    views = (View.of(shape(4), np.array([0, 0, 2.0]), NUMBERS), View.of(points, np.array([0, 0, 2.0]), NUMBERS))
    motions = RigidTransform.random((6,), generator=torch.Generator().manual_seed(0), max_translation=0.5)
    source, target = other.float(), torch.from_numpy(points).float()
    at_once = seen_through(motions, source, target, views, 0.02)
    one_by_one = [seen_through(motions[i : i + 1], source, target, views, 0.02) for i in range(6)]
    assert torch.equal(at_once, torch.cat(one_by_one)) and (at_once > 0).any() and (at_once <= 1).all()
    backward = seen_through(motions.inverse(), target, source, views[::-1], 0.02)
    assert torch.allclose(at_once, backward, atol=0.01)
    sides = [seen_through(motions, source, target, one, 0.02) for one in ((views[0], None), (None, views[1]))]
    assert torch.allclose(at_once, (sides[0] + sides[1]) / 2)


def test_points_at_the_origin_and_a_handful_of_points_are_no_trouble() -> None:
    for points in (np.zeros((3, 3)), np.eye(3), np.array([[0, 0, 1.0], [0, 0, -1], [0, 0, 0]])):
        view = View.of(points, np.zeros(3), NUMBERS)
        assert 0 <= share(view, np.array([[0, 0, 0.5], [0.0, 0, 0], [0, 0, 3]])) < 0.7


# -- in the ranking ------------------------------------------------------------------------------------------------


def test_without_views_nothing_changes_to_the_bit() -> None:
    p, q = level(shape(7)), level(moved(motion(5), shape(7)))
    pool = RigidTransform.random((20,), generator=torch.Generator().manual_seed(1), max_translation=1.0)
    terms = measure(pool, p, q, SETTINGS.rank)
    weighed = torch.zeros_like(terms.score)
    for name in RANKED:
        weighed = weighed + RANKING.weights[name] * getattr(terms, name)
    assert not terms.seen_through.any() and torch.equal(RANKING.plausibility(terms), weighed)


@pytest.mark.parametrize("seed", range(3))
def test_stacked_sensors_on_a_street_stand_where_the_other_saw_through(seed: int) -> None:
    plan = street_pair(np.random.default_rng([5, seed]), beams=32, near=10, far=40)
    assert plan.origins is not None
    source, target = (cloud.astype(float) for cloud in plan.clouds(20_000))
    there = plan.target_from_source[:3, :3] @ plan.origins[0] + plan.target_from_source[:3, 3]
    assert 9.5 < np.linalg.norm(there) < 41 and not plan.origins[1].any()  # as far apart as was asked for
    stacked = plan.target_from_source.copy()
    stacked[:3, 3] -= there  # as if both had been seen from one place
    pair = Pair(Scan.of(source), Scan.of(target))
    places = zip((pair.source, pair.target), plan.origins, strict=True)
    views = [View.of(s.heaps.means / pair.scale, (o - s.origin) / pair.scale, NUMBERS) for s, o in places]
    motions = pair.enter(np.stack([plan.target_from_source, stacked]))
    blind, seeing = (
        measure(motions, *pair.fine(6000, 12), SETTINGS.rank, views=known) for known in ((None, None), tuple(views))
    )
    right, wrong = (RANKING.plausibility(blind) - RANKING.plausibility(seeing)).tolist()
    assert 0 <= right < 1 and wrong > 2.5 and int(RANKING.plausibility(seeing).argmax()) == 0


def test_register_looks_from_the_origins_and_is_right() -> None:
    plan, trace = street_pair(np.random.default_rng([5, 2]), beams=32, near=10, far=40), Trace()
    assert plan.origins is not None
    source, target = plan.clouds(15_000)
    answer = register(source, target, source_origin=plan.origins[0].tolist(), target_origin=(0, 0, 0), trace=trace)
    off = answer.target_from_source @ np.append(plan.origins[0], 1) - plan.target_from_source @ np.append(
        plan.origins[0], 1
    )
    assert np.linalg.norm(off) < plan.metres
    search = trace.search
    assert search is not None and search.terms.seen_through.max() > 2 and search.pose_terms.seen_through[0] < 1
    for view, scan, place in zip(search.views, (search.pair.source, search.pair.target), plan.origins, strict=True):
        assert view is not None and np.allclose(search.pair.scale * view.origin.numpy() + scan.origin, place)
    mixed = np.random.default_rng(0).permutation
    again = register(mixed(source), mixed(target), source_origin=plan.origins[0], target_origin=np.zeros(3))
    assert np.array_equal(answer.target_from_source, again.target_from_source)
