"""Rotations from dominant normals, translations by phase correlation: against known axes, brute sums, known motions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import cuboid
from problems_pipeline import SETTINGS, level
from scipy.spatial.transform import Rotation

from deepgmr.datasets.worlds.halls import hall
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.propose.correlation import (
    Turns,
    _peaks,
    _spectrum,
    cell_size,
    correlated_motions,
    dominant,
    rotations,
)
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.scan import Level, Pair, Scan
from deepgmr.pipeline.settings import CorrelationSettings

CORRELATION = SETTINGS.correlation


def turn(seed: int) -> np.ndarray:
    return Rotation.random(random_state=seed).as_matrix()


def sphere(count: int, seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def degrees(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Between rotations (R, 3, 3) and one."""
    return np.degrees(Rotation.from_matrix(found @ truth.T).magnitude())


def off(motions: RigidTransform, truth: RigidTransform, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far motions (H,) are from the truth: degrees, and the largest difference on an axis at the points' mean."""
    centre = torch.from_numpy(points.mean(0))[None]
    shift = (motions.apply(centre) - truth.apply(centre)).abs().flatten(1).amax(-1)
    return degrees(motions.rotation.numpy(), truth.rotation.numpy()), shift.numpy()


def correlated(
    source: Level, target: Level, *, prior: Prior, settings: CorrelationSettings = CORRELATION
) -> RigidTransform:
    """The motions, with the normals of all of both clouds."""
    return correlated_motions(source, target, Turns.of(source.axes, target.axes, prior, settings), settings)[0]


# -- directions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_axes_of_a_box_are_its_dominant_directions_in_any_pose(seed: int) -> None:
    axes = turn(seed)
    found, weights = dominant(level(cuboid(2000, seed) @ axes.T).axes, CORRELATION)
    cosines = np.abs(found @ axes)
    assert len(found) == 3 and {*cosines.argmax(axis=1)} == {0, 1, 2}
    assert cosines.max(axis=1).min() > math.cos(math.radians(1))
    assert weights.min() > 5 * CORRELATION.salient


@pytest.mark.parametrize("seed", range(4))
def test_no_direction_of_a_sphere_stands_out(seed: int) -> None:
    axes = level(sphere(3000, seed)).axes
    found, weights = dominant(axes, CORRELATION)
    assert len(found) <= 1 and (weights < 1.5 * CORRELATION.salient).all()  # of so few samples some are near others
    found, weights = dominant(axes, replace(CORRELATION, counted=3000))
    assert found.shape == (0, 3) and weights.shape == (0,)


def test_a_slab_has_one_direction_and_a_weight_that_says_how_many_times_chance() -> None:
    rng = np.random.default_rng(0)
    round_about = sphere(3000, 1)
    round_about[: len(round_about) // 4] = [0.0, 0.6, 0.8]
    found, weights = dominant(rng.permutation(round_about * rng.choice([-1, 1], (3000, 1))), CORRELATION)
    assert len(found) == 1 and abs(found[0] @ [0.0, 0.6, 0.8]) > math.cos(math.radians(1))
    chance = np.exp(CORRELATION.sharpness * (sphere(200_000, 2)[:, 0] ** 2 - 1)).mean()
    assert weights[0] == pytest.approx(0.25 / chance + 0.75, rel=0.1)


# -- rotations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_box_has_the_twenty_four_rotations_of_a_cube_and_the_truth_is_one(seed: int) -> None:
    truth = turn(seed)
    source, target = (level(points).axes for points in (cuboid(2000, 1), cuboid(2000, 2) @ truth.T))
    found = rotations(dominant(source, CORRELATION), dominant(target, CORRELATION), CORRELATION)
    assert found.shape == (24, 3, 3)
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), np.broadcast_to(np.eye(3), found.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-9)
    cube = truth @ Rotation.create_group("O").as_matrix()
    nearest = np.stack([degrees(found, each) for each in cube])  # (24, 24)
    assert sorted(nearest.argmin(axis=1)) == list(range(24)) and nearest.min(axis=1).max() < 2


def test_rotations_that_carry_all_directions_lead_and_none_is_there_twice() -> None:
    # Three directions at 40, 60 and 75 degrees from one another: one rotation carries all, others only two of them.
    a, truth = np.eye(3)[0], turn(7)
    b = Rotation.from_rotvec([0, 0, math.radians(40)]).apply(a)
    c = np.linalg.solve(np.stack([a, b, [0, 0, 1.0]]), [math.cos(math.radians(60)), math.cos(math.radians(75)), 0.0])
    c[2] = math.sqrt(1 - c @ c)
    three, weights = np.stack([a, b, c]), np.array([9.0, 8.0, 7.0])
    found = rotations((three, weights), (three @ truth.T * [[1], [-1], [1]], weights), CORRELATION)
    assert degrees(found, truth)[0] < 1e-4
    apart = [degrees(found[[i]], found[j])[0] for i, j in itertools.combinations(range(len(found)), 2)]
    assert min(apart) > math.degrees(CORRELATION.tolerance)


def test_about_a_single_direction_turns_come_in_equal_steps_both_ways_up() -> None:
    one, other = turn(1)[:, 0], turn(2)[:, 0]
    weight = np.ones(1)
    settings = replace(CORRELATION, turns=10)
    found = rotations((one[None], weight), (other[None], weight), settings)
    assert len(found) == 20
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-12)
    np.testing.assert_allclose(found[:10] @ one, np.tile(other, (10, 1)), atol=1e-12)
    np.testing.assert_allclose(found[10:] @ one, np.tile(-other, (10, 1)), atol=1e-12)
    np.testing.assert_allclose([degrees(found[[k]], found[k + 1])[0] for k in range(9)], 36, atol=1e-6)


