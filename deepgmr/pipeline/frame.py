"""Where a cloud lies, how large it is, what of it counts, and its points in heaps: linear in their number.

A cloud of up to `4 * settings.finest` points is looked at as a whole. Of a larger one a sample, chosen by the points'
own coordinates, says where the middle is, what lies far outside and how fine the cells may be; then every point that
counts is added to its cell, a block at a time, and nothing as long as the cloud is ever held beside it. All sums are of
integers: the order of the points changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from deepgmr.geometry.voxels import (
    BLOCK,
    RUNGS,
    Cells,
    Heaps,
    blocks,
    finest_size,
    keys,
    rung,
    scattered,
    size_of,
    step_for,
)
from deepgmr.pipeline.settings import ScanSettings

_PLENTY = 4  # sampled points for every heap of the finest level: of cells so full, 49 in 50 are met
_PLACES = 1 << 10  # different places that a sample must hold to speak for the cloud


@dataclass(frozen=True, eq=False)
class Frame:
    """A cloud about the mean of its points, its finest level gathered."""

    origin: np.ndarray  # (3,) float64, input units
    size: float  # twice the root-mean-square radius, input units
    radius: float  # the median distance from the median point, input units
    heaps: Heaps  # about the origin, input units
    total: int  # points that count
    far: int  # points left out because they lie far outside
    reach: float  # the largest coordinate of those that count, of either sign, input units

    @classmethod
    def of(cls, points: np.ndarray, settings: ScanSettings) -> Frame:
        """The frame of checked points (N, 3) float32 or float64, N >= 3."""
        wanted = max(BLOCK, _PLENTY * settings.finest)
        sample = thinned(points, wanted) if len(points) > wanted else points
        return _of_whole(points, settings) if len(sample) == len(points) else _of_blocks(points, sample, settings)


@dataclass(frozen=True, eq=False)
class _Middle:
    """What lies about the median point, and where that is."""

    first: np.ndarray  # (3,) the median of all points ...
    limit: float  # ... and the distance from it beyond which they lie far outside
    point: np.ndarray  # (3,) the median of the others
    centred: np.ndarray  # (K, 3) float64, the others about it
    distance: np.ndarray  # (K,) of them

    @classmethod
    def of(cls, points: np.ndarray, settings: ScanSettings) -> _Middle:
        points = points.astype(np.float64, copy=False)
        first, centred, distance = _about_the_middle(points)
        limit, point = _limit(distance, settings), first
        far = distance > limit
        if far.any():
            point, centred, distance = _about_the_middle(points[~far])
        return cls(first, limit, point, centred, distance)

    @property
    def radius(self) -> float:
        return float(np.median(self.distance)) or float(self.distance.max())

    def size(self, mean: np.ndarray) -> float:
        """Twice the root-mean-square distance from a mean (3,), given about the middle."""
        largest, count = float(self.distance.max()), len(self.distance)
        return _size(_squares(self.distance, largest, count), largest, count, mean)


def _of_whole(points: np.ndarray, settings: ScanSettings) -> Frame:
    middle = _Middle.of(points, settings)
    heaps, mean = Heaps.of(middle.centred, _power(float(middle.distance.max()))).centred()
    size = middle.size(mean)
    step = finest_rung(
        lambda step: heaps.count(size_of(step)), len(heaps), rung(heaps.finest_size), size, settings.finest
    )
    return Frame(
        origin=middle.point + mean,
        size=size,
        radius=middle.radius,
        heaps=heaps.gathered(size_of(step)),
        total=len(heaps),
        far=len(points) - len(heaps),
        reach=float(np.abs(middle.centred + middle.point).max()),
    )


def _of_blocks(points: np.ndarray, sample: np.ndarray, settings: ScanSettings) -> Frame:
    middle = _Middle.of(sample, settings)
    total, largest, reach = 0, 0.0, 0.0
    for centred, distance in _counting(points, middle):
        total, largest = total + len(distance), max(largest, float(distance.max(initial=0.0)))
        reach = max(reach, float(np.abs(centred + middle.point[:, None]).max(initial=0.0)))
    extent = _power(largest)
    unit = step_for(total, extent)
    sampled, mean = Heaps.of(middle.centred, extent).centred()
    shift = np.rint(mean / unit)[:, None]  # the grid lies about the mean of the sample
    step = finest_rung(
        lambda step: expected_cells(sampled.populations(size_of(step))),
        total,
        rung(finest_size(2 * largest)),
        middle.size(mean),
        settings.finest,
    )
    cells = None
    while cells is None or cells.occupied > settings.finest:  # the sample promised too little: one rung coarser
        step += cells is not None
        cells = Cells(size_of(step), unit, settings.finest + BLOCK)
        squares = 0
        for centred, distance in _counting(points, middle):
            squares += _squares(distance, largest, total)
            steps = np.rint(centred / unit) - shift
            cells.add(keys(steps * (unit / cells.size)), steps.astype(np.int64), 1)
            if cells.occupied > settings.finest:
                break
    heaps, rest = cells.heaps().centred()
    mean = shift[:, 0] * unit + rest
    return Frame(
        origin=middle.point + mean,
        size=_size(squares, largest, total, mean),
        radius=middle.radius,
        heaps=heaps,
        total=total,
        far=len(points) - total,
        reach=reach,
    )


def _counting(points: np.ndarray, middle: _Middle) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The points that count, about the middle, (3, B) float64, and their distances (B,) from it, a block at a time."""
    first, point = middle.first[:, None], middle.point[:, None]
    for rows in blocks(len(points)):
        block = points[rows].T.astype(np.float64, order="C")
        centred = block - first
        distance = _lengths(centred)
        near = distance <= middle.limit
        if not near.all():
            block = block.take(np.flatnonzero(near), axis=1)
        if (first != point).any() or len(distance) != block.shape[1]:
            centred = block - point
            distance = _lengths(centred)
        yield centred, distance


