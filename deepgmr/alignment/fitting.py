"""Which answers agree with a forest, and the poses that agree best with those."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepgmr.alignment.bonds import Bond
from deepgmr.alignment.forest import LEVER, Forest, spanning
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.worlds import agreement
from deepgmr.posegraph.graph import Edge, optimised, typical


def settled(
    forest: Forest, bonds: list[Bond], size: float, settings: AlignmentSettings
) -> tuple[Forest, dict[int, int]]:
    """What agrees pulls at the poses, and what does not agree with these any more lets go."""
    chosen: dict[int, int] = {}
    for _ in range(settings.settlings):
        before, ratio = chosen, agreement(forest, size, settings)
        chosen = {number: row for number, row in best_rows(forest, ratio).items() if share_of(forest, ratio, row) > 0.5}
        chosen |= _holding(forest, list(chosen.values()))
        if chosen == before:
            break
        poses, pulling = forest.poses.copy(), telling(forest, chosen, settings)
        for root in np.unique(forest.tree):
            members = np.flatnonzero(forest.tree == root).tolist()
            edges = edges_of(forest, bonds, pulling, members)
            poses[members] = fitted(poses[members], edges, settings)
        turn, shift = _resistances(forest, list(pulling.values()), poses)
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


def telling(forest: Forest, chosen: dict[int, int], settings: AlignmentSettings) -> dict[int, int]:
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


def _holding(forest: Forest, rows: list[int]) -> dict[int, int]:
    """The ties of the forest without which rows would not hold its trees together, by the numbers of their bonds."""
    table = forest.table
    held = set(spanning(table, np.array([*rows, *forest.rows], dtype=np.int64))) - set(rows)
    return {int(table.bond[row]): row for row in forest.rows if row in held}


def best_rows(forest: Forest, ratio: np.ndarray) -> dict[int, int]:
    """Of every bond between scans of one tree the row that agrees best."""
    support = np.log(forest.table.odds) + ratio
    found: dict[int, int] = {}
    for row in np.flatnonzero(forest.tree[forest.table.first] == forest.tree[forest.table.second]).tolist():
        number = int(forest.table.bond[row])
        if number not in found or support[row] > support[found[number]]:
            found[number] = row
    return found


def share_of(forest: Forest, ratio: np.ndarray, row: int) -> float:
    """The probability of a row, where the forest is right."""
    return float(1 / (1 + np.exp(-np.clip(np.log(forest.table.odds[row]) + ratio[row], -50, 50))))


def edges_of(forest: Forest, bonds: list[Bond], chosen: dict[int, int], members: list[int]) -> list[Edge]:
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
