"""Scans and levels: normals, neighbours, one resolution, no bit lost to the order of the points."""

from __future__ import annotations

import math
import sys

import numpy as np
import oracles
import pytest
import torch
from problems_pipeline import SETTINGS, level, levels, motion, shape
from scipy.spatial import cKDTree

from deepgmr.networks.patches import nodes_of
from deepgmr.pipeline import scan as scans
from deepgmr.pipeline.scan import Pair, Scan, fingerprint
from deepgmr.pipeline.settings import ScanSettings, Settings


def test_normals_are_those_of_the_surface() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    surface = level(points)
    cosine = (surface.normals * surface.means).sum(-1)
    assert cosine.max() < -0.95  # the hollow side of a sphere is inside, everywhere


def test_neighbours_agree_with_a_brute_search() -> None:
    surface = level(shape(0))
    distance = torch.cdist(surface.means, surface.means).fill_diagonal_(math.inf)
    nearest = distance.gather(1, surface.neighbours)
    np.testing.assert_allclose(nearest, distance.sort(1).values[:, : nearest.shape[1]], atol=1e-6)
    assert surface.spacing == pytest.approx(float(distance.min(1).values.median()), rel=0.02)


def test_patches_are_each_component_and_the_nearest_others() -> None:
    surface = level(shape(1, 300))
    order = torch.cdist(torch.from_numpy(surface.points), torch.from_numpy(surface.points)).argsort(1)
    for size in (5, 40, 12):  # fewer, more and fewer again than are known
        np.testing.assert_array_equal(surface.patches(size), order[:, :size])
    assert level(shape(1, 300)[:7]).patches(40).shape == (7, 7)


def test_gaps_are_the_spacing_of_a_grid_and_grow_where_it_is_sparse() -> None:
    line = np.arange(12) / 12
    grid = np.stack(np.meshgrid(line, line, [0.0], indexing="ij"), axis=-1).reshape(-1, 3)
    even = level(grid)
    inside = ((grid[:, :2] > 0) & (grid[:, :2] < line[-1])).all(axis=1)
    np.testing.assert_allclose(even.gaps[torch.from_numpy(inside)], even.spacing, rtol=1e-5)
    assert even.spacing == pytest.approx(1 / 12)
    coarse = 3 * grid[grid[:, 0] < 0.5] + [2.0, 0.0, 0.0]  # three times as sparse
    uneven = level(np.concatenate([grid, coarse]))
    np.testing.assert_allclose(uneven.gaps, oracles.local_gaps(uneven.points), rtol=1e-5)
    assert float(uneven.gaps[len(grid) :].median() / uneven.gaps[: len(grid)].median()) == pytest.approx(3, rel=0.15)


def test_a_balanced_level_is_part_of_its_own_with_the_directions_it_has_there() -> None:
    points = shape(2, 5000)
    surface = level(points)
    few = surface.balanced(400)
    assert few is surface.balanced(400) and 380 <= len(few) <= 400
    distance, rows = cKDTree(points).query(few.points)
    assert (distance == 0).all() and (np.diff(rows) > 0).all()
    for name in ("directions", "heights", "gaps"):
        np.testing.assert_array_equal(getattr(few, name), getattr(surface, name)[rows])
    for most in (4000, 5000, 9000):  # not so many fewer that it would be worth it
        assert surface.balanced(most) is surface
    ways, few_ways = (
        np.bincount(np.abs(x).argmax(1), minlength=3) / len(x) for x in (surface.axes, few.directions.numpy())
    )
    assert few_ways.max() - few_ways.min() < 0.6 * (ways.max() - ways.min())


def test_normals_from_fewer_neighbours_leave_those_of_the_level_as_they_are() -> None:
    points = shape(2, 2000)
    before, surface = level(points).axes, level(points)
    closer = surface.seen_closer(6)
    assert closer.points is surface.points and np.abs(closer.axes - before).max() > 1e-3
    np.testing.assert_array_equal(surface.axes, before)
    np.testing.assert_array_equal(closer.axes, level(points).seen_closer(6).axes)


def test_both_clouds_come_to_one_resolution() -> None:
    dense, sparse = shape(0, 20_000), shape(0, 1_200)
    p, q = levels(dense, sparse)
    assert p.spacing == pytest.approx(q.spacing, rel=0.5)
    p, q = levels(dense, shape(0, 10_000))
    assert 1200 < len(p) < 1900
    assert len(levels(shape(0), shape(1))[0]) == 600  # small clouds of one density are used as they are


