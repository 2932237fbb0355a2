"""Finalists at finer levels: closer to the truth, within the prior; what the detail then says of an answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems_pipeline import SETTINGS, shape
from scipy.spatial.transform import Rotation

from deepgmr.datasets.worlds.halls import hall
from deepgmr.datasets.worlds.planned import Planned
from deepgmr.geometry.transform import RigidTransform, rotation_angle
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.detail import sharpen
from deepgmr.pipeline.judge import Status
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.rank import measure
from deepgmr.pipeline.refine import refine
from deepgmr.pipeline.registrar import Registrar, register
from deepgmr.pipeline.scan import Level, Pair, Scan
from deepgmr.pipeline.settings import LookSettings, to_plain
from deepgmr.pipeline.trace import Search, Trace, joined

Prepared = tuple[Planned, Pair, tuple[Level, Level], RigidTransform]


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A hall of 8 x 6 x 3 metres, its pair, fine levels, and the truth in the frame."""
    plan = hall(np.random.default_rng(3), scale=1.0)
    pair = Pair(*(Scan.of(cloud) for cloud in plan.clouds(8000)))
    return plan, pair, pair.fine(6000, SETTINGS.detail.neighbours), pair.enter(plan.target_from_source)


def sharpened(prepared: Prepared, motions: RigidTransform, prior: Prior) -> RigidTransform:
    _, pair, levels, _ = prepared
    reach = max(level.spacing for level in pair.levels())
    return sharpen(motions, *levels, reach=reach, prior=prior, settings=SETTINGS.detail, refinement=SETTINGS.refine)


