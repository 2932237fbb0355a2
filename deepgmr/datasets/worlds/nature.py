"""Forests and caves: not a single plane."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from deepgmr.datasets.worlds.building import Builder
from deepgmr.datasets.worlds.planned import Planned, two_parts
from deepgmr.datasets.worlds.sections import Floats
from deepgmr.datasets.worlds.sensors import BALL, CYLINDER
from deepgmr.datasets.worlds.triangles import Triangles, grid, joined, of_scene
from deepgmr.errors import InvalidConfig

NOISE = 0.02  # metres
_TREES = 0.05  # for each square metre


def forest(rng: np.random.Generator, *, size: float = 60) -> Planned:
    """A square of forest of so many metres a side; two overlapping parts of it, cut along a random direction.

    Right within 2 degrees and .5 m. Raises `InvalidConfig` for less than ten metres.
    """
    if size < 10:
        raise InvalidConfig(f"a forest of {size:g} m has hardly a tree; give at least 10")
    angle, seen = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.3) * size
    along = np.array([np.cos(angle), np.sin(angle), 0], np.float32)
    return two_parts(
        forest_surfaces(rng, size),
        lambda p: p @ along < seen,
        lambda p: p @ along > -seen,
        rng,
        noise=NOISE,
        degrees=2.0,
        metres=0.5,
    )


def forest_surfaces(rng: np.random.Generator, size: float) -> Triangles:
    """Hilly ground, leaning trunks with branches, crowns and shrubs of stray points, stones."""
    cells = round(size)
    x = np.linspace(-size / 2, size / 2, cells + 1)
    relief = sum(rng.uniform(0.3, 1) * scale / 6 * smooth(rng, cells, scale) for scale in (40, 15, 5, 2))

    def ground(spots: Floats) -> Floats:
        return map_coordinates(relief, (spots.T + size / 2) * cells / size, order=1, mode="nearest")

    b = Builder()
    trees = round(_TREES * size**2)
    spot = rng.uniform(-size / 2, size / 2, (trees, 2))
    high, thick = rng.uniform(2.5, 9, trees), rng.uniform(0.08, 0.35, trees)
    foot = np.column_stack([spot, ground(spot) - 0.3])
    lean = np.column_stack([rng.normal(0, 0.08, (trees, 2)), np.ones(trees)])
    trunk = _along(lean * high[:, None], thick)
    b.add(CYLINDER, trunk, foot + lean * high[:, None])
    for share in rng.uniform(0.7, 1.9, 5):  # branches; the trunk reaches from 0 to 2
        out = rng.normal(0, 1, (trees, 3)) * [1, 1, 0.4] * rng.uniform(0.3, 1.0, (trees, 1))
        b.add(CYLINDER, _along(out, 0.25 * thick), foot + lean * (share * high)[:, None] + out)
    for _ in range(2):
        half = rng.uniform(0.5, 1.5, (trees, 3)) * (high / 6)[:, None]
        b.boxes(foot + lean * (1.8 * high)[:, None] + rng.normal(0, 0.6, (trees, 3)), half, kind=BALL, rough=0.2)
    for count, low, top, rough in ((trees // 2, 0.2, 0.9, 0.12), (trees // 2, 0.1, 0.7, 0.0)):  # shrubs, stones
        spot = rng.uniform(-size / 2, size / 2, (count, 2))
        b.boxes(
            np.column_stack([spot, ground(spot)]),
            rng.uniform(low, top, (count, 3)),
            rng.uniform(0, 3, count),
            kind=BALL,
            rough=rough,
        )
    earth = grid(np.stack([*np.meshgrid(x, x, indexing="ij"), relief], axis=-1))
    return joined([earth, of_scene(b.scene())])


def cave(rng: np.random.Generator, *, length: float = 60) -> Planned:
    """A winding cave of so many metres; two overlapping stretches of it.

    Right within 2 degrees and .5 m. Raises `InvalidConfig` for less than ten metres.
    """
    if length < 10:
        raise InvalidConfig(f"a cave of {length:g} m is too short; give at least 10")
    high = rng.uniform(0.1, 0.28) * length
    return two_parts(
        cave_surfaces(rng, length),
        lambda p: p[:, 0] < high,
        lambda p: p[:, 0] > -high,
        rng,
        noise=NOISE,
        degrees=2.0,
        metres=0.5,
    )


def cave_surfaces(rng: np.random.Generator, length: float) -> Triangles:
    """A tube of uneven radius along a winding line, mainly along x, with dripstones and boulders."""
    cells, around = round(4 * length), 96
    s = np.linspace(-length / 2, length / 2, cells + 1)
    line = np.stack(
        [s, 0.1 * length * smooth(rng, cells, 0.3 * length, 4)[:, 0], 3 * smooth(rng, cells, 20, 4)[:, 0]], 1
    )
    relief = sum(
        amount * smooth(rng, cells, scale, 4, around=around)
        for amount, scale in ((0.5, 12), (0.25, 4), (0.1, 1.5), (0.03, 0.6))
    )
    radius = rng.uniform(1.8, 3.5) * np.exp(relief)
    angle = np.linspace(0, 2 * np.pi, around + 1)
    wall = line[:, None] + np.stack([0 * radius, 1.3 * radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    b = Builder()
    count = round(1.5 * length)
    for side in (0.25, 0.75):  # angles of the roof and of the floor
        row, column = (
            rng.integers(cells, size=count),
            (around * (side + rng.normal(0, 0.06, count))).astype(int) % around,
        )
        tall = rng.uniform(0.2, 1.2, count)
        b.boxes(wall[row, column], np.column_stack([tall / 4, tall / 4, tall]), kind=BALL)
    return joined([grid(wall), of_scene(b.scene())])


def smooth(rng: np.random.Generator, cells: int, scale: float, each: float = 1, *, around: int | None = None) -> Floats:
    """Smooth noise of unit variance on a lattice (cells + 1, cells + 1), `each` cells a metre, varying over `scale` m.

    With `around` the second axis (around + 1) closes: about six metres once round.
    """
    knots = max(int(cells / each / scale), 1)
    turns = max(int(6 / scale), 2) if around else knots
    coarse = rng.standard_normal((knots + 3, turns if around else turns + 3))
    first = np.linspace(1, knots + 1, cells + 1)
    second = np.linspace(0, turns, around + 1) if around else first
    where = np.meshgrid(first, second, indexing="ij")
    return map_coordinates(coarse, where, order=3, mode="grid-wrap" if around else "nearest")


def _along(half: Floats, radius: Floats) -> Floats:
    """Linear maps (n, 3, 3) of unit cylinders onto those with half-axes (n, 3) and radii (n,)."""
    axis = half / np.linalg.norm(half, axis=1, keepdims=True)
    side = np.cross(axis, np.eye(3)[np.abs(axis).argmin(axis=1)])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    return np.stack([side * radius[:, None], np.cross(axis, side) * radius[:, None], half], axis=2)
