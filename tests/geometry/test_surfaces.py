"""Distances from triangles: against a box in closed form, brute force, and what cannot be measured."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.optimize import minimize

from deepgmr.errors import InvalidCloud
from deepgmr.geometry.surfaces import closest_points, surface_distances


def test_a_box_in_closed_form() -> None:
    half = np.array([0.5, 1.0, 1.5])
    box = trimesh.creation.box(2 * half)
    points = np.random.default_rng(0).uniform(-2.5, 2.5, (4000, 3))
    beyond = np.abs(points) - half
    truth = np.linalg.norm(beyond.clip(0), axis=1) + beyond.max(axis=1).clip(max=0)
    np.testing.assert_allclose(surface_distances(points, box.vertices, box.faces), truth, atol=1e-9)


def test_brute_force_over_all_triangles() -> None:
    shape = trimesh.creation.torus(1.0, 0.3)
    points = np.random.default_rng(1).normal(size=(300, 3))
    apart = points[:, None] - closest_points(points[:, None], shape.triangles[None])
    truth = np.linalg.norm(apart, axis=-1).min(axis=1)
    found = surface_distances(points, shape.vertices, shape.faces)
    np.testing.assert_allclose(np.abs(found), truth, atol=1e-12)
    height = np.hypot(np.hypot(*points.T[:2]) - 1.0, points[:, 2]) - 0.3  # of the round torus; its facets lie below
    np.testing.assert_array_equal(found[np.abs(height) > 0.02] < 0, height[np.abs(height) > 0.02] < 0)


def test_the_closest_point_minimises_the_distance() -> None:
    draw = np.random.default_rng(2)
    for _ in range(20):
        corners, point = draw.normal(size=(3, 3)), 2 * draw.normal(size=3)

        def apart(shares: np.ndarray, corners: np.ndarray = corners, point: np.ndarray = point) -> float:
            return float(np.square(corners[0] + shares @ (corners[1:] - corners[0]) - point).sum())

        limits = {"type": "ineq", "fun": lambda shares: 1 - shares.sum()}
        least = minimize(apart, [0.3, 0.3], bounds=[(0, 1)] * 2, constraints=limits, options={"ftol": 1e-14}).fun
        found = np.square(closest_points(point, corners) - point).sum()
        assert found == pytest.approx(least, abs=1e-6)


def test_what_has_no_surface_and_no_place() -> None:
    flat = np.zeros((3, 3))
    with pytest.raises(InvalidCloud, match="no triangle with an area"):
        surface_distances(np.ones((2, 3)), flat, np.array([[0, 1, 2]]))
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    found = surface_distances(np.array([[np.nan, 0, 0], [0, 0, 2.0]]), box.vertices, box.faces)
    assert np.isnan(found[0]) and found[1] == pytest.approx(1.5)
