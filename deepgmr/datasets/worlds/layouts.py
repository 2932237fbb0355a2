"""Procedural rooms, streets and tabletops as scenes of boxes, cylinders and ellipsoids, in metres, z up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepgmr.datasets.worlds.building import FURNITURE, THINGS, TRAFFIC, Builder, Piece, draw_pieces, place
from deepgmr.datasets.worlds.sections import Draw
from deepgmr.datasets.worlds.sensors import BALL, BOX, CYLINDER, Scene


def rooms(count: int, rng: np.random.Generator, draw: Draw) -> list[Scene]:
    each = 13
    pieces = draw_pieces(count * each, FURNITURE, rng, draw)
    return [_room(pieces[i * each : (i + 1) * each], rng) for i in range(count)]


def _room(pieces: list[Piece], rng: np.random.Generator) -> Scene:
    """Furniture along the walls and in the middle, things on it and on the walls, a pillar or a partition."""
    b = Builder()
    size = np.array([rng.uniform(1.6, 3.8), rng.uniform(1.6, 3.8), rng.uniform(2.3, 3.2)])
    walls = np.array([[-size[0], -size[1], 0], [size[0], size[1], size[2]]])
    for piece in pieces[: rng.integers(6, len(pieces) + 1)]:
        side = rng.integers(4)
        yaw = side * np.pi / 2
        reach = piece.half[:2] if side % 2 == 0 else piece.half[1::-1]
        free = np.maximum(size[:2] - reach, 0)
        where = rng.uniform(-free, free)
        if rng.random() < 0.65:  # its back, at -x, against a wall
            where[side % 2] = (-1 if side < 2 else 1) * free[side % 2]
        else:
            yaw += rng.normal(0, 0.5)
        place(b, piece, np.array([*where, 0.0]), yaw)
        things = rng.integers(0, 6)  # on top of it
        if things:
            half = np.exp(rng.uniform(np.log(0.03), np.log(0.2), (things, 3)))
            spread = rng.uniform(-0.8, 0.8, (things, 2)) * np.minimum(reach, 1.0)
            top = np.full((things, 1), 2 * piece.half[2])
            centre = np.hstack([where + spread, top + half[:, 2:]])
            b.boxes(centre, half, rng.uniform(0, np.pi, things), kind=_any_kind(things, rng))
    count = rng.integers(4, 12)  # pictures, windows, doors, radiators: thin boxes on the walls
    across, sign = rng.integers(0, 2, count), rng.choice([-1.0, 1.0], count)
    rows = np.arange(count)
    half = np.stack([rng.uniform(0.1, 0.7, count)] * 2 + [rng.uniform(0.1, 0.9, count)], axis=1)
    half[rows, across] = rng.uniform(0.01, 0.12, count)
    centre = np.column_stack([rng.uniform(-size[:2], size[:2], (count, 2)), rng.uniform(0.5, size[2] - 0.4, count)])
    centre[rows, across] = sign * size[across]
    b.boxes(centre, half)
    count = rng.integers(4, 16)  # clutter on the floor
    half = np.exp(rng.uniform(np.log(0.04), np.log(0.35), (count, 3)))
    centre = np.column_stack([rng.uniform(-size[:2], size[:2], (count, 2)), half[:, 2]])
    b.boxes(centre, half, rng.uniform(0, np.pi, count), kind=_any_kind(count, rng))
    if rng.random() < 0.5:  # a partition, a pillar, a beam under the ceiling
        axis = rng.integers(2)
        half = np.array([rng.uniform(0.4, 1.4), 0.06, size[2] / 2])
        centre = np.array([*(rng.choice([-1, 1]) * (size[:2] - half[:2])), size[2] / 2])
        centre[1] = rng.uniform(-0.7, 0.7) * size[1]
        b.boxes(centre if axis else centre[[1, 0, 2]], half if axis else half[[1, 0, 2]])
    b.boxes([rng.uniform(-1, 1), 0, size[2] - 0.15], [0.06, size[1], 0.15])
    return b.scene(walls)


def _any_kind(count: Any, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.choice([BOX, BALL, CYLINDER], count, p=[0.6, 0.15, 0.25])


def tabletops(count: int, rng: np.random.Generator, draw: Draw) -> list[Scene]:
    each = 7
    pieces = draw_pieces(count * each, THINGS, rng, draw)
    return [_tabletop(pieces[i * each : (i + 1) * each], rng) for i in range(count)]


def _tabletop(pieces: list[Piece], rng: np.random.Generator) -> Scene:
    """Things on a table whose top is z = 0, sometimes with the floor and a wall in view."""
    b = Builder()
    half = rng.uniform([0.4, 0.3], [0.9, 0.6])
    b.boxes([0, 0, -0.02], [*half, 0.02])
    for piece in pieces[: rng.integers(2, len(pieces) + 1)]:
        spot = rng.uniform(-0.75, 0.75, 2) * half
        place(b, piece, np.array([*spot, 0.0]), rng.uniform(-np.pi, np.pi))
    count = rng.integers(2, 10)
    size = np.exp(rng.uniform(np.log(0.015), np.log(0.12), (count, 3)))
    centre = np.column_stack([rng.uniform(-0.8, 0.8, (count, 2)) * half, size[:, 2]])
    b.boxes(centre, size, rng.uniform(0, np.pi, count), kind=_any_kind(count, rng))
    room = np.array([[-1.8, -1.8, -0.75], [1.8, 1.8, 1.8]]) * rng.uniform(0.9, 1.5)
    return b.scene(room if rng.random() < 0.6 else None)


def streets(count: int, rng: np.random.Generator, draw: Draw) -> list[Scene]:
    each = 14
    pieces = draw_pieces(count * each, TRAFFIC, rng, draw)
    return [_street(pieces[i * each : (i + 1) * each], rng) for i in range(count)]


def _street(pieces: list[Piece], rng: np.random.Generator) -> Scene:
    """Ground, facades with bays and gaps on both sides, poles, trees, hedges, parked and standing things."""
    b = Builder()
    curb = rng.uniform(4, 9)
    for side in (-1, 1):
        line = curb + rng.uniform(2, 10)
        x = -90.0
        while x < 90:
            long, deep, high = rng.uniform(4, 14), rng.uniform(3, 8), rng.uniform(2.5, 14)
            if rng.random() < 0.8:
                back = rng.uniform(0, 2.5)
                yaw = rng.normal(0, 0.05)
                b.boxes([x + long, side * (line + deep + back), high / 2], [long, deep, high / 2], yaw)
                bays = rng.integers(2, 7)  # doors, balconies, bay windows, chimneys of it
                centre = np.column_stack(
                    [
                        x + long + rng.uniform(-0.9, 0.9, bays) * long,
                        np.full(bays, side * (line + back)),
                        rng.uniform(0, high, bays),
                    ]
                )
                b.boxes(centre, rng.uniform([0.4, 0.1, 0.4], [2.0, 1.2, 1.6], (bays, 3)), yaw)
            x += 2 * long + rng.uniform(0, 5)
        along = np.arange(-75, 90, 15.0)
        b.boxes(np.column_stack([along, 0 * along + side * curb, 0 * along + 0.07]), [7.0, 0.15, 0.07])  # the curb
        poles = rng.integers(4, 12)
        size = np.column_stack([*[rng.uniform(0.04, 0.2, poles)] * 2, rng.uniform(1.0, 4.5, poles)])
        where = np.column_stack([rng.uniform(-80, 80, poles), side * (curb + rng.uniform(0.3, 2, poles)), size[:, 2]])
        b.boxes(where, size, kind=CYLINDER)
        b.boxes(where + [0, 0, 1] * size, rng.uniform(0.05, 0.6, (poles, 3)), rng.uniform(0, 3, poles))
        trees = rng.integers(1, 8)
        trunk = np.column_stack([*[rng.uniform(0.1, 0.35, trees)] * 2, rng.uniform(1.0, 2.5, trees)])
        where = np.column_stack([rng.uniform(-80, 80, trees), side * (curb + rng.uniform(1, 6, trees)), trunk[:, 2]])
        b.boxes(where, trunk, kind=CYLINDER)
        for _ in range(2):
            crown = rng.uniform(0.8, 2.5, (trees, 3))
            above = where + np.column_stack([rng.normal(0, 0.6, (trees, 2)), trunk[:, 2] + 0.5 * crown[:, 2]])
            b.boxes(above, crown, kind=BALL, rough=0.2)
        if rng.random() < 0.5:
            b.boxes([rng.uniform(-40, 40), side * (curb + 1.5), 0.6], [rng.uniform(5, 25), 0.3, 0.6], rough=0.05)
    for piece in pieces:
        parked = rng.random() < 0.75
        y = rng.choice([-1, 1]) * (curb - 1.3 if parked else rng.uniform(-1, 1) * curb)
        yaw = rng.normal(0, 0.05) if parked else rng.uniform(-np.pi, np.pi)
        place(b, piece, np.array([rng.uniform(-60, 60), y, 0.0]), yaw)
    return b.scene(ground=True)
