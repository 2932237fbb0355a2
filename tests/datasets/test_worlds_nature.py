"""Forests and caves: no planes, foliage that strays, and smooth noise that closes round a tube."""

from __future__ import annotations

import numpy as np
import pytest

from deepgmr.datasets.worlds.nature import cave_surfaces, forest_surfaces, smooth
from deepgmr.datasets.worlds.triangles import Triangles


def largest_side(surfaces: Triangles) -> float:
    """The largest share of the area that faces one direction within some 8 degrees, among those of random triangles."""
    edges = surfaces.corners[:, 1:] - surfaces.corners[:, :1]
    normal = np.cross(edges[:, 0], edges[:, 1])
    area = np.linalg.norm(normal, axis=1)
    normal, area = normal[area > 1e-9] / area[area > 1e-9, None], area[area > 1e-9]
    some = normal[np.random.default_rng(0).choice(len(normal), 200, p=area / area.sum())]
    return float(max((area * (np.abs(normal @ direction) > 0.99)).sum() for direction in some) / area.sum())


def test_nothing_is_a_plane() -> None:
    rng = np.random.default_rng(0)
    assert largest_side(forest_surfaces(rng, 30)) < 0.25
    assert largest_side(cave_surfaces(rng, 30)) < 0.15


def test_a_forest_stands_on_its_ground_and_strays_where_it_is_green() -> None:
    surfaces = forest_surfaces(np.random.default_rng(2), 24)
    assert np.abs(surfaces.corners[..., :2]).max() < 24  # what leans over the edge does not reach far
    assert surfaces.rough is not None and 0.2 < (surfaces.rough > 0).mean() < 0.9
    cells = 2 * 24**2
    ground, above = surfaces.corners[:cells], surfaces.corners[cells:]
    assert (surfaces.rough[:cells] == 0).all() and above[..., 2].max() > ground[..., 2].max() + 3
    assert above[..., 2].min() > ground[..., 2].min() - 1.5


def test_a_cave_is_a_tube_along_x() -> None:
    surfaces = cave_surfaces(np.random.default_rng(1), 30)
    wall = surfaces.corners[: 2 * 120 * 96].reshape(-1, 3)
    assert np.ptp(wall[:, 0]) == pytest.approx(30)
    for x in (-10.0, 0.0, 10.0):  # a closed ring around its middle in every section
        ring = wall[np.abs(wall[:, 0] - x) < 0.3][:, 1:]
        off = ring - (ring.max(axis=0) + ring.min(axis=0)) / 2
        angles = np.sort(np.arctan2(off[:, 1], off[:, 0]))
        assert np.diff(angles).max() < 0.5 and np.linalg.norm(off, axis=1).min() > 0.3


def test_noise_is_smooth_varied_and_closes() -> None:
    rng = np.random.default_rng(0)
    sheet = smooth(rng, 200, 10)
    assert sheet.shape == (201, 201) and 0.4 < sheet.std() < 1.2
    assert np.abs(np.diff(sheet, axis=0)).max() < 0.6
    tube = smooth(rng, 120, 1.5, 4, around=96)
    assert tube.shape == (121, 97) and np.allclose(tube[:, 0], tube[:, -1])
    assert np.abs(tube[:, 1] - tube[:, -2]).max() < 0.6  # no seam
