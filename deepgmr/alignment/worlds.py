"""Which answers are right: the forest that most of them agree with, and how probable every tie in it is.

Every answer is right with its odds, or else says nothing of the true motion: then it agrees with others as little as any
motion drawn from all that are possible, or, where shapes repeat, by a chance that is a setting. So two parts that one
answer ties have that answer's confidence, answers that agree lift one another, and those that contradict share what there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from deepgmr.alignment.forest import LEVER, Forest, Table, inverse
from deepgmr.alignment.settings import AlignmentSettings

_SPACE = 8 * math.pi**2 * 4 / 3 * math.pi  # volume of all turns, times that of a ball


def agreement(forest: Forest, size: float, settings: AlignmentSettings) -> np.ndarray:
    """(H,) the log of how much likelier a right answer than any other is to lie as far from the forest as a row does.

    Minus infinity between trees.
    """
    table = forest.table
    off = inverse(table.motion) @ forest.between(table.first, table.second)
    error = np.concatenate([Rotation.from_matrix(off[:, :3, :3]).as_rotvec(), off[:, :3, 3]], axis=1)
    turn, shift = (each[table.first, table.second] for each in (forest.turn, forest.shift))
    inside = np.isfinite(turn)
    way = np.repeat(np.where(inside, [turn, shift], 0.0).T, 3, axis=1)  # (H, 6)
    values, axes = np.linalg.eigh(table.wide + way[:, None] * np.eye(6))
    squared = ((axes.swapaxes(1, 2) @ error[:, :, None])[:, :, 0] ** 2 / values).sum(axis=1)
    return np.where(inside, _ratio(squared, np.log(values).sum(axis=1), size, settings), -np.inf)


def improved(forest: Forest, size: float, settings: AlignmentSettings) -> Forest:
    """Ties that are all but certain are not looked at again before all others stand."""
    certain: set[int] = set()
    for _ in range(settings.sweeps):
        before, all_of_them = forest.rows, not certain
        for row in before:
            if row in forest.rows and row not in certain:
                found = weighed(forest, row, size, settings)
                if found.best != row:
                    forest = Forest.of(forest.table, tuple(found.best if each == row else each for each in forest.rows))
                if found.probability > settings.certain:
                    certain.add(found.best)
        if forest.rows == before:
            if all_of_them:
                break
            certain.clear()
    return forest


def score(forest: Forest, size: float, settings: AlignmentSettings) -> float:
    """Nats that speak for a forest: of the answers that agree with where it puts the scans."""
    if not len(forest.table):
        return 0.0
    support = np.minimum(agreement(forest, size, settings), -math.log(settings.chance))
    return float(_gain(support[None], forest.table, np.arange(len(forest.table)))[0])


@dataclass(frozen=True)
class Weighed:
    best: int  # the row that ties the two parts best; the one that does, if none is better
    logit: float  # of the probability that the parts lie to one another as that says

    @property
    def probability(self) -> float:
        return float(1 / (1 + np.exp(-np.clip(self.logit, -700, 700))))

    def less(self, nats: float) -> Weighed:
        """The same, when so much speaks against it."""
        return Weighed(self.best, self.logit - nats)


def weighed(
    forest: Forest, row: int, size: float, settings: AlignmentSettings, alike: np.ndarray | None = None
) -> Weighed:
    """The places of one part of a tree against the rest that answers between them propose, by how many agree with each.

    alike  (V, V) how much of either of two scans the other shows, as placed, in [0, 1]; by default nothing
    """
    table, side, tree = forest.table, forest.side(row), forest.tree
    ours = tree[table.first] == tree[table.first[row]]
    crossing = np.flatnonzero(
        ours & (tree[table.second] == tree[table.first]) & (side[table.first] != side[table.second])
    )
    inward = side[table.second[crossing]]
    a = np.where(inward, table.first[crossing], table.second[crossing])  # in the rest
    b = np.where(inward, table.second[crossing], table.first[crossing])  # in the part that is moved
    motion = np.where(inward[:, None, None], table.motion[crossing], inverse(table.motion[crossing]))
    moves = forest.poses[a] @ motion @ inverse(forest.poses[b])  # (K, 4, 4) of the part
    tried = np.argsort(np.where(crossing == row, -np.inf, -table.odds[crossing]), kind="stable")[: settings.candidates]
    turns, steps = moves[:, :3, :3], moves[:, :3, 3]
    turned = turns[tried].reshape(-1, 9) @ turns.reshape(-1, 9).T  # traces of the turns between them
    angle = np.arccos(np.clip((turned - 1) / 2, -1.0, 1.0))
    points = forest.poses[b][:, :3, 3]  # (K, 3)
    there = points @ turns[tried].swapaxes(1, 2) + steps[tried][:, None]  # (C, K, 3)
    own = (turns @ points[:, :, None])[:, :, 0] + steps
    turn, shift = _variances(forest, crossing, tried, a, b, there)
    squared = angle**2 / turn + ((there - own) ** 2).sum(axis=2) / shift
    ratio = _ratio(squared, 3 * np.log(turn * shift), size, settings)
    ratio[np.arange(len(tried)), tried] = math.inf
    support = np.minimum(ratio, -math.log(settings.chance))
    gain = _gain(support, table, crossing, None if alike is None else alike[np.ix_(a, a)] * alike[np.ix_(b, b)])
    weight = math.log(settings.chance) + np.where(gain > 30, gain, np.log(np.expm1(np.minimum(gain, 30))))
    first = int(np.flatnonzero(crossing[tried] == row)[0])
    best = _most_precise(
        weight, ratio[:, tried] > 0, table.turn[crossing[tried]] * table.shift[crossing[tried]], settings
    )
    best = first if weight[best] <= weight[first] + 1e-9 else best
    return Weighed(int(crossing[tried[best]]), _logit(weight, ratio[:, tried] > 0, best))


def _most_precise(weight: np.ndarray, same: np.ndarray, variance: np.ndarray, settings: AlignmentSettings) -> int:
    """Of the best place and those that are the same and hardly worse: more agrees with what is told vaguely."""
    top = int(weight.argmax())
    near = np.flatnonzero(same[:, top] & (weight >= weight[top] - settings.hardly))
    return int(near[variance[near].argmin()])


def _variances(
    forest: Forest, crossing: np.ndarray, tried: np.ndarray, a: np.ndarray, b: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(C, K) of what other answers say, a turn and a shift, where the part is placed by one: all on the way counts.

    A place that is told more vaguely than what is asked of it is held to as much as that: else everything would agree
    with it, and it would stand for as many worlds as there are answers.
    """
    table = forest.table
    rest, part = np.ix_(a[tried], a), np.ix_(b[tried], b)
    one, shift_one = (np.minimum(v[crossing[tried]][:, None], v[crossing]) for v in (table.turn, table.shift))
    turn = forest.turn[rest] + one + forest.turn[part] + table.turn[crossing]
    arm_rest = ((there - forest.poses[a[tried]][:, None, :3, 3]) ** 2).sum(axis=2)
    arm_one = ((forest.poses[b][None, :, :3, 3] - forest.poses[b[tried]][:, None, :3, 3]) ** 2).sum(axis=2)
    shift = forest.shift[rest] + shift_one + forest.shift[part] + table.shift[crossing]
    return turn, shift + LEVER * (forest.turn[rest] * arm_rest + one * arm_one)