def test_without_directions_there_is_no_rotation() -> None:
    some, none = (np.eye(3), np.ones(3)), (np.zeros((0, 3)), np.zeros(0))
    assert rotations(some, none, CORRELATION).shape == rotations(none, some, CORRELATION).shape == (0, 3, 3)
    skewed = np.stack([np.eye(3)[0], [math.cos(0.6), math.sin(0.6), 0.0]])  # at an angle that a cube does not have
    assert rotations((skewed, np.ones(2)), some, CORRELATION).shape == (0, 3, 3)


# -- translations ----------------------------------------------------------------------------------------------


def test_the_spectrum_is_that_of_the_occupied_cells() -> None:
    rng = np.random.default_rng(0)
    points, size, shape = rng.uniform(0, 0.99, (40, 3)), 0.25, (4, 5, 6)
    cells = np.zeros(shape)
    for x, y, z in points:
        cells[int(x / size), int(y / size), int(z / size)] = 1
    frequencies = [np.arange(4), np.arange(5), np.arange(4)]  # half of the last: the cells are real
    expected = np.zeros((4, 5, 4), dtype=complex)
    for u, v, w in itertools.product(*frequencies):
        for i, j, k in np.argwhere(cells):
            expected[u, v, w] += np.exp(-2j * np.pi * (u * i / 4 + v * j / 5 + w * k / 6))
    np.testing.assert_allclose(_spectrum(points.T, size, shape), expected, atol=1e-5)


def test_peaks_are_the_highest_values_that_are_not_beside_higher_ones() -> None:
    values = np.random.default_rng(1).normal(size=(9, 8, 7))
    values[4, 4, 4], values[4, 5, 4], values[1, 1, 1] = 30.0, 29.0, 20.0
    places, heights = _peaks(values, 3)
    left = {index: values[index] for index in np.ndindex(values.shape)}
    for place, height in zip(places, heights, strict=True):
        best = max(left, key=left.__getitem__)
        assert tuple(place) == best and height == pytest.approx(left[best] / np.sqrt((values**2).mean()))
        left = {index: value for index, value in left.items() if max(abs(np.subtract(index, best))) > 1}
    assert [tuple(place) for place in places[:2]] == [(4, 4, 4), (1, 1, 1)]


def walls(seed: int) -> np.ndarray:
    """Points (3000, 3) on an L of walls, a floor and two boxes: no motion but none puts it onto itself."""
    rng = np.random.default_rng(seed)
    lows = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [1.0, 1.2, 0], [2.0, 0.4, 0]])
    sides = np.array([[3.0, 2, 0], [3, 0, 1.3], [0, 2, 1.3], [0.5, 0.4, 0.6], [0.3, 0.7, 0.4]])
    which = np.repeat(np.arange(5), [1200, 700, 500, 300, 300])
    points = lows[which] + rng.uniform(size=(3000, 3)) * sides[which]
    flat = which >= 3  # the boxes: a side each
    axis = rng.integers(0, 3, 3000)
    points[flat, axis[flat]] = (lows[which] + sides[which] * rng.integers(0, 2, (3000, 1)))[flat, axis[flat]]
    return points


