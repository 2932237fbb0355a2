"""Virtual depth cameras and spinning LiDARs: rays against boxes, ellipsoids and cylinders, with real occlusion.

A scene is a few hundred primitives, each the image of a unit box, ball or cylinder under an affine map. Rays are
sorted by azimuth, so that those that may meet a primitive are one range of them; all such pairs are tested at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

BOX, BALL, CYLINDER = 0, 1, 2
_TINY = 1e-9
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)


@dataclass(frozen=True, eq=False)
class Scene:
    """Primitives in metres, z up, and perhaps walls around them or ground below."""

    kind: NDArray[np.int8]  # (P,) BOX, BALL or CYLINDER
    linear: Floats  # (P, 3, 3) from the unit primitive to the scene
    centre: Floats  # (P, 3)
    rough: Floats  # (P,) extra range noise, in metres: foliage
    walls: Floats | None = None  # (2, 3) low and high corner of the room around everything
    ground: bool = False  # the plane z = 0
    inverse: Floats = field(init=False)  # (P, 3, 3)
    corners: Floats = field(init=False)  # (P, 8, 3) of a box around it

    def __post_init__(self) -> None:
        object.__setattr__(self, "inverse", np.linalg.inv(self.linear).astype(np.float32))
        object.__setattr__(self, "corners", self.centre[:, None] + _CORNERS @ self.linear.transpose(0, 2, 1))

    def cast(self, origin: Floats, directions: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """The first hit of each ray: its distance (R,), inf for none; the unit normal there (R, 3); the primitive.

        `directions` (R, 3) are unit vectors. Normals are those of the surface up to sign. The primitive is -1 for
        walls and ground. A primitive around the origin is not seen from within.
        """
        origin, directions = np.asarray(origin, np.float32), np.asarray(directions, np.float32)
        distance, normal = self._surroundings(origin, directions)
        hit = np.full(len(directions), -1, np.int64)
        part, ray = self.candidates(origin, directions)
        local = np.einsum("pij,pj->pi", self.inverse, origin - self.centre)
        start, along = local[part].T, np.einsum("nij,nj->in", self.inverse[part], directions[ray])
        kinds, meeting = self.kind[part], np.full(len(part), np.inf, np.float32)
        for kind, meet in ((BOX, _meet_box), (BALL, _meet_ball), (CYLINDER, _meet_cylinder)):
            chosen = np.flatnonzero(kinds == kind)
            if len(chosen):
                meeting[chosen] = meet(start[:, chosen], along[:, chosen])
        real = np.flatnonzero(meeting < distance[ray])
        if not len(real):
            return distance, normal, hit
        farthest_first = real[np.argsort(-meeting[real])]
        nearest = np.full(len(directions), -1, np.int64)
        nearest[ray[farthest_first]] = farthest_first  # the last one written stays
        won = np.flatnonzero(nearest >= 0)
        best = nearest[won]
        by = part[best]
        distance[won], hit[won] = meeting[best], by
        normal[won] = self._normals(by, local[by], directions[won], meeting[best])
        return distance, normal, hit

    def candidates(self, origin: Floats, directions: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (primitive, ray) that may meet: the ray's azimuth and slope are within those of the bounding box."""
        rays = len(directions)
        azimuth = np.arctan2(directions[:, 1], directions[:, 0])
        order = np.argsort(azimuth)
        thrice = np.concatenate([azimuth[order] + turn for turn in (-2 * np.pi, 0, 2 * np.pi)])
        base, corners = self.centre - origin, self.corners - origin
        forward = corners[..., 0] * base[:, None, 0] + corners[..., 1] * base[:, None, 1]
        sideways = corners[..., 1] * base[:, None, 0] - corners[..., 0] * base[:, None, 1]
        angle = np.arctan2(sideways, forward)  # (P, 8) from the azimuth of the centre
        middle = np.arctan2(base[:, 1], base[:, 0])
        first = np.searchsorted(thrice, middle + angle.min(axis=1) - 1e-5)
        last = np.searchsorted(thrice, middle + angle.max(axis=1) + 1e-5)
        around = (forward <= 0).any(axis=1)  # perhaps on all sides of the origin
        first[around], last[around] = 0, rays
        length = np.minimum(last - first, rays)
        part = np.repeat(np.arange(len(base)), length)
        place = np.arange(length.sum()) + np.repeat(first - np.cumsum(length) + length, length)
        ray = np.concatenate([order, order, order])[place]
        flat = np.sqrt(directions[:, 0] ** 2 + directions[:, 1] ** 2)
        slope = directions[:, 2] / np.maximum(flat, _TINY)
        reach = np.sqrt((base[:, :2] ** 2).sum(axis=1))
        width = np.sqrt(((self.corners - self.centre[:, None])[..., :2] ** 2).sum(axis=2).max(axis=1))
        near, far = np.maximum(reach - width, 1e-6), reach + width
        low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
        low, high = low / np.where(low > 0, far, near), high / np.where(high > 0, near, far)
        steep = slope[ray]
        kept = np.flatnonzero((steep >= low[part] - 1e-5) & (steep <= high[part] + 1e-5))
        return part[kept], ray[kept]

    def _surroundings(self, origin: Floats, directions: Floats) -> tuple[Floats, Floats]:
        """Distance (R,) to walls and ground, and their normals (R, 3)."""
        distance = np.full(len(directions), np.inf, np.float32)
        axis = np.full(len(directions), 2)
        safe = np.where(np.abs(directions) < _TINY, _TINY, directions)
        if self.walls is not None:
            leave = np.where(safe > 0, self.walls[1] - origin, self.walls[0] - origin) / safe
            axis = leave.argmin(axis=1)
            distance = leave[np.arange(len(axis)), axis].astype(np.float32)
        if self.ground:
            below = np.where(safe[:, 2] < 0, -origin[2] / safe[:, 2], np.inf).astype(np.float32)
            axis[below < distance] = 2
            distance = np.minimum(distance, below)
        return distance, np.eye(3, dtype=np.float32)[axis]

    def _normals(self, part: NDArray[np.int64], start: Floats, directions: Floats, distance: Floats) -> Floats:
        """Unit normals (n, 3) where rays hit their primitives, from the gradient of the unit primitive's equation."""
        inverse = self.inverse[part]
        gradient = start + distance[:, None] * np.einsum("nij,nj->ni", inverse, directions)
        box, cylinder = self.kind[part] == BOX, self.kind[part] == CYLINDER
        cap = cylinder & (np.abs(gradient[:, 2]) > 1 - 1e-3)
        gradient[box] = np.eye(3, dtype=np.float32)[np.abs(gradient[box]).argmax(axis=1)]
        gradient[cylinder, 2] = 0
        gradient[cap] = (0, 0, 1)
        normal = np.einsum("nij,ni->nj", inverse, gradient)
        return normal / np.maximum(np.sqrt(np.einsum("ni,ni->n", normal, normal)), _TINY)[:, None]


