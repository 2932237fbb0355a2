"""The surroundings as they were seen so far: a map that follows the sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deepgmr.geometry.voxels import Heaps
from deepgmr.pipeline.refine import moved
from deepgmr.pipeline.scan import Scan
from deepgmr.pipeline.settings import ScanSettings

_BITS = 24  # of a step: what a cell is divided into


@dataclass(frozen=True, eq=False)
class LocalMap:
    """Points gathered in the cells of a grid that stands still in the world; never changed, but replaced."""

    heaps: Heaps  # about the origin of the world
    cell: float  # size of the cells, input units
    settings: ScanSettings

    @classmethod
    def empty(cls, cell: float, settings: ScanSettings) -> LocalMap:
        step = math.ldexp(1.0, math.floor(math.log2(cell)) - _BITS)
        return cls(Heaps(np.zeros((0, 3), np.int64), np.zeros(0, np.int64), step), cell, settings)

    def with_points(self, points: np.ndarray, pose: np.ndarray, reach: float) -> LocalMap:
        """With points (N, 3) of a scan moved by its pose (4, 4), and without what lies beyond `reach` from there."""
        near = np.square(self.heaps.means - pose[:3, 3]).sum(axis=1) <= reach**2
        sums = np.rint(moved(points, pose) / self.heaps.step).astype(np.int64)
        heaps = Heaps(
            np.concatenate([self.heaps.sums[near], sums]),
            np.concatenate([self.heaps.counts[near], np.ones(len(sums), np.int64)]),
            self.heaps.step,
        )
        return LocalMap(heaps.gathered(self.cell), self.cell, self.settings)

    @cached_property
    def scan(self) -> Scan:
        """The map as a cloud in the world, each cell one of its components."""
        means = self.heaps.means
        shift = np.rint(means.mean(axis=0) / self.heaps.step).astype(np.int64)
        heaps = Heaps(self.heaps.sums - self.heaps.counts[:, None] * shift, self.heaps.counts, self.heaps.step)
        distance = np.linalg.norm(heaps.means, axis=1)
        return Scan(
            origin=shift * self.heaps.step,
            size=2 * float(np.sqrt(np.mean(distance**2))),
            radius=float(np.median(distance)),
            heaps=heaps,
            total=len(heaps),
            far=0,
            coarse=None,
            settings=self.settings,
        )