def _gain(support: np.ndarray, table: Table, rows: np.ndarray, alike: np.ndarray | None = None) -> np.ndarray:
    """(C,) nats that speak for each of C places, of rows (K,) whose support (C, K) is a log: a bond is right once.

    Answers to the same question err together: of those that agree, about scans that show the same by alike (K, K), the one
    that says most counts in full.
    """
    start = np.unique(table.bond[rows], return_index=True)[1]
    gain = np.log1p(np.add.reduceat(table.odds[rows] * np.exp(support), start, axis=1))
    if alike is not None:
        same = alike[np.ix_(start, start)]
        gain = np.array([independent(each, same) for each in gain])
    return gain.sum(axis=1)


def independent(nats: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """What each of nats (K,) of one sign is worth, shared with those that say more as far as it is about the same.

    alike  (K, K) how much of what one is about another is, in [0, 1]
    """
    said = np.flatnonzero(nats)
    order = said[np.argsort(-np.abs(nats[said]), kind="stable")]
    worth = np.zeros(len(nats))
    worth[order] = nats[order] / (1 + np.tril(alike[np.ix_(order, order)], -1).sum(axis=1))
    return worth


def _logit(weight: np.ndarray, same: np.ndarray, best: int) -> float:
    """Of the best place and those that are the same, against all others and against none."""
    left = ~(same[best] | same[:, best])
    left[best] = False
    others = [0.0]
    while left.any():
        rival = int(np.flatnonzero(left)[weight[left].argmax()])
        others.append(float(weight[rival]))
        left &= ~(same[rival] | same[:, rival])
        left[rival] = False
    return float(weight[best]) - float(np.logaddexp.reduce(others))


def _ratio(squared: np.ndarray, volume: np.ndarray, size: float, settings: AlignmentSettings) -> np.ndarray:
    """The log density of a right answer over that of any motion in the space of a scan; none `beyond` what it may be off.

    squared  the squared Mahalanobis length of what it is off
    volume   the log of the determinant of the covariance of that
    """
    right = -3 * math.log(2 * math.pi) - volume / 2 - squared / 2
    return np.where(squared <= settings.beyond, right + math.log(_SPACE * size**3), -np.inf)
