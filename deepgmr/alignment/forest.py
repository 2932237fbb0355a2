"""Trees of motions that are believed, where they put the scans, and how far that may be off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deepgmr.alignment.bonds import Bond

LEVER = 2 / 3  # of a squared arm: what a turn about any axis moves a coordinate


@dataclass(frozen=True, eq=False)
class Table:
    """All hypotheses of all bonds between `count` scans, a row each."""

    count: int
    bond: np.ndarray  # (H,) the number of the bond
    hypothesis: np.ndarray  # (H,) and which of its motions
    first: np.ndarray  # (H,)
    second: np.ndarray  # (H,)
    motion: np.ndarray  # (H, 4, 4) first from second
    odds: np.ndarray  # (H,)
    turn: np.ndarray  # (H,) variances
    shift: np.ndarray  # (H,)
    wide: np.ndarray  # (H, 6, 6) that these are of

    @classmethod
    def of(cls, bonds: list[Bond], count: int) -> Table:
        """Of every motion that has any odds."""
        rows = [
            (number, h, bond.first, bond.second, bond.odds[h], bond.turn, bond.shift)
            for number, bond in enumerate(bonds)
            for h in range(len(bond.odds))
            if bond.odds[h] > 0
        ]
        motions = np.array([bonds[row[0]].motions[row[1]] for row in rows]).reshape(-1, 4, 4)
        numbers = np.array(rows, dtype=np.float64).reshape(-1, 7).T
        bond, hypothesis, first, second = numbers[:4].astype(np.int64)
        wide = np.array([bonds[row[0]].wide for row in rows]).reshape(-1, 6, 6)
        odds, turn, shift = numbers[4:]
        return cls(count, bond, hypothesis, first, second, motions, odds, turn, shift, wide)

    def __len__(self) -> int:
        return len(self.bond)


@dataclass(frozen=True, eq=False)
class Forest:
    """Rows of a table that form trees, and where these put every scan, the first of each tree where it is."""

    table: Table
    rows: tuple[int, ...]
    poses: np.ndarray  # (V, 4, 4)
    tree: np.ndarray  # (V,) the number of each scan's tree
    turn: np.ndarray  # (V, V) variance that has gathered along the way between two scans, infinite between trees ...
    shift: np.ndarray  # (V, V) ... and of the place of the second's centre against the first

    @classmethod
    def grown(cls, table: Table, keys: np.ndarray) -> Forest:
        """The trees of the largest sum of keys (H,)."""
        return cls.of(table, spanning(table, np.argsort(-keys, kind="stable")))

    @classmethod
    def of(cls, table: Table, rows: tuple[int, ...]) -> Forest:
        count, near = table.count, neighbours(table, rows)
        poses, tree = np.tile(np.eye(4), (count, 1, 1)), np.full(count, -1)
        turn, shift = np.full((count, count), np.inf), np.full((count, count), np.inf)
        # of the ways from every scan: sums of variances of turns, the same times the place of the turn, and its square
        moment, square = np.zeros((count, count, 3)), np.zeros((count, count))
        for root in range(count):
            if tree[root] >= 0:
                continue
            tree[root], turn[root, root], shift[root, root] = root, 0.0, 0.0
            met, ahead = [root], [root]
            while ahead:
                here = ahead.pop()
                for there, row, forward in near[here]:
                    if tree[there] >= 0:
                        continue
                    motion = table.motion[row] if forward else inverse(table.motion[row])
                    poses[there] = poses[here] @ motion
                    place, variance = poses[here][:3, 3], table.turn[row]
                    turn[met, there] = turn[there, met] = turn[met, here] + variance
                    shift[met, there] = shift[there, met] = shift[met, here] + table.shift[row]
                    moment[met, there] = moment[there, met] = moment[met, here] + variance * place
                    square[met, there] = square[there, met] = square[met, here] + variance * place @ place
                    tree[there], turn[there, there], shift[there, there] = root, 0.0, 0.0
                    met.append(there)
                    ahead.append(there)
        x = poses[:, :3, 3]
        with np.errstate(invalid="ignore"):
            arms = turn * (x**2).sum(axis=1) - 2 * np.einsum("ijk,jk->ij", moment, x) + square
        shift = shift + LEVER * np.where(np.isfinite(arms), np.maximum(arms, 0.0), np.inf)
        return cls(table, rows, poses, tree, turn, shift)

    def side(self, row: int) -> np.ndarray:
        """(V,) the smaller of the two parts that a tree falls into without one of its rows."""
        ends = [reached(self._near, int(end[row]), row) for end in (self.table.second, self.table.first)]
        chosen = min(ends, key=len)
        side = np.zeros(self.table.count, dtype=bool)
        side[chosen] = True
        return side

    @cached_property
    def _near(self) -> list[list[tuple[int, int, bool]]]:
        return neighbours(self.table, self.rows)

    def without(self, rows: set[int]) -> Forest:
        return Forest.of(self.table, tuple(row for row in self.rows if row not in rows))

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(K, 4, 4) the motions first from second of scans in one tree."""
        return inverse(self.poses[first]) @ self.poses[second]

    def along(self, number: dict[int, float], combined: np.ufunc = np.multiply) -> np.ndarray:
        """(V, V) the product, or whatever `combined` makes of them, of a number of every row, over those between two scans.

        One from a scan to itself; zero between trees.
        """
        count, near = self.table.count, self._near
        found = np.eye(count)
        for root in np.unique(self.tree):
            met, ahead = [root], [root]
            while ahead:
                here = ahead.pop()
                for there, row, _ in near[here]:
                    if there not in met:
                        found[met, there] = found[there, met] = combined(found[met, here], number[row])
                        met.append(there)
                        ahead.append(there)
        return found


def spanning(table: Table, ranked: np.ndarray) -> tuple[int, ...]:
    """Of rows, the first that close no cycle (Kruskal 1956)."""
    parent, rows = np.arange(table.count), []
    for row in ranked:
        a, b = parent[table.first[row]], parent[table.second[row]]
        if a != b:
            parent[parent == b] = a
            rows.append(int(row))
    return tuple(rows)


def inverse(motions: np.ndarray) -> np.ndarray:
    """Of rigid motions (*B, 4, 4)."""
    back = motions.copy()
    back[..., :3, :3] = motions[..., :3, :3].swapaxes(-1, -2)
    back[..., :3, 3:] = -back[..., :3, :3] @ motions[..., :3, 3:]
    return back


def neighbours(table: Table, rows: tuple[int, ...] | list[int]) -> list[list[tuple[int, int, bool]]]:
    """Of every scan those that a row ties to it, by which row, and whether it is the row's first."""
    near: list[list[tuple[int, int, bool]]] = [[] for _ in range(table.count)]
    for row in rows:
        first, second = int(table.first[row]), int(table.second[row])
        near[first].append((second, row, True))
        near[second].append((first, row, False))
    return near


def reached(near: list[list[tuple[int, int, bool]]], start: int, without: int) -> list[int]:
    """The scans that hang together with one, but for one of the rows."""
    found = {start: None}
    ahead = [start]
    while ahead:
        for there, row, _ in near[ahead.pop()]:
            if row != without and there not in found:
                found[there] = None
                ahead.append(there)
    return list(found)
