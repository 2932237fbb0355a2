"""Points gathered in the cells of a grid: sums of integers, so that the order of the points changes no bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

RUNGS = 4  # sizes of cells within a factor of two; one size in input units serves every cloud
BLOCK = 1 << 16  # rows looked at together: what a core keeps near it
_BITS, _LEAST_BITS = 44, 32  # of a coordinate: 1e-13 of the cloud, and of clouds so large that sums would overflow
_HALF = 1 << 20  # cells on either side of the origin, an axis
_CELLS = 21  # bits of a cell's place on an axis
DENSE = (
    160  # bytes of a table of all cells of the box about a cloud, for each of its heaps, that sorting is slower than
)
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: neighbouring keys land far apart (Knuth 6.4)


@dataclass(frozen=True, eq=False)
class Heaps:
    """M heaps of points: where each lies, in integer steps, and how many points it holds."""

    sums: np.ndarray  # (M, 3) int64, of the points' coordinates in steps
    counts: np.ndarray  # (M,) int64
    step: float  # length of one step, a power of two

    def __len__(self) -> int:
        return len(self.counts)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or sent to another process: all but what is derived."""
        return {"sums": self.sums, "counts": self.counts, "step": self.step}

    @cached_property
    def means(self) -> np.ndarray:
        """(M, 3) float64."""
        return self.sums * self.step / self.counts[:, None]

    @classmethod
    def of(cls, points: np.ndarray, extent: float) -> Heaps:
        """Every point (N, 3) float64 a heap of its own; no coordinate is larger than `extent`, a power of two."""
        step = step_for(len(points), extent)
        return cls(np.rint(points / step).astype(np.int64), np.ones(len(points), dtype=np.int64), step)

    def centred(self) -> tuple[Heaps, np.ndarray]:
        """The heaps about the mean of their points, to the nearest step, and that mean (3,), in units of the points."""
        mean = self.sums.sum(axis=0) * (self.step / self.total)
        shift = np.rint(mean / self.step).astype(np.int64)
        return Heaps(self.sums - self.counts[:, None] * shift, self.counts, self.step), mean

    def count(self, size: float) -> int:
        """How many cells of a size are occupied."""
        places, box = _boxed(self._keys(size))
        if box <= DENSE * len(places):
            return int(np.count_nonzero(_marked(places, box)))
        return len(_ends(_sorted(places, box))) - 1

    def populations(self, size: float) -> np.ndarray:
        """How many heaps each occupied cell of a size holds, cells in the order of their places."""
        return np.diff(_ends(_sorted(*_boxed(self._keys(size)))))

    def gathered(self, size: float) -> Heaps:
        """The heaps of each cell of a size put together; cells in the order of their places.

        `size` is at least `finest_size`: of smaller cells the keys would need more bits than they have.
        """
        label, cells = _labelled(self._keys(size))
        sums, counts = np.zeros((3, cells), dtype=np.int64), np.zeros(cells, dtype=np.int64)
        for total, part in zip((*sums, counts), (*self.sums.T, self.counts), strict=True):
            np.add.at(total, label, part)
        return Heaps(np.ascontiguousarray(sums.T), counts, self.step)

    def _keys(self, size: float) -> np.ndarray:
        places, unit = (self.sums, self.step) if self.single else (self.means, 1.0)
        return np.concatenate([keys(places[rows].T * (unit / size)) for rows in blocks(len(self))])

    @cached_property
    def finest_size(self) -> float:
        """The least size of cells whose places fit a key; points nearer to one another count as one."""
        if self.single:
            return finest_size(max(int(self.sums.max()), -int(self.sums.min())) * self.step)
        return finest_size(float(np.abs(self.means).max()))

    @cached_property
    def single(self) -> bool:
        """Whether no heap holds more than one point."""
        return bool((self.counts == 1).all())

    @property
    def total(self) -> int:
        return int(self.counts.sum())