def _meet_box(origin: Floats, direction: Floats) -> Floats:
    enter, leave = np.full(len(direction[0]), -np.inf, np.float32), np.full(len(direction[0]), np.inf, np.float32)
    for o, d in zip(origin, direction, strict=True):
        inverse = 1 / np.where(np.abs(d) < _TINY, _TINY, d)
        middle, half = -o * inverse, np.abs(inverse)
        np.maximum(enter, middle - half, out=enter)
        np.minimum(leave, middle + half, out=leave)
    return np.where((enter > 0) & (enter <= leave), enter, np.inf)


def _meet_ball(origin: Floats, direction: Floats) -> Floats:
    a = np.einsum("in,in->n", direction, direction)
    b = np.einsum("in,in->n", origin, direction)
    c = np.einsum("in,in->n", origin, origin) - 1
    inside = b * b - a * c
    t = (-b - np.sqrt(np.maximum(inside, 0))) / a
    return np.where((inside >= 0) & (t > 0), t, np.inf)


def _meet_cylinder(origin: Floats, direction: Floats) -> Floats:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a, b, c = dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - 1
    inside = b * b - a * c
    a = np.maximum(a, _TINY)
    root = np.sqrt(np.maximum(inside, 0)) / a
    middle = np.where(inside >= 0, 1.0, np.nan) * (-b / a)
    dz = np.where(np.abs(dz) < _TINY, _TINY, dz)
    enter = np.maximum(middle - root, -oz / dz - np.abs(1 / dz))  # NaN where the ray passes by
    leave = np.minimum(middle + root, -oz / dz + np.abs(1 / dz))
    return np.where((enter > 0) & (enter <= leave), enter, np.inf)


# -- sensors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scan:
    """What a sensor measured."""

    points: Floats  # (n, 3) in the frame of the sensor, with noise
    world: Floats  # (n, 3) where they are, without noise
    normals: Floats  # (n, 3) of the surface there, up to sign, in the world
    area: Floats  # (n,) of surface that each stands for


