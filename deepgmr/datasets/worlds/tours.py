"""A drive of kilometres through a town: streets on a grid, driven along and turned off, some of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from deepgmr.datasets.worlds.building import Builder
from deepgmr.datasets.worlds.drives import ELEVATIONS, Drive, lidar
from deepgmr.datasets.worlds.layouts import streets
from deepgmr.datasets.worlds.sections import Draw, Floats, about
from deepgmr.datasets.worlds.sensors import Scene, View
from deepgmr.errors import InvalidConfig

BLOCK = 180.0  # metres between crossings
# The crossings of a grid that the drive passes: once around, and then through the middle. 2.1 km.
ROUTE = ((0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1), (0, 0), (1, 0), (1, 1), (2, 1), (2, 2))
_OPEN = 12.0  # metres from the middle of a crossing that hold nothing but the corners of houses
_CORNER = 12.0  # metres before a crossing from which the drive turns
_SLICES = 24  # of a turn of the sensor, in each of which it stands still


@dataclass(frozen=True, eq=False)
class Tour(Drive):
    """A town, and the sensor on its way through it."""

    steps: int  # of azimuth in a turn
    moving: bool  # whether the sensor moves while it turns, at the speed between two poses

    def frame(self, index: int) -> Floats:
        """One turn of the sensor: points (N, 3) float32 in its own frame as they came, always the same."""
        return self.timed(index)[0]

    def timed(self, index: int) -> tuple[Floats, Floats]:
        """The same, and when each point was measured (N,), from -1 at the pose before to 0 at this one."""
        rng = np.random.default_rng([self.seed, index])
        pose = self.poses[index]
        scene = _near(self.scene, pose[:3, 3], self.sensor.far + BLOCK / _SLICES)
        rays = self.steps * (self.sensor.beams or 1)
        if not self.moving:
            points = self.view(pose).scan(scene, rays, rng).points
            return points.astype(np.float32), np.zeros(len(points), np.float32)
        every, found, times = self.sensor.rays(rays, rng), [], []
        slices = np.floor(_SLICES * (np.arctan2(every[:, 1], every[:, 0]) / (2 * np.pi) % 1.0)).astype(int)
        for part in range(_SLICES):
            then = (part + 0.5) / _SLICES - 1
            sector = _Sector(**{**vars(self.view(self.at(index + then))), "directions": every[slices == part]})
            points = sector.scan(scene, rays, rng).points
            found.append(points)
            times.append(np.full(len(points), then))
        return np.concatenate(found).astype(np.float32), np.concatenate(times).astype(np.float32)

    def at(self, index: float) -> Floats:
        """The pose (4, 4) between two frames; before the first one, the sensor comes as it goes on."""
        first = min(max(int(np.floor(index)), 0), len(self.poses) - 2)
        before, after, share = self.poses[first], self.poses[first + 1], index - first
        turn = before[:3, :3].T @ after[:3, :3]
        axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        sine = np.linalg.norm(axis) / 2
        angle = share * np.arctan2(sine, (np.trace(turn) - 1) / 2)
        x, y, z = axis / max(2 * sine, 1e-12)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        pose = before.copy()
        pose[:3, :3] = before[:3, :3] @ (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)
        pose[:3, 3] += share * (after[:3, 3] - before[:3, 3])
        return pose


@dataclass(frozen=True, eq=False)
class _Sector(View):
    """One of the slices of a turn."""

    directions: Floats = field(default_factory=lambda: np.zeros((0, 3), np.float32))

    def rays(self, count: int, rng: np.random.Generator) -> Floats:
        return self.directions


def tour(
    rng: np.random.Generator,
    *,
    frames: int = 2001,
    spacing: float = 1.0,
    beams: int = 64,
    steps: int = 600,
    moving: bool = False,
    route: Sequence[tuple[int, int]] = ROUTE,
) -> Tour:
    """A drive along a route of crossings, `spacing` metres a frame; a turn of the sensor has `beams * steps` rays.

    The sensor looks along the drive, which swerves in its lane, rolls and pitches a little. Raises `InvalidConfig`
    for a drive longer than the route or a number of beams other than 16, 32 and 64.
    """
    if beams not in ELEVATIONS:
        raise InvalidConfig(f"no such LiDAR: {beams:g} beams; there are {', '.join(map(str, ELEVATIONS))}")
    path, along = _path(route)
    if frames < 2 or spacing <= 0 or (frames - 1) * spacing > along[-1]:
        raise InvalidConfig(f"{frames} frames {spacing:g} m apart do not fit into a route of {along[-1]:.0f} m")
    s = spacing * np.arange(frames)
    here, ahead = (np.column_stack([np.interp(s + d, along, axis) for axis in path.T]) for d in (0.0, 0.5))
    forward = ahead - here
    yaw = np.unwrap(np.arctan2(forward[:, 1], forward[:, 0]))
    lane, wave, phase, swerve = rng.uniform([-1.5, 40, 0, 0.1], [1.5, 70, 2 * np.pi, 0.4])
    aside = lane + swerve * np.sin(2 * np.pi * s / wave + phase)
    roll, pitch = (0.01 * np.sin(2 * np.pi * s / rng.uniform(12, 30) + rng.uniform(0, 6)) for _ in range(2))
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = about(2, yaw) @ about(1, pitch) @ about(0, roll)
    poses[:, :2, 3] = here + aside[:, None] * np.column_stack([-np.sin(yaw), np.cos(yaw)])
    poses[:, 2, 3] = rng.uniform(1.6, 2.1)
    sensor = lidar(rng, poses[0], beams)
    return Tour(_town(rng, route), poses, sensor, int(rng.integers(2**62)), steps, moving)


def _path(route: Sequence[tuple[int, int]]) -> tuple[Floats, Floats]:
    """A line (K, 2) through the crossings that rounds its corners, and how long it is up to each of its points (K,)."""
    corners = BLOCK * np.array(route, float)
    pieces = [corners[:1]]
    share = np.linspace(0, 1, 60)[:, None]
    for before, corner, after in zip(corners[:-2], corners[1:-1], corners[2:], strict=True):
        start, end = (corner + _CORNER * (to - corner) / BLOCK for to in (before, after))
        pieces.append((1 - share) ** 2 * start + 2 * share * (1 - share) * corner + share**2 * end)
    path = np.concatenate([*pieces, corners[-1:]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    return path, along


def _town(rng: np.random.Generator, route: Sequence[tuple[int, int]]) -> Scene:
    """Every street between crossings that the drive passes, and those that go on from there."""
    draw = Draw(torch.Generator().manual_seed(int(rng.integers(2**62))))
    ends = {
        min((a, b), (b, a))
        for a in route
        for b in ((a[0] + dx, a[1] + dy) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    }
    b = Builder()
    for first, second in sorted(ends):
        street = streets(1, rng, draw)[0]
        reach = np.abs(street.linear[:, 0]).sum(axis=1)
        kept = np.abs(street.centre[:, 0]) + reach < BLOCK / 2 - _OPEN
        turn = about(2, np.array([np.pi / 2 * (first[0] == second[0])]))[0]
        shift = np.array([*(BLOCK * (np.array(first) + second) / 2), 0.0])
        b.add(street.kind[kept], turn @ street.linear[kept], street.centre[kept] @ turn.T + shift, street.rough[kept])
    return b.scene(ground=True)


def _near(scene: Scene, place: Floats, reach: float) -> Scene:
    """What of a scene is no further than that."""
    size = np.linalg.norm(scene.corners - scene.centre[:, None], axis=2).max(axis=1)
    near = np.linalg.norm(scene.centre - place, axis=1) < reach + size
    return Scene(scene.kind[near], scene.linear[near], scene.centre[near], scene.rough[near], None, scene.ground)