@pytest.mark.parametrize("count", [100, 1000])
def test_a_level_covers_the_cloud(count: int) -> None:
    points = shape(2, 8000)
    scan = Scan.of(points)
    kept = scan.level(scan.rung_for(count), 3.0).points * 3.0 + scan.origin
    assert 0.8 * count < len(kept) < 1.25 * count
    gap, _ = cKDTree(kept).query(points)
    assert gap.max() < 6 * gap.mean()


def test_a_scan_does_not_know_the_order_of_its_points() -> None:
    rng = np.random.default_rng(0)
    points = 5e5 + 30 * shape(4, 9000)
    first, second = Scan.of(points), Scan.of(points[rng.permutation(len(points))])
    assert (first.origin == second.origin).all() and first.size == second.size
    for step in (first.rung_for(300), first.rung_for(2000), None):
        a, b = first.level(step, 30.0), second.level(step, 30.0)
        assert a.points.tobytes() == b.points.tobytes()
        assert a.normals.numpy().tobytes() == b.normals.numpy().tobytes()
        assert a.neighbours.numpy().tobytes() == b.neighbours.numpy().tobytes()


def test_the_frame_is_that_of_float64() -> None:
    points = 7.0 * shape(5, 3000) + [5e6, -3e5, 40]
    scan = Scan.of(points)
    np.testing.assert_allclose(scan.origin - points[0], (points - points[0]).mean(0), atol=2e-9)
    radius = np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean())
    assert scan.size == pytest.approx(2 * radius, rel=1e-9)
    back = scan.level(None, scan.size).points * scan.size + scan.origin
    assert np.abs(cKDTree(points).query(back)[0]).max() < 2e-9  # of five million metres


def test_components_are_the_means_of_their_cells() -> None:
    points = shape(6, 5000)
    scan = Scan.of(points)
    step = scan.rung_for(400)
    size = 2 ** (step / 4)
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in points - scan.origin:
        cells.setdefault(tuple(np.floor(point / size).astype(int)), []).append(point)
    means = np.stack([np.mean(cell, axis=0) for cell in cells.values()]) / scan.size
    found = scan.level(step, scan.size).points
    assert abs(len(found) - len(means)) <= 2  # a point on the border of two cells
    assert np.quantile(cKDTree(found).query(means)[0], 0.99) < 1e-9


def test_far_points_count_for_nothing_and_are_counted() -> None:
    points = shape(7, 4000)
    stray = np.concatenate([points, 1e6 * np.random.default_rng(0).normal(size=(20, 3))])
    clean, spoilt = Scan.of(points), Scan.of(stray)
    assert (clean.far, spoilt.far) == (0, 20)
    assert (spoilt.size, spoilt.total) == (clean.size, 4000)
    assert (
        spoilt.level(spoilt.rung_for(500), 1.0).points.tobytes()
        == clean.level(clean.rung_for(500), 1.0).points.tobytes()
    )


def test_a_large_cloud_keeps_the_finest_level_that_fits_and_the_same_in_any_order() -> None:
    rng = np.random.default_rng(1)
    points = shape(8, 30_000)
    settings = ScanSettings(finest=2000)
    first, second = Scan.of(points, settings), Scan.of(points[rng.permutation(len(points))], settings)
    assert 500 < len(first.heaps) <= 2000 and first.heaps.total == 30_000
    assert (
        first.level(first.rung_for(300), 1.0).points.tobytes()
        == second.level(second.rung_for(300), 1.0).points.tobytes()
    )


