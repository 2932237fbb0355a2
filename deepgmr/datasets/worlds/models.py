"""CAD models: views and pieces against the whole and one another, parts in assemblies. A model has radius one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from deepgmr.datasets.worlds import lofts
from deepgmr.datasets.worlds.planned import Planned, any_pose, inverse
from deepgmr.datasets.worlds.sections import Draw, Floats
from deepgmr.datasets.worlds.shapes import FAMILIES, WEIGHTS
from deepgmr.datasets.worlds.triangles import Keep, Triangles, joined
from deepgmr.datasets.worlds.viewpoints import looking
from deepgmr.errors import InvalidConfig

_FAR = 5.0  # radii: how far from its origin a cloud may stand
_SHAPE = 2048  # points by which an answer is judged, up to symmetry
_PIXELS = 1 << 19  # of triangles looked at at once


def model(rng: np.random.Generator) -> Triangles:
    """A random shape as triangles, around the mean of its surface; the furthest corner is at a distance of one."""
    names = list(WEIGHTS)
    weights = np.array([WEIGHTS[name] for name in names])
    name = names[rng.choice(len(names), p=weights / weights.sum())]
    draw = Draw(torch.Generator().manual_seed(int(rng.integers(2**62))))
    solids = lofts.build([(FAMILIES[name](1, draw), np.zeros(1, np.int64))])
    corners = solids.vertices[solids.corners].astype(float)
    surfaces = Triangles(corners)
    area = surfaces.area()
    centre = (area[:, None] * corners.mean(axis=1)).sum(axis=0) / area.sum()
    corners = corners[area > 1e-9 * area.sum()] - centre
    return Triangles(corners / np.linalg.norm(corners, axis=-1).max())


def view_pair(rng: np.random.Generator) -> Planned:
    """What a depth camera sees of a model, a few radii away, against the whole of it."""
    whole = model(rng)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    camera, distance = np.eye(4), rng.uniform(2, 5)
    camera[:3, :3], camera[:3, 3] = looking(-direction, rng.uniform(0, 2 * np.pi)), distance * direction
    noise, dropout, seed, pose = (
        rng.uniform(0, 0.008),
        rng.uniform(0, 0.1),
        int(rng.integers(2**62)),
        any_pose(rng, _FAR),
    )
    shoot = _seen_from(whole, camera, noise, dropout)

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        source = shoot(points, again) @ pose[:3, :3].T + pose[:3, 3]
        return source.astype(np.float32), whole.sample(points, again, noise=noise)

    shape = whole.sample(_SHAPE, rng, pose=pose @ inverse(camera))
    return Planned(camera @ inverse(pose), clouds, shape=shape)


def shot_pair(rng: np.random.Generator, *, apart: float = 80) -> Planned:
    """What a depth camera sees of a model from two places, in directions up to `apart` degrees apart.

    Raises `InvalidConfig` for directions that are not apart, or more than 180 degrees.
    """
    if not 0 < apart <= 180:
        raise InvalidConfig(f"two places cannot lie up to {apart:g} degrees apart; give more than 0 and at most 180")
    whole = model(rng)
    towards, aside = np.linalg.qr(rng.standard_normal((3, 2)))[0].T
    cameras, noise, dropout = [], rng.uniform(0, 0.008), rng.uniform(0, 0.1)
    for angle in (0.0, np.deg2rad(rng.uniform(0, apart))):
        direction, camera = np.cos(angle) * towards + np.sin(angle) * aside, np.eye(4)
        camera[:3, :3] = looking(-direction, rng.uniform(0, 2 * np.pi))
        camera[:3, 3] = rng.uniform(2, 5) * direction
        cameras.append(camera)
    seed, pose = int(rng.integers(2**62)), any_pose(rng, _FAR)
    first, second = (_seen_from(whole, camera, noise, dropout) for camera in cameras)

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        source = first(points, again) @ pose[:3, :3].T + pose[:3, 3]
        return source.astype(np.float32), second(points, again).astype(np.float32)

    shape = whole.sample(_SHAPE, rng, pose=pose @ inverse(cameras[0]))
    return Planned(inverse(cameras[1]) @ cameras[0] @ inverse(pose), clouds, shape=shape)


def piece_pair(rng: np.random.Generator, *, least: float = 0.6) -> Planned:
    """All of a model's surface twice, or but for what lies beyond a plane: at least a share of `least`, half of them all.

    Raises `InvalidConfig` for an impossible share.
    """
    if not 0 < least <= 1:
        raise InvalidConfig(f"a piece of {least:g} of a model is none; give more than 0 and at most 1")
    whole, keeps, kept = model(rng), [], []
    surface = whole.sample(_SHAPE, rng)
    for _ in range(2):
        normal = rng.standard_normal(3)
        share = min(rng.uniform(least, 2 - least), 1.0)
        keeps.append(_below(normal, np.inf if share == 1 else float(np.quantile(surface @ normal, share))))
        kept.append(keeps[-1](surface))
    noise, pose, seed = rng.uniform(0, 0.008), any_pose(rng, _FAR), int(rng.integers(2**62))

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        source = whole.sample(points, again, keep=keeps[0], noise=noise, pose=pose)
        return source, whole.sample(points, again, keep=keeps[1], noise=noise)

    overlap = float((kept[0] & kept[1]).sum() / kept[0].sum())
    return Planned(inverse(pose), clouds, shape=_moved(surface, pose), overlap=overlap)


def part_pair(rng: np.random.Generator, *, parts: float = 8) -> Planned:
    """All of a part, with a quarter of the points, against the assembly of so many parts that it belongs to.

    Raises `InvalidConfig` for an assembly of one.
    """
    if parts < 2:
        raise InvalidConfig(f"an assembly of {parts:g} parts is a part; give at least 2")
    part, placed, spots, radii = model(rng), [], [np.zeros(3)], [1.0]
    for k in range(round(parts)):
        turn = any_pose(rng, 0.0)
        if k:  # touching one that is there already
            radius, beside, direction = np.exp(rng.uniform(-0.7, 0.9)), rng.integers(k), rng.standard_normal(3)
            direction *= 0.7 * (radius + radii[beside]) / np.linalg.norm(direction)
            spots.append(spots[beside] + direction)
            radii.append(float(radius))
        else:
            whole_from_part = turn
        turn[:3, 3] = spots[k]
        placed.append(Triangles(_moved((model(rng) if k else part).corners * radii[k], turn)))
    whole, pose, seed, noise = joined(placed), any_pose(rng, _FAR), int(rng.integers(2**62)), rng.uniform(0, 0.008)

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        source = part.sample(max(points // 4, 1), again, noise=noise, pose=pose)
        return source, whole.sample(points, again, noise=noise)

    return Planned(whole_from_part @ inverse(pose), clouds, shape=part.sample(_SHAPE, rng, pose=pose))


def depth_image(corners: Floats, half: float, side: int) -> Floats:
    """The depth (side, side) of the nearest of triangles (T, 3, 3) in each pixel, inf for none.

    The camera is at the origin and looks along z; x / z and y / z of its pixels' centres lie within `half`. All
    corners must be before it.
    """
    flat = (corners[..., :2] / corners[..., 2:] + half) * (side / (2 * half)) - 0.5  # (T, 3, 2) in pixels
    # Each triangle is cut into spans: the pixels of a row between the two of its edges that cross the row.
    low = np.maximum(np.ceil(flat[..., 1].min(axis=1)), 0).astype(np.int64)
    high = np.minimum(np.floor(flat[..., 1].max(axis=1)), side - 1).astype(np.int64)
    which, row = _ranges(low, high)
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for k in range(3):
        (ax, ay), (bx, by) = flat[which, k].T, flat[which, (k + 1) % 3].T
        crosses = (ay <= row) != (by <= row)
        x = ax + (row - ay) / np.where(crosses, by - ay, 1) * (bx - ax)
        left, right = np.where(crosses, np.minimum(left, x), left), np.where(crosses, np.maximum(right, x), right)
    crossed = left <= right
    which, row = which[crossed], row[crossed]
    start = np.maximum(np.ceil(left[crossed]), 0).astype(np.int64)
    end = np.minimum(np.floor(right[crossed]), side - 1).astype(np.int64)
    # The plane of the triangle: n . (x, y, 1) depth = n . corner.
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    height = np.einsum("ti,ti->t", normal, corners[:, 0])
    near, far = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)  # the plane of a sliver is hardly known
    pixel = 2 * half / side
    fixed = normal[which, 1] * ((row + 0.5) * pixel - half) + normal[which, 2]
    image = np.full(side * side, np.inf)
    blocks = np.cumsum(np.maximum(end - start + 1, 0)) // _PIXELS
    for first, last in pairwise([0, *(np.flatnonzero(np.diff(blocks)) + 1), len(row)]):
        span, column = _ranges(start[first:last], end[first:last])
        span += first
        slope = fixed[span] + normal[which[span], 0] * ((column + 0.5) * pixel - half)
        depth = np.divide(height[which[span]], slope, out=np.full(len(span), np.inf), where=np.abs(slope) > 1e-12)
        np.minimum.at(image, row[span] * side + column, np.clip(depth, near[which[span]], far[which[span]]))
    return image.reshape(side, side)


def _ranges(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All integers from `first` to `last` (n,) inclusive: whose they are, and what."""
    length = np.maximum(last - first + 1, 0)
    which = np.repeat(np.arange(len(first)), length)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(length) - length - first, length)


