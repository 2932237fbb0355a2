"""Depth images of a thing from all around it, each in a pose of its own, with where they belong."""

from __future__ import annotations

import functools

import numpy as np

from deepgmr.datasets.worlds.models import depth_image, model
from deepgmr.datasets.worlds.planned import any_pose
from deepgmr.datasets.worlds.viewpoints import looking

_HALF, _FAR = 0.26, 4.0  # tangent of the half-angle of the camera, and how far from the thing it is


@functools.cache
def thing(seed: int) -> np.ndarray:
    """Triangles (T, 3, 3) of a heap of four models, within a ball of radius about one: it has no symmetry."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(4):
        pose = any_pose(rng, 0.5)
        parts.append(rng.uniform(0.4, 0.8) * model(rng).corners @ pose[:3, :3].T + pose[:3, 3])
    corners = np.concatenate(parts)
    return corners / np.linalg.norm(corners, axis=-1).max()


def views(seed: int, count: int, *, degrees: float = 45.0, side: int = 64) -> tuple[list[np.ndarray], np.ndarray]:
    """Scans of the thing, so many degrees apart, and their poses (N, 4, 4), the thing from the scan."""
    rng, corners = np.random.default_rng(seed), thing(seed)
    scans, poses = [], []
    for number in range(count):
        angle = np.radians(degrees * number)
        direction = np.array([np.cos(angle), np.sin(angle), 0.4])
        direction /= np.linalg.norm(direction)
        camera = np.eye(4)
        camera[:3, :3], camera[:3, 3] = looking(-direction), _FAR * direction
        seen = (corners - camera[:3, 3]) @ camera[:3, :3]
        image = depth_image(seen, _HALF, side)
        row, column = np.nonzero(np.isfinite(image))
        depth = image[row, column] + 0.002 * rng.standard_normal(len(row))
        rays = (np.column_stack([column, row]) + 0.5) * (2 * _HALF / side) - _HALF
        points = np.column_stack([rays * depth[:, None], depth])
        own = any_pose(rng, 5.0)
        scans.append(points @ own[:3, :3].T + own[:3, 3])
        poses.append(camera @ np.linalg.inv(own))
    return scans, np.array(poses)