@pytest.mark.parametrize("size", [np.array([500.0, 2.0, 2.0]), np.array([0.02, 0.02, 40.0]), np.array([9.0, 9.0, 9.0])])
def test_the_finest_level_uses_what_it_may(size: np.ndarray) -> None:
    """A tunnel, a rod, a block: none is squeezed into voxels meant for a room."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, size=(30_000, 3))
    points[np.arange(30_000), rng.integers(0, 3, 30_000)] = 0.5
    scan = Scan.of(points * size, ScanSettings(finest=4000))
    assert 1500 < len(scan.heaps) <= 4000


@pytest.mark.parametrize("copies", [2, 3, 40])
def test_points_given_more_than_once_count_as_one_place(copies: int) -> None:
    points = shape(3, 700)
    once, often = Scan.of(points), Scan.of(np.repeat(points, copies, axis=0))
    assert len(often.heaps) == len(once.heaps) == 700 and often.total == 700 * copies
    for step in (None, once.rung_for(200)):
        np.testing.assert_allclose(often.level(step, 1.0).points, once.level(step, 1.0).points, atol=1e-9)
    assert often.rung_for(1000) is None


def test_coarse_levels_of_very_many_heaps_are_made_of_less_coarse_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    points = shape(8, 30_000)
    direct = Scan.of(points)
    monkeypatch.setattr(scans, "MANY", 1000)
    staged = Scan.of(np.random.default_rng(0).permutation(points))
    for step in range(-24, 1):
        a, b = (scan.level(step, 1.0) for scan in (direct, staged))
        assert staged.count(step) == len(b)
        if step % 4 == 0:  # whole octaves hold one another
            np.testing.assert_array_equal(a.points, b.points)
        assert len(b) == pytest.approx(len(a), rel=0.06, abs=3)
    steps = [staged.rung_for(count) for count in (100, 700, 3000)]
    assert steps == [direct.rung_for(count) for count in (100, 700, 3000)]


def test_a_pair_is_measured_by_its_larger_cloud() -> None:
    points = shape(9, 3000)
    small, large = Scan.of(points), Scan.of(5 * points)
    pair = Pair(small, large)
    assert pair.scale == large.size == pytest.approx(5 * small.size)
    assert pair.size_ratio == pytest.approx(0.2)
    fine = pair.fine(800, 12)[0]
    np.testing.assert_allclose(fine.points * pair.scale, small.level(small.rung_for(800), 1.0).points, rtol=1e-14)


def test_a_map_keeps_what_it_can_and_forgets_the_rest() -> None:
    scan = Scan.of(shape(9, 3000))
    first = scan.level(None, 1.0)
    assert scan.level(None, 1.0) is first
    for scale in range(2, 40):
        scan.level(None, float(scale))
    again = scan.level(None, 1.0)
    assert again is not first and again.points.tobytes() == first.points.tobytes()


def test_motions_enter_the_frame_and_leave_it() -> None:
    pair = Pair(Scan.of(1000 + 20 * shape(1)), Scan.of(20 * shape(2) - 500))
    matrix = motion(3).matrix.numpy()
    np.testing.assert_allclose(pair.undo(pair.enter(matrix)), matrix, atol=1e-9)
    point = 1000 + 20 * shape(1)[7]
    inside = pair.enter(matrix).apply(torch.from_numpy((point - pair.source.origin) / pair.scale)[None])[0].numpy()
    outside = matrix[:3, :3] @ point + matrix[:3, 3]
    np.testing.assert_allclose(inside * pair.scale + pair.target.origin, outside, atol=1e-9)


def test_a_cloud_that_vanishes_in_the_voxels_of_its_partner_is_reduced_all_the_same() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(20_000, 3)), 40 * rng.normal(size=(20_000, 3))
    for pair in (levels(small, large), levels(large, small)):
        assert all(32 <= len(surface) <= 1.3 * SETTINGS.scan.most for surface in pair)


def test_a_level_is_a_mixture_of_disks() -> None:
    surface = level(shape(3))
    mixture = surface.mixture
    assert float(mixture.weights.sum()) == pytest.approx(1)
    np.testing.assert_array_equal(mixture.means.numpy(), surface.points)
    values, vectors = np.linalg.eigh(mixture.covariances.numpy())
    deviation = SETTINGS.scan.sigma * surface.spacing
    np.testing.assert_allclose(values[:, 1:], deviation**2, rtol=1e-9)
    np.testing.assert_allclose(values[:, 0], SETTINGS.scan.thickness * deviation**2, rtol=1e-6)
    assert np.abs(np.einsum("ji,ji->j", vectors[:, :, 0], surface.axes)).min() > 1 - 1e-6


def test_without_small_gicp_the_components_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points = shape(4, 3000)
    ours = levels(points[:1500], points[1500:])
    assert all(len(a.normals) for a in ours)
    monkeypatch.setitem(sys.modules, "small_gicp", None)  # what an import of a missing library meets
    theirs = levels(points[:1500], points[1500:])
    for a, b in zip(ours, theirs, strict=True):
        assert b.tree.cloud is None and a.tree.cloud is not None
        np.testing.assert_array_equal(a.points, b.points)
        assert (a.neighbours == b.neighbours).float().mean() > 0.999  # equally near ones may swap
        assert a.spacing == pytest.approx(b.spacing, rel=1e-12)
        chosen = torch.arange(0, len(a), 7)
        first, second = (nodes_of(x.means, x.normals, x.around(chosen), x.spacing, chosen).patches for x in (a, b))
        assert (first - second).abs().flatten(2).amax(-1).quantile(0.98) < 1e-4  # a flat patch has two sides


def test_another_front_end_has_another_fingerprint() -> None:
    assert fingerprint(Settings().scan) == fingerprint(ScanSettings())
    assert fingerprint(ScanSettings(for_normals=17)) != fingerprint(ScanSettings())
