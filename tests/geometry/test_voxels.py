"""Points gathered in cells: exact means, no bit of them from the order of the points, and room in the integers."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepgmr.geometry import voxels
from deepgmr.geometry.voxels import RUNGS, Heaps, rung, size_of

seeds = st.integers(0, 2**20)
EXTENT = 4.0


def cloud(seed: int, count: int = 400) -> np.ndarray:
    """Points within the extent on all sides of the origin, of every density, some of them repeated."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)) * 10 ** rng.uniform(-3, 0, size=(count, 1))
    points[rng.integers(0, count, count // 10)] = points[rng.integers(0, count, count // 10)]
    return np.clip(points, -EXTENT, EXTENT)


def snapped(points: np.ndarray) -> np.ndarray:
    """Coordinates that float64 adds and divides into cells without rounding: multiples of 2^-20."""
    return np.rint(np.ldexp(points, 20)) / 2**20


def gathered_slowly(points: np.ndarray, size: float) -> dict[tuple[int, ...], list[np.ndarray]]:
    """The points of each cell, by a dictionary: cell i holds [i size, (i + 1) size)."""
    cells = defaultdict(list)
    for point in points:
        cells[tuple(math.floor(x / size) for x in point)].append(point)
    return cells


# -- what is in a cell -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seeds, st.integers(-6, 3))
def test_means_and_counts_are_those_of_a_dictionary(seed: int, octave: int) -> None:
    points, size = snapped(cloud(seed)), math.ldexp(1.0, octave)
    heaps = Heaps.of(points, EXTENT).gathered(size)
    expected = gathered_slowly(points, size)
    keys = sorted(expected)  # cells in the order of their places: along x, then y, then z
    means = np.array([[float(sum(map(Fraction, axis)) / len(axis)) for axis in np.array(expected[k]).T] for k in keys])
    np.testing.assert_array_equal(heaps.counts, [len(expected[k]) for k in keys])
    np.testing.assert_allclose(heaps.means, means, rtol=1e-15, atol=1e-18)  # one division, of an exact sum
    assert Heaps.of(points, EXTENT).count(size) == len(heaps) == len(keys)
    assert heaps.total == len(points)


@settings(max_examples=40)
@given(seeds, st.integers(-24, 12))
def test_any_size_of_cell_loses_no_point_and_moves_none(seed: int, step: int) -> None:
    points = cloud(seed)
    single, size = Heaps.of(points, EXTENT), size_of(step)
    heaps = single.gathered(size)
    assert heaps.total == len(points) and (heaps.sums.sum(0) == single.sums.sum(0)).all()
    assert np.abs(single.means - points).max() <= single.step / 2 <= EXTENT * 2.0**-44
    cells = np.floor(heaps.means / size * (1 - 1e-12) + 1e-12)
    assert len(np.unique(cells, axis=0)) >= len(heaps) - 2  # one heap a cell; a mean may round onto a border


def test_borders_belong_to_the_cell_above_on_either_side_of_the_origin() -> None:
    line = np.array([-2.0, -1.5, -1.0, -0.5, -(2.0**-40), 0.0, 0.5, 1.0 - 2.0**-40, 1.0, 1.5])
    points = np.stack([line, np.zeros_like(line), np.zeros_like(line)], axis=1)
    for axis in range(3):
        heaps = Heaps.of(np.roll(points, axis, axis=1), 2.0).gathered(1.0)
        np.testing.assert_array_equal(heaps.counts, [2, 3, 3, 2])
        expected = [-1.75, (-1.5 - 2.0**-40) / 3, (1.5 - 2.0**-40) / 3, 1.25]
        np.testing.assert_array_equal(heaps.means[:, axis], expected)


# -- order -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seeds, st.integers(-16, 8), st.integers(1, 16))
def test_order_changes_no_bit(seed: int, step: int, coarser: int) -> None:
    """Of a level, of one made of another, and of the points themselves once they are sorted."""
    points = cloud(seed)
    mixed = np.random.default_rng(seed + 1).permutation(points)
    one, other = Heaps.of(points, EXTENT), Heaps.of(mixed, EXTENT)
    fine, fine_too = one.gathered(size_of(step)), other.gathered(size_of(step))
    levels = [
        (fine, fine_too),
        (fine.gathered(size_of(step + coarser)), fine_too.gathered(size_of(step + coarser))),
        (one.gathered(one.finest_size), other.gathered(other.finest_size)),
    ]
    for a, b in levels:
        assert a.means.tobytes() == b.means.tobytes() and a.counts.tobytes() == b.counts.tobytes()


def test_points_in_one_place_are_one_heap() -> None:
    points = np.repeat(np.random.default_rng(0).uniform(-1, 1, (50, 3)), 3, axis=0)
    heaps = Heaps.of(points, EXTENT)
    merged = heaps.gathered(size_of(rung(heaps.finest_size)))
    assert len(merged) == 50 and (merged.counts == 3).all()
    np.testing.assert_allclose(np.sort(merged.means, axis=0), np.sort(points[::3], axis=0), atol=1e-12)


def test_plain_sums_would_not_do() -> None:
    """The same points summed in float64 in two orders differ in their last bits: why the sums are integers."""
    points = cloud(3)
    mixed = np.random.default_rng(4).permutation(points)
    assert (points.sum(0) != mixed.sum(0)).any()


# -- the ladder --------------------------------------------------------------------------------------------------


@given(st.integers(-4000, 4000))
def test_a_rung_is_that_of_its_size(step: int) -> None:
    assert rung(size_of(step)) == step
    assert size_of(step + RUNGS) == 2 * size_of(step)
    assert size_of(step) < size_of(step + 1)


@given(st.floats(1e-150, 1e150))
def test_a_rung_is_the_first_no_smaller(size: float) -> None:
    step = rung(size)
    assert size_of(step) >= size * (1 - 1e-9) and size_of(step - 1) < size


@settings(max_examples=30)
@given(seeds, st.integers(-16, 0), st.integers(1, 3))
def test_octaves_are_nested(seed: int, step: int, octaves: int) -> None:
    """Cells twice as large hold whole cells: a level made of a finer one is that made of the points."""
    single = Heaps.of(snapped(cloud(seed)), EXTENT)
    octave = RUNGS * (step // RUNGS)
    large = size_of(octave + RUNGS * octaves)
    direct, through = single.gathered(large), single.gathered(size_of(octave)).gathered(large)
    np.testing.assert_array_equal(direct.sums, through.sums)
    np.testing.assert_array_equal(direct.counts, through.counts)


@settings(max_examples=20)
@given(seeds, st.integers(-200, 200))
def test_the_unit_of_the_points_does_not_matter(seed: int, power: int) -> None:
    """A power of two scales every number of a level and changes no digit."""
    points = cloud(seed)
    one, other = Heaps.of(points, EXTENT), Heaps.of(np.ldexp(points, power), math.ldexp(EXTENT, power))
    np.testing.assert_array_equal(one.sums, other.sums)
    a, b = one.gathered(0.5), other.gathered(math.ldexp(0.5, power))
    np.testing.assert_array_equal(np.ldexp(a.means, power), b.means)


# -- room --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", range(1, 31))
def test_sums_of_any_number_of_points_fit_their_integers(exponent: int) -> None:
    """Up to two to the thirty points, all in the farthest corner; the budget of bits is that of `Heaps.of`."""
    for count in {2**exponent - 1, 2**exponent}:
        bits = max(min(voxels._BITS, 62 - max(count, 2).bit_length()), voxels._LEAST_BITS)
        assert count * 2**bits <= np.iinfo(np.int64).max
        assert bits == 44 or count * 2**bits * 4 > np.iinfo(np.int64).max  # and no detail is given away


def test_the_budget_is_the_one_that_is_used() -> None:
    for count, bits in ((2, 44), (2**17, 44), (2**18, 43), (2**20, 41)):
        points = np.broadcast_to([EXTENT, -EXTENT, 0.0], (count, 3))
        heaps = Heaps.of(points, EXTENT)
        assert heaps.step == math.ldexp(EXTENT, -bits)
        whole = heaps.gathered(2 * EXTENT)
        assert len(whole) == 1 and whole.total == count
        np.testing.assert_array_equal(whole.means, [[EXTENT, -EXTENT, 0.0]])


def test_places_fit_their_keys_a_million_cells_either_way() -> None:
    """The outermost cells of each axis have keys of their own, in order."""
    edge = 1 - 2.0**-30
    corners = edge * np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    heaps = Heaps.of(corners[::-1], 1.0).gathered(1 / voxels._HALF)
    np.testing.assert_allclose(heaps.means, corners, rtol=1e-12)
    assert 3 * voxels._CELLS <= 63 and 2 * voxels._HALF == 1 << voxels._CELLS


# -- tables ------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seeds, st.integers(-24, 8), st.integers(0, 12))
def test_a_table_gathers_what_sorting_does(seed: int, step: int, coarser: int) -> None:
    single = Heaps.of(cloud(seed), EXTENT)
    found = []
    for dense in (0, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(voxels, "DENSE", dense)
            patch.setattr(voxels, "BLOCK", 37)
            heaps = single.gathered(size_of(step))
            found.append((heaps, heaps.gathered(size_of(step + coarser)), heaps.count(size_of(step + coarser))))
    (sorted_, fine, count), (tabled, again, counted) = found
    for a, b in ((sorted_, tabled), (fine, again)):
        assert a.sums.tobytes() == b.sums.tobytes() and a.counts.tobytes() == b.counts.tobytes()
    assert count == counted == len(fine) == len(sorted_.populations(size_of(step + coarser)))


@settings(max_examples=30)
@given(seeds, st.integers(1, 300))
def test_sums_in_a_table_are_those_of_whole_numbers(seed: int, most: int) -> None:
    """Python's own integers, keys that crowd one another, a table that is exactly as full as it may be."""
    rng = np.random.default_rng(seed)
    known = rng.choice(np.array([0, 1, 2, 3, 1 << 21, 1 << 42, 1 << 62]), 4 * most) + rng.integers(0, 50, 4 * most)
    known = np.unique(known)[:most]
    cells = voxels.Cells(1.0, 1.0, most)
    expected: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for _ in range(3):
        keys = rng.choice(known, 200)
        sums, counts = rng.integers(-(2**50), 2**50, (3, 200)), rng.integers(1, 9, 200)
        cells.add(keys, sums, counts)
        for key, *row in zip(keys.tolist(), *sums.tolist(), counts.tolist(), strict=True):
            expected[key] = [a + b for a, b in zip(expected[key], row, strict=True)]
    heaps = cells.heaps()
    assert cells.occupied == len(heaps) == len(expected)
    rows = [expected[key] for key in sorted(expected)]
    assert np.column_stack([heaps.sums, heaps.counts]).tolist() == rows


def test_scattered_numbers_are_even_and_tell_lattices_apart() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(32)] * 3), axis=0).reshape(3, -1)
    for triples in (grid, grid.astype(np.float64), np.float32(0.01) * grid.astype(np.float64) + 1e5):
        numbers = voxels.scattered(np.ascontiguousarray(triples))
        assert len(np.unique(numbers)) == grid.shape[1]
        for bits in (numbers >> np.uint64(59), numbers & np.uint64(31)):
            filled = np.bincount(bits.astype(int), minlength=32)
            np.testing.assert_allclose(filled, grid.shape[1] / 32, rtol=0.25)
