"""Which pairs of scans to try next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from deepgmr.alignment.meeting import Sketches
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.settled import World

Pairs = list[tuple[int, int]]  # each with the smaller number first


@dataclass(eq=False)
class Plan:
    """What is known of which scans may share something, and what was tried."""

    sketches: Sketches
    likeness: np.ndarray  # (N, N) of their looks
    settings: AlignmentSettings
    tried: set[tuple[int, int]] = field(default_factory=set)
    harder: Counter[int] = field(default_factory=Counter)  # how often a scan was searched with every look
    searched: set[tuple[int, int]] = field(default_factory=set)  # pairs that were

    def first(self) -> Pairs:
        """Every scan with those most like it."""
        pairs = {
            (min(scan, other), max(scan, other))
            for scan, row in enumerate(self._ranked())
            for other in row[: self.settings.first].tolist()
        }
        return sorted(pairs)

    def more(self, world: World, size: float) -> Pairs:
        """Pairs that may tie what is in parts, or make sure of what is not sure, the likeliest first.

        Where sure answers contradict one another, others may show which of them are wrong.
        """
        wanted, path, doubted = [], world.path, world.path * world.trust < self.settings.doubt
        unsure = (path < self.settings.sure) | world.vague(size, self.settings)
        meeting = self._meeting(world, unsure)
        for first, second in zip(*np.triu_indices(len(self.sketches.levels), 1), strict=True):
            pair = int(first), int(second)
            if pair in self.tried:
                continue
            if pair in meeting:
                wanted.append((-1.0 - meeting[pair] * (2 - path[pair]), pair))
            elif doubted[pair] and self._near[pair]:
                wanted.append((-self.likeness[pair], pair))
        return self._a_round([pair for _, pair in sorted(wanted)])

    def again(self, path: np.ndarray, confidence: dict[tuple[int, int], float]) -> Pairs:
        """Pairs that may not lie right to one another, to be searched with every look: those of which one look said most."""
        # what one look was sure of has no other look
        doubtful = [pair for pair in self.tried if max(path[pair], confidence[pair]) < self.settings.doubt]
        parts = [(-confidence[pair], -self.likeness[pair], pair) for pair in doubtful]
        pairs = [pair for *_, pair in sorted(parts) if pair not in self.searched]
        chosen = []
        for pair in self._a_round(pairs):
            # one scan has been looked at closely enough when it has been in so many; a large part has many more
            if min(self.harder[scan] for scan in pair) < self.settings.harder:
                chosen.append(pair)
                self.harder.update(pair)
        self.searched.update(chosen)
        return chosen

    def _ranked(self) -> np.ndarray:
        """(N, N - 1) the other scans, the most alike first."""
        unlike = -self.likeness.copy()
        np.fill_diagonal(unlike, np.inf)
        return np.argsort(unlike, axis=1, kind="stable")[:, :-1]

    @cached_property
    def _near(self) -> np.ndarray:
        """(N, N) whether two scans may be tried for their looks alone: all, or of more than dozens the most alike."""
        count = len(self.likeness)
        near = np.full((count, count), count <= self.settings.dozens)
        np.put_along_axis(near, self._ranked()[:, : self.settings.nearest], True, axis=1)
        return near | near.T

    def _a_round(self, pairs: Pairs) -> Pairs:
        """The first of pairs, so that no scan is in too many at once."""
        busy: Counter[int] = Counter()
        chosen = []
        for pair in pairs:
            if all(busy[scan] < self.settings.a_round for scan in pair):
                busy.update(pair)
                chosen.append(pair)
        return chosen

    def _meeting(self, world: World, unsure: np.ndarray) -> dict[tuple[int, int], float]:
        """The share of both scans that meets as they are placed, where trying them would say more."""
        found, poses = {}, world.forest.poses
        few = world.counts < self.settings.held
        for first, second in zip(*np.nonzero(np.triu(world.path > 0, 1)), strict=True):
            pair = int(first), int(second)
            if pair in self.tried or not (unsure[pair] or few[first] or few[second]):
                continue
            share = self.sketches.met(*pair, np.linalg.inv(poses[first]) @ poses[second])
            if share >= self.settings.meeting:
                found[pair] = share
        return found