@dataclass(frozen=True, eq=False)
class View:
    """One placed sensor: what it can see, where its rays go and how badly it measures."""

    position: Floats  # (3,)
    rotation: Floats  # (3, 3) world from sensor; a camera looks along its z, a LiDAR spins about its z
    spinning: bool
    low: Floats  # (2,) lower limits: tan of the half-width and -height of a camera, elevations of a LiDAR [rad]
    high: Floats  # (2,)
    near: float
    far: float
    noise: tuple[float, float]  # range sigma = first + second * distance^2, in metres
    dropout: float
    beams: int | None = None  # of a LiDAR; none: drawn anew for each scan

    def rays(self, count: int, rng: np.random.Generator) -> Floats:
        """About `count` unit directions (R, 3) in the sensor's frame: its raster, shifted by a random sub-step."""
        if self.spinning:
            beams = self.beams or (int(rng.choice([16, 32, 64])) if count < 20000 else 64)
            steps = max(count // beams, 8)
            elevation = np.linspace(self.low[0], self.high[0], beams)
            azimuth = 2 * np.pi * (np.arange(steps) + rng.random((beams, 1))) / steps
            elevation = np.broadcast_to(elevation[:, None], azimuth.shape) + rng.normal(0, 2e-4, azimuth.shape)
            cos = np.cos(elevation)
            grid = np.stack([cos * np.cos(azimuth), cos * np.sin(azimuth), np.sin(elevation)], axis=-1)
            return grid.reshape(-1, 3).astype(np.float32)
        width, height = self.high - self.low
        columns = max(round((count * width / height) ** 0.5), 2)
        rows = max(count // columns, 2)
        x = self.low[0] + width * (np.arange(columns) + rng.random()) / columns
        y = self.low[1] + height * (np.arange(rows) + rng.random()) / rows
        grid = np.stack([*np.meshgrid(x, y), np.ones((rows, columns))], axis=-1).reshape(-1, 3)
        return (grid / np.linalg.norm(grid, axis=1, keepdims=True)).astype(np.float32)

    def scan(self, scene: Scene, count: int, rng: np.random.Generator) -> Scan:
        """Measure with about `count` rays."""
        rays = self.rays(count, rng)
        outward = (rays @ self.rotation.T).astype(np.float32)
        distance, normal, part = scene.cast(self.position, outward)
        cosine = np.abs(np.einsum("ni,ni->n", normal, outward))
        kept = (distance > self.near) & (distance < self.far)
        # Returns are lost at random, at grazing angles, and towards the end of the range.
        faint = self.dropout + 0.5 * (np.minimum(distance, self.far) / self.far) ** 4
        grazing = rng.uniform(0.005, 0.03) if self.spinning else rng.uniform(0.02, 0.12)
        kept &= (rng.random(len(rays)) > faint) & (cosine > grazing)
        rays, distance, cosine, part = rays[kept], distance[kept], cosine[kept], part[kept]
        sigma = self.noise[0] + self.noise[1] * distance**2
        rough = np.append(scene.rough, 0.0)[part]  # the last entry is for walls and ground, part -1
        measured = distance + np.hypot(sigma, rough) * rng.standard_normal(len(rays))
        world = self.position + distance[:, None] * outward[kept]
        return Scan(rays * measured[:, None], world, normal[kept], distance**2 / cosine)

    def sees(self, scene: Scene, points: Floats) -> NDArray[np.bool_]:
        """Which points (n, 3) of the world are in view, in range and not behind something else."""
        local = (points - self.position) @ self.rotation
        distance = np.sqrt(np.einsum("ni,ni->n", local, local))
        visible = (distance > self.near) & (distance < self.far)
        if self.spinning:
            elevation = np.arcsin(np.clip(local[:, 2] / np.maximum(distance, _TINY), -1, 1))
            visible &= (elevation >= self.low[0]) & (elevation <= self.high[0])
        else:
            depth = np.maximum(local[:, 2:], 1e-6)
            visible &= (local[:, 2] > 0) & (
                (local[:, :2] / depth >= self.low) & (local[:, :2] / depth <= self.high)
            ).all(1)
        rows = np.flatnonzero(visible)
        if len(rows):
            towards = (points[rows] - self.position) / distance[rows, None]
            first, _, _ = scene.cast(self.position, towards.astype(np.float32))
            visible[rows] = first >= distance[rows] * 0.99 - 0.02
        return visible


def seen_by(scene: Scene, views: list[View], world: Floats) -> NDArray[np.bool_]:
    """Which points (n, 3) of the world some view sees."""
    visible = np.zeros(len(world), bool)
    for view in views:
        rest = np.flatnonzero(~visible)
        if len(rest):
            visible[rest] = view.sees(scene, world[rest])
    return visible


# -- pairs of scans ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ScanPair:
    """Two scans and the motion between their frames."""

    source: Floats  # (N, 3) in the frame of its sensor
    target: Floats  # (N, 3)
    rotation: Floats  # (3, 3) target from source
    translation: Floats  # (3,)
    overlap: float


def determined(normals: Floats, least: float) -> bool:
    """Whether surfaces with these normals (n, 3) hold a motion in all directions: a bare corridor does not.

    `least` is the share of the surface, as an eigenvalue of its normals, that must hold the worst-held direction.
    """
    if len(normals) < 10:
        return False
    return bool(np.linalg.eigvalsh(normals.T @ normals / len(normals))[0] > least)