def _seen_from(
    whole: Triangles, camera: Floats, noise: float, dropout: float
) -> Callable[[int, np.random.Generator], Floats]:
    """What draws so many points (N, 3) that a camera (4, 4), world from camera, sees of a model, in its own frame."""
    corners = _moved(whole.corners, inverse(camera))
    distance = float(np.linalg.norm(camera[:3, 3]))
    half = 1.02 / np.sqrt(distance**2 - 1)  # tangent of the half-angle that holds a ball of radius one

    def shoot(points: int, rng: np.random.Generator) -> Floats:
        covered = np.isfinite(depth_image(corners, half, 64)).mean()
        side = int(np.ceil(np.sqrt(1.05 * points / ((1 - dropout) * max(covered, 0.01))))) + 2
        while True:
            seen = _measured(depth_image(corners, half, side), half, noise, dropout, rng)
            if len(seen) >= points:
                return seen[rng.permutation(len(seen))[:points]]
            side = int(1.2 * side) + 1

    return shoot


def _measured(image: Floats, half: float, noise: float, dropout: float, rng: np.random.Generator) -> Floats:
    """The pixels of a depth image that return something, as points (n, 3) of the camera."""
    side = len(image)
    row, column = np.nonzero(np.isfinite(image) & (rng.random(image.shape) >= dropout))
    depth = image[row, column] + noise * rng.standard_normal(len(row))
    rays = np.column_stack([(column + 0.5) * (2 * half / side) - half, (row + 0.5) * (2 * half / side) - half])
    return np.column_stack([rays * depth[:, None], depth])


def _below(normal: Floats, height: float) -> Keep:
    return lambda points: points @ normal <= height


def _moved(corners: Floats, motion: Floats) -> Floats:
    return corners @ motion[:3, :3].T + motion[:3, 3]