def nudged(truth: RigidTransform, count: int, size: float) -> RigidTransform:
    """Motions (count,) that are off by about so many radians and sizes."""
    twists = size * torch.randn(count, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return RigidTransform.exp(twists) @ truth[None]


def errors(motions: RigidTransform, truth: RigidTransform) -> np.ndarray:
    """(H, 2) radians, and sizes at the middle of the target."""
    change = motions @ truth.inverse()[None]
    return np.stack([rotation_angle(change.rotation).numpy(), change.translation.norm(dim=-1).numpy()], axis=1)


# -- sharpen ---------------------------------------------------------------------------------------------------


def test_motions_come_closer_to_the_truth_at_a_finer_level(prepared: Prepared) -> None:
    truth = prepared[3]
    start = nudged(truth, 8, 0.015)
    before, after = errors(start, truth), errors(sharpened(prepared, start, Prior()), truth)
    assert (before.mean(axis=0) > 0.01).all() and after.max() < 0.002


def test_each_motion_is_sharpened_as_if_it_were_alone(prepared: Prepared) -> None:
    start = nudged(prepared[3], 3, 0.02)
    together = sharpened(prepared, start, Prior()).matrix
    for number in range(3):
        alone = sharpened(prepared, start[number : number + 1], Prior()).matrix[0]
        np.testing.assert_array_equal(together[number], alone)


def test_a_motion_that_would_leave_the_prior_stays_where_it_was(prepared: Prepared) -> None:
    truth = prepared[3]
    start = nudged(truth, 8, 0.02)
    for number in range(8):
        # The start is allowed, the truth is not.
        centre = RigidTransform.exp(-2.0 * (truth @ start[number].inverse()).log()) @ truth
        limit = 0.5 * float(rotation_angle(centre.rotation.mT @ start[number].rotation)) + 0.5 * float(
            rotation_angle(centre.rotation.mT @ truth.rotation)
        )
        prior = Prior(centre, limit)
        assert prior.allows(start.rotation)[number] and not prior.allows(truth.rotation)
        found = sharpened(prepared, start[number : number + 1], prior)
        assert prior.allows(found.rotation).all()
        np.testing.assert_array_equal(found.matrix[0], start.matrix[number])


def test_of_many_motions_none_leaves_the_prior(prepared: Prepared) -> None:
    truth = prepared[3]
    start = nudged(truth, 24, 0.03)
    prior = Prior(start[0], 0.06)
    allowed = start[prior.allows(start.rotation)]
    found = sharpened(prepared, allowed, prior)
    stayed = (found.matrix == allowed.matrix).all(-1).all(-1)
    assert prior.allows(found.rotation).all() and not stayed.all()


def test_where_nothing_is_within_reach_a_motion_stays(prepared: Prepared) -> None:
    far = RigidTransform(torch.eye(3, dtype=torch.float64)[None], torch.full((1, 3), 40.0, dtype=torch.float64))
    np.testing.assert_array_equal(sharpened(prepared, far, Prior()).matrix, far.matrix)


# -- what it does to answers -----------------------------------------------------------------------------------


def off(matrix: np.ndarray, truth: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Degrees, and metres at the mean of points (N, 3)."""
    gap = (matrix[:3, :3] - truth[:3, :3]) @ points.mean(axis=0) + matrix[:3, 3] - truth[:3, 3]
    turned = Rotation.from_matrix(matrix[:3, :3] @ truth[:3, :3].T).magnitude()
    return float(np.degrees(turned)), float(np.linalg.norm(gap))


def search_of(source: np.ndarray, target: np.ndarray, **settings: object) -> tuple[Registration, Search]:
    trace = Trace()
    answer = Registrar.load().replace(**settings).register(source, target, trace=trace)
    assert trace.search is not None
    return answer, trace.search


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_way_clouds_came_is_enough_where_they_are_nearly_aligned(scale: float) -> None:
    """An object, or a hall, a little off and far from the origin; nobody proposes anything."""
    if scale:
        plan = hall(np.random.default_rng(1), scale=scale)
        source, target = plan.clouds(8000)
        source = source @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
    else:
        source, target = np.split(shape(4, 2400), 2)
    nudge = RigidTransform.exp(torch.tensor([0.03, -0.02, 0.04, 0.02, 0.01, -0.02], dtype=torch.float64)).matrix.numpy()
    target = target @ nudge[:3, :3].T + nudge[:3, 3]
    apart = np.array([70.0, -20.0, 5.0])
    truth = nudge.copy()
    truth[:3, 3] += apart - nudge[:3, :3] @ apart
    looks = [to_plain(LookSettings(refined=1))]
    answer, search = search_of(source + apart, target + apart, **{"search.looks": looks, "search.detailed": looks})
    (look,) = search.looks
    assert set(look.proposed) == {"as they are"}
    np.testing.assert_allclose(search.pair.undo(look.proposed["as they are"]), np.eye(4)[None], atol=1e-12)
    degrees, metres = off(answer.target_from_source, truth, source + apart)
    assert degrees < 1 and metres < 0.02


def test_the_way_clouds_came_is_among_the_candidates_of_the_first_look_alone() -> None:
    source, target = np.split(shape(4, 2400), 2)
    _, search = search_of(source, target + 50.0, **{"search.clear": 2.0, "search.whole": 2.0})
    assert ["as they are" in look.proposed for look in search.looks] == [True, False]
    trace = Trace()
    awry = np.eye(4)
    awry[:3, 3] = 5.0
    register(source, target, initial=awry, trace=trace)
    assert trace.search is not None and trace.search.looks[0].proposed.keys() & {"given", "as they are"} == {"given"}


@pytest.mark.parametrize("seed", [0, 2])
def test_a_hall_is_answered_right_and_its_flip_is_less_plausible(seed: int) -> None:
    """Of scale 4, at 20,000 points: a component every 30 cm, where the hall turned round fits itself."""
    plan = hall(np.random.default_rng(seed), scale=4.0)
    source, target = plan.clouds(20_000)
    answer, search = search_of(source, target)
    degrees, metres = off(answer.target_from_source, plan.target_from_source, source)
    assert degrees < plan.degrees and metres < plan.metres and answer.status is Status.OK
    assert search.ranked is not search.levels  # there was more detail than is searched, and it was looked at
    # The hall turned round, its two clouds laid on one another:
    flip = plan.target_from_source.copy()
    flip[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ flip[:3, :3]
    flip[:3, 3] = target.mean(axis=0) - flip[:3, :3] @ source.mean(axis=0)
    inside = refine(search.pair.enter(flip[None]), *search.levels, Prior(), SETTINGS.refine)
    turned = sharpened((plan, search.pair, search.ranked, inside[0]), inside, Prior())
    terms = measure(joined([search.poses[:1], turned]), *search.ranked, SETTINGS.rank)
    right, wrong = Registrar.load().bundle.detailed_ranking.plausibility(terms).tolist()
    assert right > wrong + 1


def test_poses_are_in_order_and_the_answer_is_the_first(prepared: Prepared) -> None:
    once = {"search.detailed": [to_plain(SETTINGS.search.detailed[0])]}
    answer, search = search_of(*prepared[0].clouds(8000), **once, **{"detail.behind": 200.0})
    poses, terms = search.pair.undo(search.poses), search.pose_terms
    np.testing.assert_array_equal(poses[0], answer.target_from_source)
    np.testing.assert_array_equal(
        poses[1 : 1 + len(answer.alternatives)], [x.target_from_source for x in answer.alternatives]
    )
    assert 3 <= len(poses) == len(terms) <= SETTINGS.detail.finalists and search.finest is not None
    plausibility = Registrar.load().bundle.detailed_ranking.plausibility(terms)
    assert (plausibility[1:].diff() <= 0).all()
    some = {"detail.behind": float(plausibility[0] - plausibility[2]) + 1}
    assert len(search_of(*prepared[0].clouds(8000), **once, **some)[1].pose_terms) < len(terms)
    before = joined([search.looks[-1].pose[None], search.poses[1:]])  # the first was polished since
    again = measure(before, *search.finest, SETTINGS.rank, least=search.least)
    torch.testing.assert_close(again.score, terms.score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_thing_that_stands_there_twice_is_ambiguous_at_any_detail(seed: int) -> None:
    rng = np.random.default_rng(seed)
    thing = shape(seed, 12_000)
    turned = Rotation.random(random_state=seed).as_matrix()
    source, once, again = np.split(thing, 3)
    target = np.concatenate([once, again @ turned.T + [3.0, 0.0, 0.0]]) + 0.003 * rng.normal(size=(8000, 3))
    answer, _ = search_of(source, target)
    assert answer.status is Status.AMBIGUOUS and not answer.trusted and answer.confidence < 0.75
    motions = [answer.target_from_source, *(other.target_from_source for other in answer.alternatives)]
    elsewhere = np.block([[turned, np.array([[3.0], [0.0], [0.0]])], [np.zeros((1, 3)), 1.0]])
    for place in (np.eye(4), elsewhere):
        assert min(sum(off(motion, place, source)) for motion in motions) < 4
