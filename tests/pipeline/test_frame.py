"""Frames of large clouds: in small blocks here, against whole sums, and whatever the order of the points."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from problems_pipeline import shape

from deepgmr.geometry import voxels
from deepgmr.geometry.voxels import size_of
from deepgmr.pipeline import frame as room
from deepgmr.pipeline.clouds import as_points
from deepgmr.pipeline.frame import Frame, finest_rung, thinned
from deepgmr.pipeline.scan import Scan
from deepgmr.pipeline.settings import ScanSettings

FEW = ScanSettings(finest=1000)  # a cloud of more than 4,000 points is sampled, in blocks of
BLOCK = 997
OFFSET = np.array([3e5, -2e4, 70.0])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxels, "BLOCK", BLOCK)
    monkeypatch.setattr(room, "BLOCK", BLOCK)


def cloud(seed: int = 0, count: int = 30_000, far: int = 0) -> np.ndarray:
    """A surface of 40 metres, far from the origin, with points a thousand sizes away among the others."""
    rng = np.random.default_rng(seed)
    outside = rng.normal(size=(far, 3))
    outside *= 40_000 / np.linalg.norm(outside, axis=1, keepdims=True)
    return rng.permutation(np.concatenate([40 * shape(seed, count), outside])) + OFFSET


def same(a: Frame, b: Frame) -> bool:
    return (
        a.heaps.sums.tobytes() == b.heaps.sums.tobytes()
        and a.heaps.counts.tobytes() == b.heaps.counts.tobytes()
        and a.origin.tobytes() == b.origin.tobytes()
        and (a.size, a.radius, a.total, a.far, a.reach) == (b.size, b.radius, b.total, b.far, b.reach)
    )


def test_neither_the_order_of_the_points_nor_the_size_of_blocks_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud(far=30)
    first = Frame.of(points, FEW)
    assert first.far == 30 and len(first.heaps) > 300
    rng = np.random.default_rng(5)
    for block in (64, 4000):
        monkeypatch.setattr(voxels, "BLOCK", block)
        assert same(first, Frame.of(rng.permutation(points), FEW))
    assert same(first, Frame.of(np.asfortranarray(points), FEW))


def test_singles_and_doubles_are_the_same_cloud() -> None:
    points = cloud().astype(np.float32)
    assert same(Frame.of(points, FEW), Frame.of(points.astype(np.float64), FEW))


@limits(max_examples=10)
@given(st.integers(0, 1000))
def test_mean_and_size_are_those_of_all_points(seed: int) -> None:
    points = cloud(seed, 9000)
    found = Frame.of(points, FEW)
    mean = np.array([math.fsum(axis) / len(points) for axis in points.T])
    np.testing.assert_allclose(found.origin, mean, atol=1e-9)
    square = math.fsum(((points - mean) ** 2).ravel()) / len(points)
    assert found.size == pytest.approx(2 * math.sqrt(square), rel=1e-10)
    assert found.heaps.total == found.total == len(points) and found.far == 0
    assert found.reach == pytest.approx(np.abs(points).max(), rel=1e-12)


def test_every_point_is_added_to_its_cell_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary of Python's own integers, filled with what the table is given, holds the heaps."""
    cells: dict[tuple[int, ...], list[int]] = {}
    given_points: list[np.ndarray] = []

    class Watched(voxels.Cells):
        def add(self, keys: np.ndarray, sums: np.ndarray, counts: np.ndarray | int) -> None:
            super().add(keys, sums, counts)
            given_points.append(sums.T * self.step)
            for row in sums.T.tolist():
                cell = cells.setdefault(tuple(math.floor(x * self.step / self.size) for x in row), [0, 0, 0, 0])
                cell[:] = [a + b for a, b in zip(cell, [*row, 1], strict=True)]

    monkeypatch.setattr(room, "Cells", Watched)
    points = cloud(far=9)
    found = Frame.of(points, FEW)
    rows = np.array([cells[key] for key in sorted(cells)])
    assert 0.6 * FEW.finest < len(found.heaps) == len(rows) <= FEW.finest
    np.testing.assert_array_equal(found.heaps.counts, rows[:, 3])
    shift = rows[:, :3] - found.heaps.sums
    assert (shift == shift[:1] // rows[0, 3] * rows[:, 3:]).all()  # about their mean: all points moved by one vector
    moved = np.concatenate(given_points)
    kept = points[np.linalg.norm(points - np.median(points, axis=0), axis=1) < 4000]
    np.testing.assert_allclose(moved - moved.mean(0), kept - kept.mean(0), atol=1e-8)


def test_a_sample_tells_the_middle_and_the_radius() -> None:
    for far in (0, 200):
        points = cloud(3, far=far)
        whole, found = Frame.of(points, ScanSettings()), Frame.of(points, FEW)
        assert (found.total, found.far) == (whole.total, whole.far) == (30_000, far)
        assert found.radius == pytest.approx(whole.radius, rel=0.03)
        assert found.size == pytest.approx(whole.size, rel=1e-9)
        np.testing.assert_allclose(found.origin, whole.origin, atol=1e-6)
        inside = np.linalg.norm(points - np.median(points, axis=0), axis=1) < 4000
        assert found.reach == pytest.approx(np.abs(points[inside]).max(), rel=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_sample_speaks_for_the_cloud(share: float) -> None:
    points = cloud(1)
    sample = thinned(points, int(share * len(points)))
    assert len(sample) == pytest.approx(share * len(points), rel=0.15)
    assert {tuple(row) for row in sample} <= {tuple(row) for row in points}
    again = thinned(np.random.default_rng(0).permutation(points), int(share * len(points)))
    assert sorted(map(tuple, again)) == sorted(map(tuple, sample))
    quantiles = np.linspace(0.1, 0.9, 9)
    for a, b in zip(sample.T, points.T, strict=True):
        ranks = np.searchsorted(np.sort(b), np.quantile(a, quantiles)) / len(b)
        np.testing.assert_allclose(ranks, quantiles, atol=4 / math.sqrt(len(sample)))


def test_points_in_few_places_are_all_looked_at() -> None:
    places = cloud(2, 60)
    points = np.repeat(places, 500, axis=0)
    assert thinned(points, 1000) is points
    found = Frame.of(points, FEW)
    assert len(found.heaps) == 60 and (found.heaps.counts == 500).all()


def test_a_sample_that_promises_too_little_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud()
    usual = Frame.of(points, FEW)
    monkeypatch.setattr(room, "expected_cells", lambda populations: len(populations) / 20)
    found = Frame.of(points, FEW)
    assert 200 < len(found.heaps) <= FEW.finest and found.heaps.total == len(points)
    assert found.origin == pytest.approx(usual.origin, abs=1e-9)


def test_the_finest_rung_is_told_from_counts_alone() -> None:
    def surface(step: int) -> float:
        return 1e4 / size_of(step) ** 2

    for finest in (500, 5000, 50_000):
        found = finest_rung(surface, 10**6, -100, 100.0, finest)
        assert surface(found) <= finest < 2 * surface(found) * 1.01
    assert finest_rung(surface, 400, -7, 100.0, 500) == -7  # no more points than heaps: each keeps its own
    assert finest_rung(surface, 10**6, 3, 100.0, 10**5) == 3


def test_memory_is_that_of_blocks_and_heaps() -> None:
    rng = np.random.default_rng(0)
    points = np.tile(cloud(), (10, 1)) + rng.normal(size=(300_000, 3))
    points = points.astype(np.float32)
    Scan.of(as_points(points[:5000]), FEW)
    tracemalloc.start()
    Scan.of(as_points(points), FEW)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.7 * points.nbytes  # 3.6 MB of points


def test_stray_points_do_not_make_coordinates_coarse() -> None:
    points = cloud(4, 5000) - OFFSET
    stray = np.concatenate([points, 1e8 * np.ones((5, 3))]).astype(np.float32)
    for settings in (ScanSettings(), FEW):
        found = Scan.of(as_points(stray), settings)
        assert (found.far, found.coarse) == (5, None)
