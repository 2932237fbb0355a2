"""Many scans of one thing or one place, each in a pose of its own, with where they belong."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepgmr.datasets.worlds.building import FURNITURE, Builder, Piece, draw_pieces, place
from deepgmr.datasets.worlds.models import depth_image, model
from deepgmr.datasets.worlds.planned import any_pose
from deepgmr.datasets.worlds.sections import Draw, Floats, about
from deepgmr.datasets.worlds.sensors import Scene, View
from deepgmr.datasets.worlds.viewpoints import looking, tripod
from deepgmr.errors import InvalidConfig

_HALF, _FAR = 0.26, 4.0  # of the camera at the turntable: tangent of its half-angle, and how far away it is
_ROOM = np.array([4.0, 5.0, 2.8])  # metres: along the corridor, across it, and high
_CORRIDOR, _WALL, _DOOR = 1.1, 0.06, (0.5, 2.1)  # metres: half-widths, and half-width and height of a door
_EYE = 1.5  # metres above the floor
_STANDS = 5  # scans a room: three in it, one in its door, one in the corridor before it


@dataclass(frozen=True, eq=False)
class Gathering:
    """N scans in any poses."""

    name: str
    scans: Sequence[Floats]  # of (n, 3), each in its own frame
    poses: Floats  # (N, 4, 4) common frame from scan
    degrees: float  # within which a scan is right ...
    distance: float  # ... and within which its middle is, in the units of the scans

    def __len__(self) -> int:
        return len(self.scans)


@functools.cache
def thing(seed: int) -> Floats:
    """Triangles (T, 3, 3) of a heap of four models, within a ball of radius about one: it has no symmetry."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(4):
        pose = any_pose(rng, 0.5)
        parts.append(rng.uniform(0.4, 0.8) * model(rng).corners @ pose[:3, :3].T + pose[:3, 3])
    corners = np.concatenate(parts)
    return corners / np.linalg.norm(corners, axis=-1).max()


def turntable(seed: int, count: int, *, degrees: float = 45.0, side: int = 64) -> Gathering:
    """Depth images of so many pixels a side of the `thing`, so many degrees apart. Right within 3 degrees and .06."""
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
    return Gathering(f"turntable, {degrees:g} degrees apart", scans, np.array(poses), 3.0, 0.06)


def building(rng: np.random.Generator, rooms: int, *, alike: float = 0.0, rays: int = 4000) -> Gathering:
    """A corridor with so many rooms, half of them a side, and five scans a room: in it, in its door and before that.

    alike  share of the rooms that are furnished the same to the last chair; nothing but the way to them tells them apart

    Right within 5 degrees and .3 m. Raises `InvalidConfig` for an odd number of rooms, or fewer than two.
    """
    if rooms < 2 or rooms % 2:
        raise InvalidConfig(f"{rooms} rooms do not stand on both sides of a corridor; give an even number from 2")
    scene, stands = _furnished(rng, rooms, alike)
    scans, poses = [], []
    for stand in stands:
        sensor = np.eye(4)
        sensor[:3, :3], sensor[:3, 3] = about(2, rng.uniform(-np.pi, np.pi, 1))[0], stand
        points = _scanner(sensor).scan(scene, rays, rng).points
        own = any_pose(rng, 5.0)
        scans.append(points @ own[:3, :3].T + own[:3, 3])
        poses.append(sensor @ np.linalg.inv(own))
    name = f"building, {rooms} rooms" + (f", {alike:.0%} of them alike" if alike else "")
    return Gathering(name, scans, np.array(poses), 5.0, 0.3)


def _furnished(rng: np.random.Generator, rooms: int, alike: float) -> tuple[Scene, list[Floats]]:
    """The building, and where the scanner stands."""
    draw, b, stands = Draw(torch.Generator().manual_seed(int(rng.integers(2**62)))), Builder(), []
    wide, deep, high = _ROOM
    template, plan = _pieces(rng, draw), np.random.default_rng(int(rng.integers(2**62)))
    seed, same = int(plan.integers(2**62)), np.sort(rng.permutation(rooms)[: round(alike * rooms)])
    for room in range(rooms):
        side, left = (-1) ** room, (room // 2) * wide
        b.boxes([left, side * (_CORRIDOR + deep / 2), high / 2], [_WALL, deep / 2, high / 2])
        start = 0.8 if side > 0 else wide - 0.8 - 2 * _DOOR[0]  # of the door
        door = left + start + _DOOR[0]
        for low, far, bottom in ((0.0, start, 0.0), (start + 2 * _DOOR[0], wide, 0.0), (start, start + 1.0, _DOOR[1])):
            centre = [left + (low + far) / 2, side * _CORRIDOR, (bottom + high) / 2]
            b.boxes(centre, [(far - low) / 2, _WALL, (high - bottom) / 2])
        as_all = room in same
        pieces, own = (template, np.random.default_rng(seed)) if as_all else (_pieces(rng, draw), rng)
        for piece in pieces:
            x, y = own.uniform([0.6, 0.6], [wide - 0.6, deep - 0.6])
            turn = own.uniform(0, 2 * np.pi)
            x, turn = (x, turn) if side > 0 else (wide - x, turn + np.pi)  # on the other side, turned about
            place(b, piece, np.array([left + x, side * (_CORRIDOR + y), 0.0]), turn)
        spots = [(left + x * wide, side * (_CORRIDOR + y * deep)) for x, y in ((0.25, 0.3), (0.7, 0.5), (0.35, 0.8))]
        stands += [np.array([*spot, _EYE]) for spot in [*spots, (door, side * _CORRIDOR), (door, side * 0.3)]]
    half = np.array([0.0, _CORRIDOR + deep, 0.0])
    scene = b.scene(np.array([-half, [rooms // 2 * wide, half[1], high]]))
    return scene, [_free(scene, stand, rng) for stand in stands[: _STANDS * rooms]]


def _pieces(rng: np.random.Generator, draw: Draw) -> list[Piece]:
    return draw_pieces(6, {name: row for name, row in FURNITURE.items() if row[0] < 1.8}, rng, draw)


def _free(scene: Scene, stand: Floats, rng: np.random.Generator) -> Floats:
    """A place near one where the scanner does not stand inside of something."""
    rays = _scanner(np.eye(4)).rays(400, rng)
    for reach in np.linspace(0.05, 1.0, 20):
        spot = stand + rng.uniform(-reach, reach, 3) * [1, 1, 0.2]
        if np.quantile(scene.cast(spot, rays)[0], 0.2) > 0.5:
            break
    return spot


def _scanner(pose: Floats) -> View:
    return tripod(pose[:3, 3], pose[:3, :3])
