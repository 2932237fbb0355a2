"""Floors of many similar rooms, and warehouses of repeated shelves: most of what is there is there many times."""

from __future__ import annotations

import numpy as np
import torch

from deepgmr.datasets.worlds.building import FURNITURE, Builder, Piece, draw_pieces, place
from deepgmr.datasets.worlds.planned import Planned, two_parts
from deepgmr.datasets.worlds.sections import Draw, Floats
from deepgmr.datasets.worlds.sensors import Scene
from deepgmr.datasets.worlds.triangles import of_scene
from deepgmr.errors import InvalidConfig

NOISE = 0.01  # metres
_WALL = 0.06  # half the thickness of an inner wall
_DOOR = np.array([0.5, 2.1])  # half-width, height
_BAY = 2.7  # metres between the posts of a rack


def floor(rng: np.random.Generator, *, rooms: float = 8) -> Planned:
    """A corridor with so many rooms a side, all furnished alike but not the same; two overlapping stretches of it.

    Right within 1.5 degrees and .3 m: the next room is wrong. Raises `InvalidConfig` for fewer than two rooms.
    """
    if rooms < 2:
        raise InvalidConfig(f"a floor of {rooms:g} rooms a side repeats nothing; give at least 2")
    scene, length = floor_scene(rng, round(rooms))
    return _stretches(scene, length, rng, degrees=1.5, metres=0.3)


def floor_scene(rng: np.random.Generator, rooms: int, *, alike: float = 0.8) -> tuple[Scene, float]:
    """A floor around its middle, and its length in metres, along x.

    alike  share of the five pieces that furnish every room which stand in their place there; others stand anywhere
    """
    draw = Draw(torch.Generator().manual_seed(int(rng.integers(2**62))))
    b = Builder()
    pitch, deep, half_corridor, high = rng.uniform([3.0, 3.5, 0.8, 2.4], [5.0, 6.0, 1.5, 3.2])
    length, door = rooms * pitch, rng.uniform(0.8, pitch - 0.8)
    template = _several(5, rng, draw)
    stand = rng.uniform(0, 1, (len(template), 2))
    turn = rng.integers(4, size=len(template)) * np.pi / 2
    spare, more = _several(6 * rooms, rng, draw), round(5 * (0.8 - alike))
    for side in (-1, 1):
        for room in range(rooms):
            left = -length / 2 + room * pitch
            across = side * (half_corridor + deep / 2)
            if room:
                b.boxes([left, across, high / 2], [_WALL, deep / 2, high / 2])
            _front(b, left, pitch, side * half_corridor, door, high)
            corner = np.array([left + 0.5, across - deep / 2 + 0.5])
            free = np.array([pitch - 1, deep - 1])
            for k, piece in enumerate(template):
                if rng.random() < alike:  # in its place, nearly
                    spot = corner + stand[k] * free + rng.normal(0, 0.15, 2)
                    place(b, piece, np.array([*spot, 0]), turn[k] + rng.normal(0, 0.1))
            for _ in range(rng.integers(0, 4) + more):
                spot = corner + rng.random(2) * free
                place(b, spare[rng.integers(len(spare))], np.array([*spot, 0]), rng.uniform(0, 2 * np.pi))
    half = np.array([length / 2, half_corridor + deep, high])
    return b.scene(np.array([-half * [1, 1, 0], half])), length


def _several(count: int, rng: np.random.Generator, draw: Draw) -> list[Piece]:
    return draw_pieces(count, {name: row for name, row in FURNITURE.items() if row[0] < 1.8}, rng, draw)


def _front(b: Builder, left: float, pitch: float, y: float, door: float, high: float) -> None:
    """The wall between a room and the corridor, with a doorway."""
    low, top = left + door - _DOOR[0], left + door + _DOOR[0]
    for start, end, bottom in ((left, low, 0.0), (top, left + pitch, 0.0), (low, top, _DOOR[1])):
        if end - start > 1e-3:
            b.boxes([(start + end) / 2, y, (bottom + high) / 2], [(end - start) / 2, _WALL, (high - bottom) / 2])


