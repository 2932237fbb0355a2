"""Depth images against ray casting by brute force; views, pieces and parts against the triangles they come from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepgmr.datasets.worlds.models import depth_image, model, part_pair, piece_pair, shot_pair, view_pair
from deepgmr.datasets.worlds.planned import inverse
from deepgmr.datasets.worlds.triangles import boxes


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def first_hits(corners: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """The distance along each ray (R, 3) from the origin to the nearest of triangles (T, 3, 3): Moeller-Trumbore."""
    nearest = np.full(len(rays), np.inf)
    for a, b, c in corners:
        e1, e2 = b - a, c - a
        p = np.cross(rays, e2)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 1 / (p @ e1)
            u = -(p @ a) * scale
            q = np.cross(-a, e1)
            v = (rays @ q) * scale
            t = (e2 @ q) * scale
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        nearest[hit] = np.minimum(nearest[hit], t[hit])
    return nearest


@pytest.mark.parametrize("seed", range(3))
def test_depth_images_agree_with_ray_casting(seed: int) -> None:
    turn = np.linalg.qr(rng(seed).standard_normal((3, 3)))[0]
    corners, half, side = model(rng(seed)).corners @ turn + [0.1, -0.2, 3.0], 0.45, 40
    image = depth_image(corners, half, side)
    centres = (np.arange(side) + 0.5) * (2 * half / side) - half
    x, y = np.meshgrid(centres, centres)  # a row of the image is a row of y
    depth = first_hits(corners, np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)).reshape(side, side)
    assert 100 < np.isfinite(image).sum() < side**2
    same = np.isfinite(image) == np.isfinite(depth)
    assert same.mean() > 0.998  # rays along an edge
    both = np.isfinite(image) & np.isfinite(depth)
    assert (np.abs(image[both] - depth[both]) < 1e-6).mean() > 0.995


def test_a_depth_image_of_a_wall() -> None:
    wall = boxes([0, 0, 5.0], [1.0, 0.5, 1.0]).corners
    image = depth_image(wall, 0.5, 100)
    assert image[50, 50] == pytest.approx(4.0) and np.isinf(image[0, 0])
    rows, columns = np.nonzero(np.isfinite(image))
    assert np.ptp(columns) + 1 == 50 and np.ptp(rows) + 1 in (24, 25, 26)


def test_models_have_radius_one_around_their_middle() -> None:
    for seed in range(10):
        surfaces = model(rng(seed))
        assert np.linalg.norm(surfaces.corners, axis=-1).max() == pytest.approx(1)
        assert np.linalg.norm(surfaces.sample(20_000, rng()).mean(axis=0)) < 0.03


def test_views_show_one_side_of_the_whole() -> None:
    shares = []
    for seed in range(6):
        plan = view_pair(rng(seed))
        source, target = plan.clouds(3000)
        laid = source @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
        spacing = np.median(cKDTree(target).query(target, k=2)[0][:, 1])
        assert np.percentile(cKDTree(target).query(laid)[0], 95) < 5 * spacing + 0.03
        shares.append((cKDTree(laid).query(target)[0] < 3 * spacing + 0.02).mean())
        assert plan.shape is not None
        shape = plan.shape @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
        assert cKDTree(target).query(shape)[0].mean() < 2 * spacing + 0.02
        assert np.linalg.norm(shape, axis=1).max() < 1.001
    assert max(shares) < 0.95 and np.mean(shares) < 0.8  # the far side is not seen


def test_shots_from_near_places_share_more_than_those_from_opposite_ones() -> None:
    shares: dict[float, list[float]] = {15: [], 180: []}
    for seed in range(8):
        for apart, found in shares.items():
            plan = shot_pair(rng(seed), apart=apart)
            source, target = (cloud.astype(float) for cloud in plan.clouds(4000))
            laid = source @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
            assert (target[:, 2] > 0.9).all()  # before the second camera, two to five radii away
            spacing = np.median(cKDTree(target).query(target, k=2)[0][:, 1])
            found.append(float((cKDTree(target).query(laid)[0] < 3 * spacing + 0.02).mean()))
            assert plan.shape is not None
            shape = plan.shape @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
            both = cKDTree(shape)  # what is seen belongs to one model of radius one
            assert np.percentile(both.query(laid)[0], 95) < 0.15 and np.percentile(both.query(target)[0], 95) < 0.15
    assert np.mean(shares[15]) > 0.9 and np.mean(shares[180]) < np.mean(shares[15]) - 0.1


def test_pieces_are_of_one_surface_and_as_large_as_they_say() -> None:
    overlaps = []
    for seed in range(8):
        plan = piece_pair(rng(seed))
        source, target = plan.clouds(4000)
        laid = source @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
        spacing = np.median(cKDTree(target).query(target, k=2)[0][:, 1])
        met = (cKDTree(target).query(laid)[0] < 2.5 * spacing).mean()
        assert plan.overlap is not None and met == pytest.approx(plan.overlap, abs=0.1)
        overlaps.append(plan.overlap)
    assert min(overlaps) < 0.9 and max(overlaps) > 0.95


def test_a_part_lies_in_its_assembly() -> None:
    for seed in range(4):
        plan = part_pair(rng(seed), parts=6)
        source, target = plan.clouds(12_000)
        assert len(source) == 3000 and len(target) == 12_000
        laid = source @ plan.target_from_source[:3, :3].T + plan.target_from_source[:3, 3]
        spacing = np.median(cKDTree(target).query(target, k=2)[0][:, 1])
        assert np.percentile(cKDTree(target).query(laid)[0], 95) < 5 * spacing
        assert np.ptp(target, axis=0).max() > 1.3 * np.ptp(laid, axis=0).max()
        back = inverse(plan.target_from_source)
        assert np.allclose(back @ plan.target_from_source, np.eye(4))
        assert plan.shape is not None and cKDTree(source).query(plan.shape)[0].mean() < 0.1