def thinned(points: np.ndarray, wanted: int) -> np.ndarray:
    """About so many of points (N, 3), or more, whatever their order: (S, 3) float64; all if they lie in few places.

    A point is taken by a hash of its coordinates, so equal points are taken together or not at all.
    """
    share = wanted / len(points)
    while share < 0.5:
        limit = np.uint64(int(share * 2**64))
        taken, seen = [], np.zeros(1 << 16, dtype=bool)
        for rows in blocks(len(points)):
            block = points[rows].T.astype(np.float64, order="C") + 0.0  # minus zero is zero
            numbers = scattered(block)
            chosen = np.flatnonzero(numbers < limit)
            seen[numbers[chosen] & np.uint64(0xFFFF)] = True
            taken.append(block[:, chosen])
        if np.count_nonzero(seen) >= _PLACES:
            return np.concatenate(taken, axis=1).T
        share *= 8
    return points


def finest_rung(count: Callable[[int], float], points: int, least: int, size: float, finest: int) -> int:
    """The rung of the finest cells, from `least` on, that leave at most `finest` heaps; `count` says how many one leaves.

    How many cells a cloud fills nobody knows beforehand: a corridor fills a hundredth of those of a room of its size.
    """
    if points <= finest:
        return least
    step = max(least, rung(size / math.sqrt(finest)))
    fits: list[int] = []
    while True:
        found = count(step)
        octaves = math.log2(found / finest)  # of components; a surface has two of them a halving
        if found > finest:
            if fits:  # one rung too fine
                return min(fits)
            step += max(1, math.ceil(RUNGS / 2 * octaves))
            continue
        fits.append(step)
        finer = max(least, step + min(-1, math.ceil(RUNGS / 2 * octaves)))
        if octaves > -1 or finer == step:
            return step
        step = finer


def expected_cells(populations: np.ndarray) -> float:
    """How many cells all the points fill, at least, where a sample of them fills these (Chao, Scand. J. Stat. 1984)."""
    once, twice = (int(np.count_nonzero(populations == n)) for n in (1, 2))
    return len(populations) + once * (once - 1) / (2 * (twice + 1))


def _about_the_middle(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The median point (3,), the points (N, 3) about it, and their distances (N,) from it."""
    middle = np.median(points, axis=0)
    centred = points - middle
    return middle, centred, np.sqrt(np.einsum("ij,ij->i", centred, centred))


def _lengths(columns: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->j", columns, columns))


def _limit(distance: np.ndarray, settings: ScanSettings) -> float:
    """How far a point may lie outside before it would set the scale of everything.

    What a scanner sees at the end of a street is nearer than ten times the radius that holds nine tenths of the points;
    a reflection of the sun is not.
    """
    radius = float(np.quantile(distance, settings.inner))
    return settings.far * radius if radius > 0 else math.inf


def _squares(distance: np.ndarray, largest: float, count: int) -> int:
    """The sum of the squares over the largest, as an integer: whatever their order, of so many points in all."""
    return int(np.rint(np.ldexp((distance / largest) ** 2, _bits(count))).astype(np.int64).sum())


def _size(squares: int, largest: float, count: int, mean: np.ndarray) -> float:
    """Twice the root-mean-square distance from the mean, given about the middle."""
    mean_square = math.ldexp(float(squares), -_bits(count)) * (largest**2 / count)
    return 2 * math.sqrt(max(mean_square - float(mean @ mean), 0.0))


def _bits(count: int) -> int:
    return 62 - max(count, 2).bit_length()


def _power(value: float) -> float:
    """The least power of two that is no smaller."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - (mantissa == 0.5))