@pytest.mark.parametrize("seed", range(3))
def test_the_highest_peak_is_that_of_a_brute_phase_correlation(seed: int) -> None:
    """The same cells, correlated by NumPy's own transform, shift by shift."""
    source = walls(1)
    shift = np.random.default_rng(seed).uniform(-5, 5, 3)
    target = source + shift
    identity = Prior(RigidTransform.identity(dtype=torch.float64), 0.2)
    settings = replace(CORRELATION, cells=20_000)
    motions = correlated(level(source), level(target), prior=identity, settings=settings)
    size = float(np.prod(2 * np.ptp(source, axis=0)) / settings.cells) ** (1 / 3)
    shape = tuple(int(2 * length / size) + 8 for length in np.ptp(source, axis=0))
    p, q = (np.zeros(shape) for _ in range(2))
    for cells, points in ((p, source), (q, target)):
        cells[tuple(((points - points.min(0)) / size).astype(int).T)] = 1
    cross = np.conj(np.fft.fftn(p)) * np.fft.fftn(q)
    values = np.fft.ifftn(cross / np.maximum(np.abs(cross), 1e-3 * np.abs(cross).max())).real
    best = np.array(np.unravel_index(values.argmax(), shape))
    best = np.where(best > np.array(shape) // 2, best - shape, best)
    expected = best * size + target.min(0) - source.min(0)
    angle, _ = off(motions, RigidTransform.identity(dtype=torch.float64), source)
    assert angle[0] < 3
    turned = source @ motions.rotation[0].numpy().T + motions.translation[0].numpy()
    assert np.abs(turned.mean(0) - source.mean(0) - expected).max() < size


# -- motions ---------------------------------------------------------------------------------------------------


def furnished_pair(seed: int) -> tuple[Pair, tuple[Level, Level], RigidTransform, np.ndarray]:
    """A hall of 8 x 6 x 3 metres, either cloud in a pose of its own; the truth in the frame of the pair."""
    plan = hall(np.random.default_rng(seed), scale=1.0)
    source, target = plan.clouds(8000)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn(seed + 50), [3.0, -40.0, 7.0]
    pair = Pair(Scan.of(source), Scan.of(target @ pose[:3, :3].T + pose[:3, 3]))
    levels = pair.fine(6000, SETTINGS.detail.neighbours)
    return pair, levels, pair.enter(pose @ plan.target_from_source), levels[0].points


@pytest.mark.parametrize("seed", range(4))
def test_the_truth_of_a_furnished_hall_is_among_the_first_motions_whatever_the_pose(seed: int) -> None:
    pair, levels, truth, points = furnished_pair(seed)
    found = correlated(*levels, prior=Prior())
    assert len(found.rotation) == CORRELATION.kept
    angle, shift = off(found, truth, points)
    voxel = 0.3 / pair.scale  # of the 100,000 cells of a box about both clouds, metres
    assert ((angle < 2) & (shift < voxel))[:3].any()


def test_motions_keep_to_the_prior_and_find_the_truth_there() -> None:
    _, levels, truth, points = furnished_pair(1)
    prior = Prior(RigidTransform.exp(torch.tensor([0.2, 0.1, -0.3, 9.0, 0, 0], dtype=torch.float64)) @ truth, 0.6)
    found = correlated(*levels, prior=prior)
    assert prior.allows(found.rotation).all()
    angle, shift = off(found, truth, points)
    assert angle[0] < 3 and shift[0] < 0.1  # sizes
    nowhere = Prior(RigidTransform.exp(torch.tensor([0.5, 0.4, 0.4, 0, 0, 0], dtype=torch.float64)) @ truth, 0.1)
    assert len(correlated(*levels, prior=nowhere).rotation) == 0


@pytest.mark.parametrize("thickness", [[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1e-6, 1e-9], [3, 40, 0.2]])
def test_a_grid_has_about_as_many_cells_as_it_may_however_thin(thickness: list[float]) -> None:
    for scale in (1e-3, 1.0, 50.0):
        sides = scale * np.array(thickness)
        size = cell_size(sides, 0.0, CORRELATION)
        cells = np.prod(np.floor(sides / size) + 1)
        assert 0.4 * CORRELATION.cells < cells < 4 * CORRELATION.cells
        assert cell_size(sides, size, CORRELATION) == CORRELATION.voxel * size


def test_a_line_takes_no_longer_than_a_room() -> None:
    line = np.linspace(0, 1, 2000)[:, None] * [1.0, 2.0, -0.5]
    found = correlated(level(line), level(line[::-1] ** 3), prior=Prior())
    assert torch.isfinite(found.matrix).all()


def test_a_sphere_gives_no_motion() -> None:
    a, b = level(sphere(3000, 2)), level(sphere(3000, 3))
    assert len(correlated(a, b, prior=Prior(), settings=CORRELATION).rotation) == 0
    assert len(correlated(level(cuboid(2000, 0)), b, prior=Prior(), settings=CORRELATION).rotation) == 0
