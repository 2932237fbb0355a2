"""CAD models: one view against the whole, and a part against the assembly it belongs to. A model has radius one."""

from __future__ import annotations

import numpy as np
import torch

from deepgmr.datasets.worlds import lofts
from deepgmr.datasets.worlds.planned import Planned, any_pose, inverse
from deepgmr.datasets.worlds.sections import Draw, Floats
from deepgmr.datasets.worlds.shapes import FAMILIES, WEIGHTS
from deepgmr.datasets.worlds.triangles import Triangles, joined
from deepgmr.datasets.worlds.viewpoints import looking
from deepgmr.errors import InvalidConfig

_FAR = 5.0  # radii: how far from its origin a cloud may stand
_SHAPE = 2048  # points by which an answer is judged, up to symmetry
_TESTS = 1 << 21  # pixels of triangles looked at at once


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
    camera = np.eye(4)  # world from camera
    distance = rng.uniform(2, 5)
    camera[:3, :3], camera[:3, 3] = looking(-direction, rng.uniform(0, 2 * np.pi)), distance * direction
    corners = _moved(whole.corners, inverse(camera))
    noise, dropout, seed, pose = (
        rng.uniform(0, 0.008),
        rng.uniform(0, 0.1),
        int(rng.integers(2**62)),
        any_pose(rng, _FAR),
    )
    half = 1.02 / np.sqrt(distance**2 - 1)  # tangent of the half-angle that holds a ball of radius one

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        covered = np.isfinite(depth_image(corners, half, 64)).mean()
        side = int(np.ceil(np.sqrt(1.05 * points / ((1 - dropout) * max(covered, 0.01))))) + 2
        while True:
            seen = _measured(depth_image(corners, half, side), half, noise, dropout, again)
            if len(seen) >= points:
                break
            side = int(1.2 * side) + 1
        source = seen[again.permutation(len(seen))[:points]] @ pose[:3, :3].T + pose[:3, 3]
        return source.astype(np.float32), whole.sample(points, again, noise=noise)

    shape = whole.sample(_SHAPE, rng, pose=pose @ inverse(camera))
    return Planned(camera @ inverse(pose), clouds, shape=shape)


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
    flat = corners[..., :2] / corners[..., 2:]  # (T, 3, 2)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    height = np.einsum("ti,ti->t", normal, corners[:, 0])
    scale = side / (2 * half)
    # The pixels whose centres lie between the least and the greatest x and y of a triangle.
    low = np.maximum(np.ceil((flat.min(axis=1) + half) * scale - 0.5), 0).astype(np.int64)
    high = np.minimum(np.floor((flat.max(axis=1) + half) * scale - 0.5), side - 1).astype(np.int64)
    wide, tall = np.maximum(high - low + 1, 0).T
    count = wide * tall
    image, start = np.full(side * side, np.inf), np.concatenate([[0], np.cumsum(count)])
    first = 0
    while first < len(corners):
        last = max(int(np.searchsorted(start, start[first] + _TESTS, side="right")) - 1, first + 1)
        rows = np.repeat(np.arange(first, last), count[first:last])
        place = np.arange(start[first], start[last]) - start[rows]
        column, row = low[rows, 0] + place % wide[rows], low[rows, 1] + place // wide[rows]
        x, y = (column + 0.5) / scale - half, (row + 0.5) / scale - half
        sides = []
        for k in range(3):
            a, b = flat[rows, k], flat[rows, (k + 1) % 3]
            sides.append((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0]))
        inside = (np.min(sides, axis=0) >= 0) | (np.max(sides, axis=0) <= 0)
        rows, column, row, x, y = (values[inside] for values in (rows, column, row, x, y))
        slope = normal[rows, 0] * x + normal[rows, 1] * y + normal[rows, 2]
        depth = np.divide(height[rows], slope, out=np.full(len(rows), np.inf), where=np.abs(slope) > 1e-12)
        np.minimum.at(image, row * side + column, depth)
        first = last
    return image.reshape(side, side)


def _measured(image: Floats, half: float, noise: float, dropout: float, rng: np.random.Generator) -> Floats:
    """The pixels of a depth image that return something, as points (n, 3) of the camera."""
    side = len(image)
    row, column = np.nonzero(np.isfinite(image) & (rng.random(image.shape) >= dropout))
    depth = image[row, column] + noise * rng.standard_normal(len(row))
    rays = np.column_stack([(column + 0.5) * (2 * half / side) - half, (row + 0.5) * (2 * half / side) - half])
    return np.column_stack([rays * depth[:, None], depth])


def _moved(corners: Floats, motion: Floats) -> Floats:
    return corners @ motion[:3, :3].T + motion[:3, 3]
