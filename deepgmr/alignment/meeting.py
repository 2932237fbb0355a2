"""How much of one scan meets another where they are placed, and what it says if a search did not find that."""

from __future__ import annotations

import math
from copy import copy

import numpy as np

from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.pipeline.scan import Scan

_SAME = 0.25  # spacings: what has moved by less meets as before


class Sketches:
    """A few components of every scan, about its own centre, input units."""

    def __init__(self, scans: list[Scan], settings: AlignmentSettings) -> None:
        self.settings = settings
        self.levels = [copy(scan).level(scan.rung_for(settings.sketch), 1.0) for scan in scans]
        self._last: dict[
            tuple[int, int], tuple[np.ndarray, float]
        ] = {}  # asked of two scans: the motion, and the answer
        self.reach = [float(np.linalg.norm(level.points, axis=1).max()) for level in self.levels]

    def met(self, first: int, second: int, motion: np.ndarray) -> float:
        """The share of either that lies within a spacing of the other under a motion first from second, whichever is less.

        What has moved by less than a part of a spacing since it was last asked is not looked at again.
        """
        if np.linalg.norm(motion[:3, 3]) > self.reach[first] + self.reach[second]:
            return 0.0
        before, share = self._last.get((first, second), (None, 0.0))
        if before is None or self._moved(second, motion - before) > _SAME * self.levels[second].spacing:
            share = min(self._share(second, first, np.linalg.inv(motion)), self._share(first, second, motion))
            self._last[first, second] = motion, share
        return share

    def missed(self, first: int, second: int, motion: np.ndarray) -> float:
        """The log of how probable it is that a search does not find two scans that lie so to one another.

        Of 265 pairs of fragments of a kitchen one look found all where half of either meets the other, half where a
        quarter does, and none where a tenth does.
        """
        settings, share = self.settings, self.met(first, second, motion)
        found = 1 / (1 + math.exp((settings.found_at - share) / settings.found_within))
        return math.log(max(1 - found, settings.missed))

    def alike(self, poses: np.ndarray, tree: np.ndarray) -> np.ndarray:
        """(V, V) the share of both of two scans that meets as placed; none of those in different trees."""
        found = np.eye(len(poses))
        for first, second in zip(*np.nonzero(np.triu(tree[:, None] == tree, 1)), strict=True):
            pair = int(first), int(second)
            share = self.met(*pair, np.linalg.inv(poses[first]) @ poses[second])
            found[first, second] = found[second, first] = share
        return found

    def _moved(self, scan: int, off: np.ndarray) -> float:
        """How far a scan's components lie from where they were, at most; `off` is the difference of two motions."""
        return float(np.linalg.norm(off[:3, 3]) + np.linalg.norm(off[:3, :3]) * self.reach[scan])

    def _share(self, still: int, moved: int, motion: np.ndarray) -> float:
        here, there = self.levels[moved], self.levels[still]
        points = here.points @ motion[:3, :3].T + motion[:3, 3]
        return float(np.isfinite(there.tree.within(points, max(here.spacing, there.spacing))[0]).mean())