def warehouse(rng: np.random.Generator, *, ambiguous: float | None = None, bays: float = 12) -> Planned:
    """Rows of racks of so many bays, seen over two overlapping stretches.

    Loads differ from bay to bay, and tell where one is. Where they do not, and no end of the racks is in view, any
    number of bays fits: such pairs (`ambiguous`, the share of pairs, a quarter by default) count only the true motion
    as right, which nobody can know. Right within 2 degrees and .3 m. Raises `InvalidConfig` for fewer than six bays.
    """
    if bays < 6:
        raise InvalidConfig(f"racks of {bays:g} bays are too short for two views; give at least 6")
    same = bool(rng.random() < (0.25 if ambiguous is None else ambiguous))
    scene, length = warehouse_scene(rng, round(bays), same)
    if not same:
        return _stretches(scene, length, rng, degrees=2.0, metres=0.3)
    seen = 0.5 * length
    starts = -length / 2 + 0.1 * length + np.sort(rng.uniform(0, 0.3 * length, 2))[:: rng.choice([-1, 1])]
    first, second = ((low, low + seen) for low in starts)
    return two_parts(
        of_scene(scene),
        lambda p: (p[:, 0] > first[0]) & (p[:, 0] < first[1]),
        lambda p: (p[:, 0] > second[0]) & (p[:, 0] < second[1]),
        rng,
        noise=NOISE,
        degrees=2.0,
        metres=0.3,
        overlap=1 - abs(float(starts[0] - starts[1])) / seen,
        ambiguous=True,
    )


def warehouse_scene(rng: np.random.Generator, bays: int, same: bool) -> tuple[Scene, float]:
    """A warehouse around its middle and its length along x; `same`: every bay of every rack is loaded alike."""
    b = Builder()
    rows, levels = int(rng.integers(3, 6)), int(rng.integers(3, 5))
    aisle, deep, step = rng.uniform([2.4, 0.5, 1.3], [3.5, 0.6, 1.9])
    length = bays * _BAY
    pitch = aisle + 2 * deep
    x = np.linspace(-length / 2, length / 2, bays + 1)
    high = levels * step
    alike = _loads(rng, 1, levels, deep, step)
    for row in range(rows):
        y = (row - (rows - 1) / 2) * pitch
        posts = np.column_stack(
            [np.repeat(x, 2), np.tile([y - deep, y + deep], bays + 1), np.full(2 * bays + 2, high / 2)]
        )
        b.boxes(posts, [0.05, 0.05, high / 2])
        for level in range(1, levels):
            b.boxes([0, y, level * step], [length / 2, deep, 0.04])
        centre, half, yaw = _loads(rng, bays, levels, deep, step) if not same else alike
        if same:
            steps = _BAY * np.arange(bays)
            centre = (centre[None] + np.stack([steps, 0 * steps, 0 * steps], axis=1)[:, None]).reshape(-1, 3)
            half, yaw = np.tile(half, (bays, 1)), np.tile(yaw, bays)
        b.boxes(centre + np.array([-length / 2, y, 0.0]), half, yaw)
    ends = 0.0 if same else 2.0
    half = np.array([length / 2 + ends, rows * pitch / 2 + aisle / 2, high + 1.5])
    return b.scene(np.array([-half * [1, 1, 0], half])), length


def _loads(rng: np.random.Generator, bays: int, levels: int, deep: float, step: float) -> tuple[Floats, Floats, Floats]:
    """Boxes on the shelves of one rack that starts at x = 0: centres (n, 3), half-sizes (n, 3), yaws (n,)."""
    bay, level, slot = (index.ravel() for index in np.meshgrid(range(bays), range(levels), range(3), indexing="ij"))
    there = rng.random(len(bay)) < 0.7
    bay, level, slot = bay[there], level[there], slot[there]
    half = rng.uniform([0.15, 0.4 * deep, 0.1 * step], [0.42, 0.85 * deep, 0.42 * step], (len(bay), 3))
    wander = rng.uniform(-0.05, 0.05, (2, len(bay)))
    x = bay * _BAY + (slot + 0.5) * _BAY / 3 + wander[0]
    return np.column_stack([x, wander[1], level * step + half[:, 2] + 0.04]), half, rng.normal(0, 0.04, len(bay))


def _stretches(scene: Scene, length: float, rng: np.random.Generator, *, degrees: float, metres: float) -> Planned:
    """A low share of a scene along x, and a high share of its own length."""
    first, second = rng.uniform(0.65, 0.88, 2)
    low, high = length * (0.5 - second), length * (first - 0.5)
    return two_parts(
        of_scene(scene),
        lambda p: p[:, 0] < high,
        lambda p: p[:, 0] > low,
        rng,
        noise=NOISE,
        degrees=degrees,
        metres=metres,
        overlap=float((first + second - 1) / first),
    )
