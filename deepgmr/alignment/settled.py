"""Poses that agree best with all the answers that agree with them, and which answers those are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deepgmr.alignment.bonds import Bond
from deepgmr.alignment.forest import LEVER, Forest, Table, neighbours, reached, spanning
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.worlds import agreement, improved, score, weighed
from deepgmr.posegraph.graph import Edge, optimised, typical

Missed = Callable[[int, int, np.ndarray], float]  # of two scans and a motion first from second: a log probability
Alike = Callable[[np.ndarray, np.ndarray], np.ndarray]  # poses (V, 4, 4), trees (V,): (V, V) of what either shows, met


@dataclass(frozen=True, eq=False)
class World:
    """What is believed."""

    forest: Forest  # with the poses that agree best
    bonds: list[Bond]
    chosen: dict[int, int]  # rows of the forest's table that are accepted, by the number of the bond
    probability: np.ndarray  # (B,) that a bond's motion, as chosen or as answered, is right
    path: (
        np.ndarray
    )  # (V, V) that two scans lie right to one another, if answers err apart; zero in different components
    trust: np.ndarray  # (V, V) what that is worth: the share of sure answers that are accepted, where it is least

    @property
    def components(self) -> list[list[int]]:
        """The scans of every tree, rising; the largest first, those as large by their first scan."""
        found: dict[int, list[int]] = {}
        for scan, root in enumerate(self.forest.tree.tolist()):
            found.setdefault(root, []).append(scan)
        return sorted(found.values(), key=lambda each: (-len(each), each[0]))

    @property
    def counts(self) -> np.ndarray:
        """(V,) accepted bonds of every scan."""
        ends = [end for number in self.chosen for end in (self.bonds[number].first, self.bonds[number].second)]
        return np.bincount(np.array(ends, dtype=np.int64), minlength=self.forest.table.count)

    def vague(self, size: float, settings: AlignmentSettings) -> np.ndarray:
        """(V, V) whether how two scans lie to one another is known less closely than it may be."""
        return np.sqrt(np.maximum(self.forest.turn, self.forest.shift / size**2)) > settings.vague

    def edges(self, members: list[int], settings: AlignmentSettings) -> list[Edge]:
        """What is accepted between the scans of a component and tells something, by their places in it."""
        return _edges(self.forest, self.bonds, _telling(self.forest, self.chosen, settings), members)


def believed(
    bonds: list[Bond],
    count: int,
    size: float,
    settings: AlignmentSettings,
    missed: Missed | None = None,
    alike: Alike | None = None,
    *,
    starts: int,
    seed: int = 0,
) -> World:
    """The best of several forests between `count` scans, settled, without the ties that are less likely than `least`.

    The first starts as the tree of the surest answers, the others are drawn; each is improved tie by tie until none can be.
    Lengths are told in `size`. What was searched for where it should have been found and was not, `missed`, speaks against;
    answers about scans that are `alike` as placed are not as many as they are.
    """
    table, rng = Table.of(bonds, count), np.random.default_rng(seed)
    keys = np.log(table.odds)
    tried = []
    for start in range(starts):
        drawn = keys + rng.gumbel(size=len(keys)) if start else keys
        tried.append(_settled(improved(Forest.grown(table, drawn), size, settings), bonds, size, settings))
        if len(tried[0][0].rows) == len(table):
            break  # there is no other
    forest, chosen = max(tried, key=lambda each: score(each[0], size, settings))
    while True:
        ties = {row: weighed(forest, row, size, settings) for row in forest.rows}
        weak = {row for row, tie in ties.items() if tie.probability < settings.least}
        # By what speaks for them, what is itself not believed first: it may have put a part where a sure tie cannot hold it.
        weak = {row for row in weak if table.odds[row] < 1} or weak
        if (
            not weak
        ):  # then by what speaks against, or if what says the same counts less, the weakest first: it may be to
            # blame for others
            against, same = (
                _against(forest, bonds, chosen, missed),
                None if alike is None else alike(forest.poses, forest.tree),
            )
            ties = {row: tie.less(-_across(forest, row, against)) for row, tie in ties.items()}
            if same is not None:
                apart = {row: weighed(forest, row, size, settings, same) for row in ties}
                ties = {row: min(tie, apart[row], key=lambda each: each.logit) for row, tie in ties.items()}
            weakest = min(ties, key=lambda row: ties[row].logit, default=None)
            weak = {weakest} if weakest is not None and ties[weakest].probability < settings.least else set()
        if not weak:
            break
        forest, chosen = _settled(forest.without(weak), bonds, size, settings)
    probability = {row: tie.probability for row, tie in ties.items()}
    path, ratio = forest.along(probability), agreement(forest, size, settings)
    shares = np.zeros(len(bonds))
    for number, row in _best(forest, ratio).items():
        row = chosen.get(number, row)
        together = path[bonds[number].first, bonds[number].second]
        shares[number] = probability.get(row, together * _share(forest, ratio, row))
    return World(forest, bonds, chosen, shares, path, _trust(forest, bonds, chosen, settings))


def _settled(
    forest: Forest, bonds: list[Bond], size: float, settings: AlignmentSettings
) -> tuple[Forest, dict[int, int]]:
    """What agrees pulls at the poses, and what does not agree with these any more lets go."""
    chosen: dict[int, int] = {}
    for _ in range(settings.settlings):
        before, ratio = chosen, agreement(forest, size, settings)
        chosen = {number: row for number, row in _best(forest, ratio).items() if _share(forest, ratio, row) > 0.5}
        chosen |= _holding(forest, list(chosen.values()))
        if chosen == before:
            break
        poses, telling = forest.poses.copy(), _telling(forest, chosen, settings)
        for root in np.unique(forest.tree):
            members = np.flatnonzero(forest.tree == root).tolist()
            edges = _edges(forest, bonds, telling, members)
            poses[members] = fitted(poses[members], edges, settings)
        turn, shift = _resistances(forest, list(telling.values()), poses)
        forest = replace(forest, poses=poses, turn=turn, shift=shift)
    # by what is surest: what little ties must hang on the rest, not hold it together, so that a cut tells of it alone
    rows = np.array(sorted(chosen.values(), key=lambda row: (-forest.table.odds[row], row)), dtype=np.int64)
    return replace(forest, rows=spanning(forest.table, rows)), chosen


def fitted(poses: np.ndarray, edges: list[Edge], settings: AlignmentSettings) -> np.ndarray:
    """The poses that agree best with edges; what is off by much more than the others are counts for little.

    Covariances say how far an answer may be off, not how far it is: where all but a few agree far more closely than they
    would have to, those few are wrong by as much.
    """
    poses = optimised(poses, edges, rounds=settings.iterations, robust=settings.robust)
    robust = settings.robust * max(typical(poses, edges), settings.closest)
    return optimised(poses, edges, rounds=settings.iterations, robust=robust)


def _trust(forest: Forest, bonds: list[Bond], chosen: dict[int, int], settings: AlignmentSettings) -> np.ndarray:
    """(V, V) what answers that were sure of themselves are worth between two scans: the share of them that is accepted.

    Those about either scan and all that are tied to it, or across any tie on the way, wherever it is least. Where places
    repeat, answers are sure and contradict one another, and those that do not may have erred together: that so many agree is
    no proof there.
    """
    tied = np.eye(forest.table.count)
    said = []  # first, second, and whether it is accepted
    for number, bond in enumerate(bonds):
        row = chosen.get(number)
        if row is not None:
            tied[[bond.first, bond.second], [bond.second, bond.first]] = 1.0
        if bond.odds[0] >= settings.doubt / (1 - settings.doubt):
            said.append((bond.first, bond.second, row is not None and forest.table.hypothesis[row] == 0))
    first, second, accepted = np.array(said, dtype=np.int64).reshape(-1, 3).T
    ends = np.zeros((forest.table.count, 2))
    np.add.at(
        ends, np.concatenate([first, second]), np.tile(np.stack([accepted, np.ones_like(accepted)], axis=1), (2, 1))
    )
    about = tied @ ends
    near = (about[:, 0] + 1) / (about[:, 1] + 1)
    across = {}
    for row in forest.rows:
        side = forest.side(row)
        crossing = (side[first] != side[second]) & (forest.tree[first] == forest.tree[second])
        across[row] = float((accepted[crossing].sum() + 1) / (crossing.sum() + 1))
    return np.minimum(forest.along(across, np.minimum), np.minimum(near[:, None], near))


def _telling(forest: Forest, chosen: dict[int, int], settings: AlignmentSettings) -> dict[int, int]:
    """The rows by bond that pull at the poses: not those told far more vaguely than others tell the same.

    Vague answers about scans that hardly overlap err alike, by less than they admit; many would outvote a precise one.
    """
    table, rows = forest.table, np.array(sorted(chosen.values()), dtype=np.int64)
    variance = table.turn * table.shift
    best = Forest.of(table, spanning(table, rows[np.argsort(variance[rows], kind="stable")]))
    ends = table.first[rows], table.second[rows]
    told = variance[rows] <= settings.vaguer**4 * best.turn[ends] * best.shift[ends]
    kept = set(best.rows) | set(rows[told].tolist())
    return {number: row for number, row in chosen.items() if row in kept}


def _against(forest: Forest, bonds: list[Bond], chosen: dict[int, int], missed: Missed | None) -> np.ndarray:
    """(V, V) nats that speak against that two scans lie as they are placed: their search found something else."""
    found = np.zeros((forest.table.count, forest.table.count))
    for number, bond in enumerate(bonds):
        i, j = bond.first, bond.second
        if missed is not None and number not in chosen and forest.tree[i] == forest.tree[j]:
            motion = forest.between(np.array([i]), np.array([j]))[0]
            found[i, j] = found[j, i] = missed(i, j, motion)
    return found


def _across(forest: Forest, row: int, against: np.ndarray) -> float:
    side = forest.side(row)
    return float(against[np.ix_(side, ~side)].sum())


def _holding(forest: Forest, rows: list[int]) -> dict[int, int]:
    """The ties of the forest without which rows would not hold its trees together, by the numbers of their bonds."""
    table, kept = forest.table, list(rows)
    found = {}
    for row in forest.rows:
        if int(table.second[row]) not in reached(neighbours(table, kept), int(table.first[row])):
            kept.append(row)
            found[int(table.bond[row])] = row
    return found


def _best(forest: Forest, ratio: np.ndarray) -> dict[int, int]:
    """Of every bond between scans of one tree the row that agrees best."""
    support = np.log(forest.table.odds) + ratio
    found: dict[int, int] = {}
    for row in np.flatnonzero(forest.tree[forest.table.first] == forest.tree[forest.table.second]).tolist():
        number = int(forest.table.bond[row])
        if number not in found or support[row] > support[found[number]]:
            found[number] = row
    return found


def _share(forest: Forest, ratio: np.ndarray, row: int) -> float:
    """The probability of a row, where the forest is right."""
    return float(1 / (1 + np.exp(-np.clip(np.log(forest.table.odds[row]) + ratio[row], -50, 50))))


def _edges(forest: Forest, bonds: list[Bond], chosen: dict[int, int], members: list[int]) -> list[Edge]:
    place = {scan: row for row, scan in enumerate(members)}
    found = []
    for number, row in sorted(chosen.items()):
        bond = bonds[number]
        if bond.first in place:
            motion = bond.motions[forest.table.hypothesis[row]]
            found.append(Edge(place[bond.first], place[bond.second], motion, bond.covariance, loop=True))
    return found


def _resistances(forest: Forest, rows: list[int], poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V, V) variances between scans when all the ways between them are known: those of turns, and of places.

    Electrical: a conductor for every row, as good as it is precise (Barooah and Hespanha 2007). A turn moves what is at
    the end of a straight way by a third of what it would from its start.
    """
    table, found = forest.table, []
    apart = forest.tree[:, None] != forest.tree[None]
    for variance in (table.turn[rows], table.shift[rows]):
        laplacian = np.zeros((table.count, table.count))
        np.add.at(laplacian, (table.first[rows], table.second[rows]), -1 / variance)
        laplacian += laplacian.T
        held = np.linalg.pinv(laplacian - np.diag(laplacian.sum(axis=1)), hermitian=True)
        own = np.diag(held)
        found.append(np.where(apart, np.inf, np.maximum(own[:, None] + own[None] - 2 * held, 0.0)))
    turn, shift = found
    x = poses[:, :3, 3]
    arm = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    return turn, shift + np.where(apart, 0.0, LEVER / 3 * np.where(apart, 0.0, turn) * arm)
