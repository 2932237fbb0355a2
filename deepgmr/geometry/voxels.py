"""Points gathered in the cells of a grid: sums of integers, so that the order of the points changes no bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RUNGS = 4  # sizes of cells within a factor of two; one size in input units serves every cloud
_BITS, _LEAST_BITS = 44, 32  # of a coordinate: 1e-13 of the cloud, and of clouds so large that sums would overflow
_HALF = 1 << 20  # cells on either side of the origin, an axis
_CELLS = 21  # bits of a cell's place on an axis


@dataclass(frozen=True, eq=False)
class Heaps:
    """M heaps of points: where each lies, in integer steps, and how many points it holds."""

    sums: np.ndarray  # (M, 3) int64, of the points' coordinates in steps
    counts: np.ndarray  # (M,) int64
    step: float  # length of one step, a power of two

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def means(self) -> np.ndarray:
        """(M, 3) float64."""
        return self.sums * self.step / self.counts[:, None]

    @classmethod
    def of(cls, points: np.ndarray, extent: float) -> Heaps:
        """Every point (N, 3) float64 a heap of its own; no coordinate is larger than `extent`, a power of two."""
        bits = min(_BITS, 62 - max(len(points), 2).bit_length())
        step = math.ldexp(extent, -max(bits, _LEAST_BITS))
        return cls(np.rint(points / step).astype(np.int64), np.ones(len(points), dtype=np.int64), step)

    def count(self, size: float) -> int:
        """How many cells of a size are occupied."""
        keys = np.sort(self._keys(size))
        return int(np.count_nonzero(keys[1:] != keys[:-1])) + 1

    def gathered(self, size: float) -> Heaps:
        """The heaps of each cell of a size put together; cells in the order of their places.

        `size` is at least `finest_size`: of smaller cells the keys would need more bits than they have.
        """
        keys = self._keys(size)
        order = np.argsort(keys)
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        return Heaps(
            np.add.reduceat(self.sums[order], starts, axis=0),
            np.add.reduceat(self.counts[order], starts),
            self.step,
        )

    def _keys(self, size: float) -> np.ndarray:
        places = self.sums if self.single else self.sums / self.counts[:, None]
        cells = np.floor(places * (self.step / size)).astype(np.int64) + _HALF
        return (cells[:, 0] << 2 * _CELLS) | (cells[:, 1] << _CELLS) | cells[:, 2]

    @property
    def finest_size(self) -> float:
        """The least size of cells whose places fit a key; points nearer to one another count as one."""
        return float(np.abs(self.means).max()) / (_HALF - 1)

    @property
    def single(self) -> bool:
        """Whether no heap holds more than one point."""
        return bool((self.counts == 1).all())

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def rung(size: float) -> int:
    """The first rung of the ladder of cell sizes, 2^(k / RUNGS), that is no smaller than a size."""
    return math.ceil(RUNGS * math.log2(size) - 1e-9)


def size_of(rung: int) -> float:
    """The size of cells on a rung, in the units of the points."""
    octave, part = divmod(rung, RUNGS)
    return math.ldexp(2 ** (part / RUNGS), octave)
