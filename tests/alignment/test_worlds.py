"""Which answers are right, from answers that are made up: the truth is known exactly, and so are the odds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deepgmr.alignment.bonds import Bond
from deepgmr.alignment.forest import Forest, Table
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.settled import World, believed
from deepgmr.alignment.worlds import independent

TURN, SHIFT = np.radians(0.3), 0.006  # standard deviations, sizes of one
SETTINGS = AlignmentSettings()


def random_pose(rng: np.random.Generator, spread: float = 2.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.random(random_state=rng).as_matrix(), spread * rng.normal(size=3)
    return pose


def noisy(motion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = Rotation.from_rotvec(TURN * rng.normal(size=3)).as_matrix(), SHIFT * rng.normal(size=3)
    return motion @ step


def told(first: int, second: int, motions: list[np.ndarray], odds: list[float]) -> Bond:
    covariance = np.diag([TURN**2] * 3 + [SHIFT**2] * 3)
    return Bond(first, second, np.array(motions), np.array(odds), covariance, 9 * covariance)


def right(poses: np.ndarray, first: int, second: int, rng: np.random.Generator, odds: float = 19.0) -> Bond:
    return told(first, second, [noisy(np.linalg.inv(poses[first]) @ poses[second], rng)], [odds])


def world_of(bonds: list[Bond], count: int, seed: int = 0) -> World:
    return believed(bonds, count, 1.0, SETTINGS, starts=SETTINGS.starts, seed=seed)


def test_one_answer_alone_has_its_own_confidence() -> None:
    rng = np.random.default_rng(0)
    poses = np.array([random_pose(rng) for _ in range(2)])
    for confidence in (0.55, 0.9, 0.99):
        bond = right(poses, 0, 1, rng, confidence / (1 - confidence))
        world = world_of([bond], 2)
        assert world.path[0, 1] == pytest.approx(confidence, rel=1e-9)
        np.testing.assert_allclose(world.forest.between(np.array([0]), np.array([1]))[0], bond.motions[0], atol=1e-12)
    assert world_of([right(poses, 0, 1, rng, 0.6)], 2).components == [[0], [1]], "less likely right than not"


def test_answers_that_agree_lift_one_another_and_those_that_do_not_share() -> None:
    rng = np.random.default_rng(1)
    poses = np.array([random_pose(rng) for _ in range(3)])
    pairs = [(0, 1), (1, 2), (0, 2)]
    unsure = [right(poses, *pair, rng, 3.0) for pair in pairs]
    assert world_of(unsure, 3).path.min() > 0.9 > 0.75, "a cycle that closes"
    wrong = told(0, 2, [random_pose(rng)], [19.0])
    split = world_of([right(poses, 0, 1, rng), right(poses, 1, 2, rng), wrong], 3)
    assert split.probability.max() < 0.55, "one of three is wrong, and nothing says which"


def test_an_alternative_that_closes_the_cycle_is_taken() -> None:
    rng = np.random.default_rng(2)
    poses = np.array([random_pose(rng) for _ in range(4)])
    bonds = [right(poses, *pair, rng) for pair in [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)]]
    true = noisy(np.linalg.inv(poses[0]) @ poses[3], rng)
    bonds.append(told(0, 3, [random_pose(rng), random_pose(rng), true], [4.0, 0.3, 0.3]))
    found = world_of(bonds, 4)
    hypotheses = found.forest.table.hypothesis[[found.chosen[number] for number in range(6)]]
    assert hypotheses.tolist() == [0, 0, 0, 0, 0, 2] and found.probability[5] > 0.99
    assert found.counts.tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("share", [0.2, 0.45])
def test_planted_wrong_answers_are_rejected(share: float) -> None:
    rng = np.random.default_rng(3)
    count = 14
    poses = np.array([random_pose(rng) for _ in range(count)])
    bonds, truth = [], []
    for first, second in itertools.combinations(range(count), 2):
        if rng.random() < 0.8:
            truth.append(bool(rng.random() > share))
            odds = float(rng.choice([1.5, 4.0, 19.0]))
            bonds.append(
                right(poses, first, second, rng, odds) if truth[-1] else told(first, second, [random_pose(rng)], [odds])
            )
    world = world_of(bonds, count)
    assert world.components == [list(range(count))]
    assert [number in world.chosen for number in range(len(bonds))] == truth
    apart = world.forest.between(np.zeros(count, int), np.arange(count)) @ np.linalg.inv(
        np.linalg.inv(poses[0]) @ poses
    )
    assert np.degrees(Rotation.from_matrix(apart[:, :3, :3]).magnitude()).max() < 1


def test_parts_that_nothing_ties_stay_apart() -> None:
    rng = np.random.default_rng(4)
    poses = np.array([random_pose(rng) for _ in range(7)])
    bonds = [right(poses, *pair, rng) for pair in [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (5, 6), (3, 5)]]
    bonds += [told(i, j, [random_pose(rng)], [0.4]) for i, j in [(0, 3), (1, 4), (2, 6), (2, 3)]]
    world = world_of(bonds, 7)
    assert world.components == [[3, 4, 5, 6], [0, 1, 2]]
    assert (world.path[:3, 3:] == 0).all()


def test_a_part_that_is_placed_twice_is_not_sure() -> None:
    """Two alike rooms: two answers that agree say one thing, two others another."""
    rng = np.random.default_rng(5)
    poses = np.array([random_pose(rng) for _ in range(5)])
    elsewhere = poses.copy()
    elsewhere[4] = random_pose(rng)
    inside = [right(poses, i, j, rng) for i, j in itertools.combinations(range(4), 2)]
    rivals = [right(poses, 0, 4, rng), right(poses, 1, 4, rng)]
    rivals += [right(elsewhere, 2, 4, rng), right(elsewhere, 3, 4, rng)]
    world = world_of(inside + rivals, 5)
    assert world.path[0, 4] < 0.6
    assert world.path[:4, :4].min() > 0.999
    sure = world_of([*inside, *rivals[:3]], 5)
    assert sure.path[0, 4] > 0.9, "two against one, each of 95 %"


def test_the_way_between_two_scans_gathers_what_it_may_be_off() -> None:
    """Against the spread of chains that are drawn."""
    rng = np.random.default_rng(6)
    poses = np.array([random_pose(rng) for _ in range(8)])
    motions = [np.linalg.inv(poses[i]) @ poses[i + 1] for i in range(7)]
    bonds = [told(i, i + 1, [motions[i]], [19.0]) for i in range(7)]
    forest = Forest.grown(Table.of(bonds, 8), np.zeros(7))
    ends = []
    for _ in range(4000):
        pose = np.eye(4)
        for motion in motions:
            step = np.eye(4)
            step[:3, :3] = Rotation.from_rotvec(3 * TURN * rng.normal(size=3)).as_matrix()
            step[:3, 3] = 3 * SHIFT * rng.normal(size=3)
            pose = pose @ motion @ step
        ends.append(pose)
    drawn = np.array(ends)
    true = np.linalg.inv(poses[0]) @ poses[7]
    turn = Rotation.from_matrix(true[:3, :3].T @ drawn[:, :3, :3]).as_rotvec().var()
    shift = ((drawn[:, :3, 3] - true[:3, 3]) ** 2).mean()
    assert forest.turn[0, 7] == pytest.approx(turn, rel=0.1)
    assert shift / 2 < forest.shift[0, 7] < 2 * shift, "turns at the start of an edge instead of at its end"
    assert forest.turn[2, 5] == forest.turn[5, 2] and np.isfinite(forest.shift).all()


def test_a_forest_is_the_tree_of_the_largest_keys() -> None:
    rng = np.random.default_rng(7)
    count = 9
    pairs = list(itertools.combinations(range(count), 2))
    keys = rng.normal(size=len(pairs))
    table = Table.of([told(*pair, [random_pose(rng)], [1.0]) for pair in pairs], count)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    lengths = coo_array((keys.max() + 1 - keys, tuple(np.array(pairs).T)), shape=(count, count))
    best = minimum_spanning_tree(lengths).sum()
    forest = Forest.grown(table, keys)
    assert len(forest.rows) == count - 1
    assert (keys.max() + 1 - keys[list(forest.rows)]).sum() == pytest.approx(best)
    for row in forest.rows:
        side = forest.side(row)
        assert side[table.first[row]] != side[table.second[row]] and side.sum() <= count // 2


def test_a_vague_answer_is_no_world_of_its_own() -> None:
    """It agrees with everything, and yet what agrees closely is as sure as without it."""
    rng = np.random.default_rng(8)
    poses = np.array([random_pose(rng) for _ in range(5)])
    bonds = [right(poses, *pair, rng, 50.0) for pair in itertools.combinations(range(5), 2) if pair != (3, 4)]
    without = world_of(bonds, 5)
    vague = np.diag([1.0] * 3 + [0.3] * 3)
    motions = np.array([random_pose(rng) for _ in range(4)])
    true = np.linalg.inv(poses[3]) @ poses[4]
    motions[:, :3, 3] = true[:3, 3] + 0.2 * rng.normal(size=(4, 3))
    world = world_of([*bonds, Bond(3, 4, motions, np.array([0.3] * 4), vague, 4 * vague)], 5)
    assert without.path.min() > 0.99 and world.path.min() > 0.98


def test_an_answer_is_held_to_its_own_covariance_in_every_direction() -> None:
    """Free about one axis, it may be off about that one, and about no other."""
    rng = np.random.default_rng(9)
    poses = np.array([random_pose(rng) for _ in range(4)])
    bonds = [right(poses, *pair, rng) for pair in [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)]]
    wide = np.diag([TURN**2, TURN**2, 1.0] + [SHIFT**2] * 3)
    for axis, accepted in ((2, True), (0, False)):
        step = np.eye(4)
        step[:3, :3] = Rotation.from_rotvec(np.radians(40) * np.eye(3)[axis]).as_matrix()
        motion = np.linalg.inv(poses[0]) @ poses[3] @ step
        world = world_of([*bonds, Bond(0, 3, motion[None], np.array([3.0]), wide, 9 * wide)], 4)
        assert (5 in world.chosen) == accepted


def test_what_is_off_by_far_more_than_the_rest_hardly_bends_the_poses() -> None:
    """Answers that agree within a tenth of what they state, and one that is off by what it states."""
    rng = np.random.default_rng(10)
    poses = np.array([random_pose(rng) for _ in range(6)])
    covariance = np.diag([np.radians(1.0) ** 2] * 3 + [0.02**2] * 3)
    bonds = []
    for first, second in itertools.combinations(range(6), 2):
        motion = np.linalg.inv(poses[first]) @ poses[second]
        step = np.eye(4)
        size = 2.0 if (first, second) == (0, 5) else 0.05
        step[:3, :3] = Rotation.from_rotvec(size * np.radians(1.0) * rng.normal(size=3)).as_matrix()
        step[:3, 3] = 0.05 * 0.02 * rng.normal(size=3)
        bonds.append(Bond(first, second, (motion @ step)[None], np.array([50.0]), covariance, 4 * covariance))
    found = world_of(bonds, 6).forest
    apart = found.between(np.zeros(6, int), np.arange(6)) @ np.linalg.inv(np.linalg.inv(poses[0]) @ poses)
    assert np.degrees(Rotation.from_matrix(apart[:, :3, :3]).magnitude()).max() < 0.15


def test_many_vague_answers_that_err_alike_do_not_outvote_a_precise_one() -> None:
    """Two parts of four; one precise answer between them, and sixteen vague ones that are all off by the same."""
    rng = np.random.default_rng(21)
    poses = np.array([random_pose(rng, 0.3) for _ in range(8)])
    bonds = [right(poses, a, b, rng) for part in (range(4), range(4, 8)) for a, b in itertools.combinations(part, 2)]
    bias = np.eye(4)
    bias[:3, 3] = [0.1, 0.0, 0.0]
    vague = np.diag([0.1**2] * 3 + [0.05**2] * 3)
    for a, b in itertools.product(range(4), range(4, 8)):
        motion = np.linalg.inv(poses[a]) @ bias @ poses[b]
        bonds.append(Bond(a, b, motion[None], np.array([4.0]), vague, 4 * vague))
    bonds[bonds.index(next(bond for bond in bonds if (bond.first, bond.second) == (3, 4)))] = right(poses, 3, 4, rng)
    world = world_of(bonds, 8)
    assert len(world.components) == 1
    found = world.forest.between(np.array([0]), np.array([7]))[0]
    true = np.linalg.inv(poses[0]) @ poses[7]
    assert np.linalg.norm(found[:3, 3] - true[:3, 3]) < 0.03
    assert not world.vague(1.0, SETTINGS).any()


def test_answers_about_scans_that_show_the_same_count_as_the_surest_of_them() -> None:
    nats, rng = np.array([1.0, 4.0, 0.0, 2.0]), np.random.default_rng(3)
    np.testing.assert_array_equal(independent(nats, np.eye(4)), nats)
    assert independent(nats, np.ones((4, 4))).sum() == pytest.approx(4 + 2 / 2 + 1 / 3), (
        "the one that says nothing is none"
    )
    half = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
    assert independent(nats, half).sum() == pytest.approx(4 + 2 / 1.5 + 1 / 2)
    for _ in range(20):
        alike = rng.uniform(size=(4, 4))
        np.fill_diagonal(alike, 1.0)
        worth = independent(nats, (alike + alike.T) / 2)
        assert nats.max() <= worth.sum() <= nats.sum()
        np.testing.assert_allclose(independent(-nats, (alike + alike.T) / 2), -worth)


def test_copies_of_a_wrong_answer_do_not_outweigh_one_that_contradicts_them() -> None:
    """Two of two scans, each pair of which shows the same: four answers at one place, one at another."""
    rng = np.random.default_rng(5)
    poses = np.array([random_pose(rng, 0.3) for _ in range(4)])
    other = poses.copy()
    other[2:] = random_pose(rng) @ poses[2:]
    bonds = [right(poses, 0, 1, rng, 99.0), right(poses, 2, 3, rng, 99.0), right(poses, 1, 2, rng, 60.0)]
    bonds += [right(other, a, b, rng, 50.0) for a, b in ((0, 2), (0, 3), (1, 3))]

    def alike(of: np.ndarray, tree: np.ndarray) -> np.ndarray:
        return np.kron(np.eye(2), np.ones((2, 2)))

    def sure(same: object) -> float:
        return float(believed(bonds, 4, 1.0, SETTINGS, None, same, starts=4).path[0, 2])  # type: ignore[arg-type]

    assert sure(None) > 0.999
    assert sure(alike) < 0.98


def test_where_sure_answers_contradict_one_another_less_is_believed() -> None:
    """A chain of four, and one scan that is placed twice: nothing else doubts what is tied to it."""
    rng = np.random.default_rng(6)
    poses = np.array([random_pose(rng, 0.3) for _ in range(5)])
    bonds = [right(poses, a, b, rng, 99.0) for a, b in itertools.combinations(range(4), 2)]
    assert (world_of(bonds, 4).trust == 1).all()
    elsewhere = poses.copy()
    elsewhere[4] = random_pose(rng)
    bonds += [right(poses, 0, 4, rng, 99.0), right(poses, 1, 4, rng, 99.0), right(elsewhere, 3, 4, rng, 99.0)]
    world = world_of(bonds, 5)
    # answers about each: 4, 4, 3, 4 and 3, accepted 4, 4, 3, 3 and 2; the last is tied to the first and second alone
    np.testing.assert_allclose(np.diag(world.trust), [17 / 21, 17 / 21, 15 / 17, 15 / 17, 11 / 13])
    # and of three that tie the last to any, one is not accepted
    np.testing.assert_allclose(world.trust[4, :4], 3 / 5)
    assert (world.trust == world.trust.T).all()


def test_a_dozen_scans_of_one_spot_are_one_voice() -> None:
    """Five scans that are laid on one spot agree ten times over; two answers, about one more, contradict each other."""
    rng = np.random.default_rng(8)
    poses = np.array([random_pose(rng, 0.3) for _ in range(6)])
    bonds = [right(poses, a, b, rng, 99.0) for a, b in itertools.combinations(range(5), 2)]
    elsewhere = poses.copy()
    elsewhere[5] = random_pose(rng)
    bonds += [right(poses, 0, 5, rng, 99.0), right(poses, 1, 5, rng, 99.0), right(elsewhere, 2, 5, rng, 99.0)]
    stack = np.eye(6)
    stack[:5, :5] = 1.0

    def trust(same: np.ndarray) -> np.ndarray:
        return believed(bonds, 6, 1.0, SETTINGS, None, lambda of, tree: same, starts=1).trust

    apart = trust(np.eye(6))
    np.testing.assert_allclose(apart, believed(bonds, 6, 1.0, SETTINGS, starts=1).trust)
    # about each of the five and all that are tied to it: ten answers among them, two or three with the last, one not accepted
    assert apart[3, 4] == (4 * 5 + 2 + 1) / (4 * 5 + 2 + 2 * 1 + 1)
    # the ten are one voice, two of five scans being in each, and those to the last one more, half of it each
    together = trust(stack)
    np.testing.assert_allclose(together[3, 4], (2 + 1 + 1) / (2 + 1 + 2 * 1 + 1))
