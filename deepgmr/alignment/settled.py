"""What is believed: the forest that most answers agree with, without the ties that are not, and how far to trust the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepgmr.alignment.bonds import Bond
from deepgmr.alignment.fitting import best_rows, edges_of, settled, share_of, telling
from deepgmr.alignment.forest import Forest, Table
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.worlds import Weighed, agreement, improved, score, weighed
from deepgmr.posegraph.graph import Edge

Missed = Callable[[int, int, np.ndarray], float]  # of two scans and a motion first from second: a log probability
Alike = Callable[[np.ndarray, np.ndarray], np.ndarray]  # poses (V, 4, 4), trees (V,): (V, V) of what either shows, met


@dataclass(frozen=True, eq=False)
class World:
    """What is believed."""

    forest: Forest  # with the poses that agree best
    bonds: list[Bond]
    chosen: dict[int, int]  # rows of the forest's table that are accepted, by the number of the bond
    probability: np.ndarray  # (B,) that a bond's motion, as chosen or as answered, is right
    path: np.ndarray  # (V, V) that two scans lie right to one another, if answers err apart; zero between components
    trust: np.ndarray  # (V, V) what that is worth: the share of sure answers that nothing faults, where it is least

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
        return edges_of(self.forest, self.bonds, telling(self.forest, self.chosen, settings), members)


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
        tried.append(settled(improved(Forest.grown(table, drawn), size, settings), bonds, size, settings))
        if len(tried[0][0].rows) == len(table):
            break  # there is no other
    forest, chosen = max(tried, key=lambda each: score(each[0], size, settings))
    while True:
        ties, weak = _ties(forest, bonds, chosen, size, settings, missed, alike)
        if not weak:
            break
        forest, chosen = settled(forest.without(weak), bonds, size, settings)
    probability = {row: tie.probability for row, tie in ties.items()}
    path, ratio = forest.along(probability), agreement(forest, size, settings)
    shares = np.zeros(len(bonds))
    for number, row in best_rows(forest, ratio).items():
        row = chosen.get(number, row)
        together = path[bonds[number].first, bonds[number].second]
        shares[number] = probability.get(row, together * share_of(forest, ratio, row))
    return World(forest, bonds, chosen, shares, path, _trust(forest, bonds, chosen, settings, alike))


def _ties(
    forest: Forest,
    bonds: list[Bond],
    chosen: dict[int, int],
    size: float,
    settings: AlignmentSettings,
    missed: Missed | None,
    alike: Alike | None,
) -> tuple[dict[int, Weighed], set[int]]:
    """How probable every tie is, and those that are to go."""
    ties = {row: weighed(forest, row, size, settings) for row in forest.rows}
    weak = {row for row, tie in ties.items() if tie.probability < settings.least}
    if weak:  # what is itself not believed first: it may have put a part where a sure tie cannot hold it
        return ties, {row for row in weak if forest.table.odds[row] < 1} or weak
    against = _against(forest, bonds, chosen, missed)
    ties = {row: tie.less(-_across(forest, row, against)) for row, tie in ties.items()}
    if alike is not None:  # or, where that is less, what is left if answers that err together share what they say
        same = alike(forest.poses, forest.tree)
        apart = {row: weighed(forest, row, size, settings, same) for row in ties}
        ties = {row: min(tie, apart[row], key=lambda each: each.logit) for row, tie in ties.items()}
    weakest = sorted(ties, key=lambda row: ties[row].logit)[:1]  # alone: it may be to blame for others
    return ties, {row for row in weakest if ties[row].probability < settings.least}


def _trust(
    forest: Forest, bonds: list[Bond], chosen: dict[int, int], settings: AlignmentSettings, alike: Alike | None
) -> np.ndarray:
    """(V, V) what answers that were sure of themselves are worth between two scans: the share of them that nothing faults.

    Those about either scan and all that are tied to it, or across any tie on the way, wherever it is least. One that is not
    accepted faults another one: either may be wrong. Where places repeat, answers are sure and contradict one another, and
    those that do not may have erred together: that so many agree is no proof there, so of accepted answers, as of others,
    those about scans that are all but wholly `alike` share one voice.
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
    same = np.eye(forest.table.count) if alike is None else alike(forest.poses, forest.tree) ** settings.voices
    voices = np.zeros((2, len(said)))  # of those that are not accepted, and of those that are
    for row in (0, 1):
        a, b = first[accepted == row], second[accepted == row]
        many = np.zeros_like(same)
        np.add.at(many, (a, b), 1.0)
        there, back = same @ many @ same, same @ many.T @ same  # both are the same where the two scans are
        voices[row, accepted == row] = 1 / (there[a, b] + (1 - same[a, b]) * back[a, b])
    good, bad = np.zeros((2, forest.table.count))
    for ends in (first, second):
        np.add.at(bad, ends, voices[0])
        np.add.at(good, ends, voices[1])
    near = _unfaulted(tied @ good, tied @ bad)
    across = {}
    for row in forest.rows:
        side = forest.side(row)
        crossing = (side[first] != side[second]) & (forest.tree[first] == forest.tree[second])
        across[row] = float(_unfaulted(*voices[::-1, crossing].sum(axis=1)))
    return np.minimum(forest.along(across, np.minimum), np.minimum(near[:, None], near))


def _unfaulted(accepted: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    return (accepted + 1) / (accepted + 2 * rejected + 1)


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