class Cells:
    """The occupied cells of a grid, found by hashing: exact sums of what is added, block by block.

    Open addressing with linear probing, a whole block of keys at a time. Which place of the table a cell gets depends on
    the order of the points; what `heaps` makes of it does not.
    """

    def __init__(self, size: float, step: float, most: int) -> None:
        bits = (2 * most - 1).bit_length()  # half of the places stay free, so that keys soon find theirs
        self.size, self.step = size, step
        self.keys = np.full(1 << bits, -1, dtype=np.int64)
        self.counts = np.zeros(1 << bits, dtype=np.int64)
        self.sums = np.zeros((3, 1 << bits), dtype=np.int64)
        self.occupied = 0
        self._shift = np.uint64(64 - bits)

    def add(self, keys: np.ndarray, sums: np.ndarray, counts: np.ndarray | int) -> None:
        """Heaps with keys (B,) int64, sums (3, B) int64 in steps and counts (B,) int64; no more cells than `most`."""
        places = self._places(keys)
        np.add.at(self.counts, places, counts)
        for total, part in zip(self.sums, sums, strict=True):
            np.add.at(total, places, part)

    def heaps(self) -> Heaps:
        """What is in the cells, in the order of their places."""
        used = np.flatnonzero(self.keys >= 0)
        used = used[np.argsort(self.keys[used])]
        return Heaps(np.ascontiguousarray(self.sums[:, used].T), self.counts[used], self.step)

    def _places(self, keys: np.ndarray) -> np.ndarray:
        """The place (B,) of each key; new ones are given a free one."""
        places = (keys.view(np.uint64) * _MIX >> self._shift).view(np.int64)
        wrong = np.flatnonzero(self.keys[places] != keys)
        while len(wrong):
            asked, place = keys[wrong], places[wrong]
            free = self.keys[place] < 0
            if free.any():  # of several keys that ask for a place the last one gets it
                self.keys[place[free]] = asked[free]
                self.occupied += len(np.unique(place[free]))
            missed = self.keys[place] != asked
            wrong, place = wrong[missed], (place[missed] + 1) & (len(self.keys) - 1)
            places[wrong] = place
        return places


def keys(cells: np.ndarray) -> np.ndarray:
    """One number (N,) int64 for the place of a cell on the three axes (3, N), in cells from the origin."""
    x, y, z = np.floor(cells).astype(np.int64) + _HALF
    return (x << 2 * _CELLS) | (y << _CELLS) | z


def _boxed(keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers (N,) int64 in the order of the keys, from zero, and how many cells the box about all of them has."""
    low, extent, mask = [], [], (1 << _CELLS) - 1
    axes = keys >> 2 * _CELLS, keys >> _CELLS & mask, keys & mask
    for axis in axes:
        low.append(int(axis.min()))
        extent.append(int(axis.max()) - low[-1] + 1)
    x, y, z = (axis - least for axis, least in zip(axes, low, strict=True))
    return (x * extent[1] + y) * extent[2] + z, math.prod(extent)


def _marked(places: np.ndarray, box: int) -> np.ndarray:
    """Which cells of a box hold something (box,) bool."""
    marked = np.zeros(box, dtype=bool)
    marked[places] = True
    return marked


def _sorted(places: np.ndarray, box: int) -> np.ndarray:
    """The numbers of the cells in order; half as long ones are sorted in half the time."""
    return np.sort(places.astype(np.uint32) if box <= 1 << 32 else places)


def _ends(ordered: np.ndarray) -> np.ndarray:
    """Where runs of the same number begin, and the end."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))


def _labelled(keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Which cell each of the keys (N,) names, in the order of their places, counted from zero, and how many there are."""
    places, box = _boxed(keys)
    if 4 * box <= DENSE * len(places):
        cells = np.flatnonzero(_marked(places, box))
        number = np.empty(box, dtype=np.int32)
        number[cells] = np.arange(len(cells), dtype=np.int32)
        return number[places], len(cells)
    order = np.argsort(places)
    number = np.cumsum(np.diff(places[order], prepend=-1) != 0)
    label = np.empty_like(number)
    label[order] = number - 1
    return label, int(number[-1])


def scattered(triples: np.ndarray) -> np.ndarray:
    """Numbers (N,) uint64 spread evenly over all there are, one for each triple (3, N) of 64 bits."""
    mixed = np.zeros(triples.shape[1], dtype=np.uint64)
    for axis in triples.view(np.uint64):
        mixed ^= axis
        mixed *= _MIX
        mixed ^= mixed >> np.uint64(32)  # of round coordinates all that differs is in the upper bits
    mixed *= _MIX
    mixed ^= mixed >> np.uint64(32)
    return mixed


def step_for(count: int, extent: float) -> float:
    """The finest step, a power of two, in which so many coordinates up to an extent can be added in 64 bits."""
    bits = min(_BITS, 62 - max(count, 2).bit_length())
    return math.ldexp(extent, -max(bits, _LEAST_BITS))


def finest_size(extent: float) -> float:
    """The least size of cells whose places fit a key where no coordinate is larger than `extent`."""
    return extent / (_HALF - 1)


def blocks(count: int) -> Iterator[slice]:
    """So many rows, a block at a time."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def rung(size: float) -> int:
    """The first rung of the ladder of cell sizes, 2^(k / RUNGS), that is no smaller than a size."""
    return math.ceil(RUNGS * math.log2(size) - 1e-9)


def size_of(rung: int) -> float:
    """The size of cells on a rung, in the units of the points."""
    octave, part = divmod(rung, RUNGS)
    return math.ldexp(2 ** (part / RUNGS), octave)
