"""Furnished halls: walls fit walls when a hall is turned round, only the furniture tells."""

from __future__ import annotations

import numpy as np

from deepgmr.datasets.worlds.planned import Planned, two_parts
from deepgmr.datasets.worlds.sections import Floats
from deepgmr.datasets.worlds.triangles import Triangles, boxes, joined
from deepgmr.errors import InvalidConfig

SEEN = 0.78  # of the length, in each cloud
NOISE = 0.005  # metres
PIECES = 25  # of furniture, for each unit of scale


def hall(rng: np.random.Generator, *, scale: float = 1.0) -> Planned:
    """A hall of scale s, 8 s x 6 sqrt(s) x 3 metres with 25 s boxes; one cloud of its low 78 %, one of its high 78 %.

    Right within 1 degree and .1 s metres. Raises `InvalidConfig` for a scale below a half.
    """
    surfaces, length = furnished(rng, scale)
    low, high = length * (0.5 - SEEN), length * (SEEN - 0.5)
    return two_parts(
        surfaces,
        lambda p: p[:, 0] < high,
        lambda p: p[:, 0] > low,
        rng,
        noise=NOISE,
        degrees=1.0,
        metres=0.1 * scale,
        overlap=(high - low) / (SEEN * length),
    )


def hall_pair(scale: float, points: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Source (points, 3), target (points, 3), target_from_source (4, 4) of one hall."""
    plan = hall(rng, scale=scale)
    return *plan.clouds(points), plan.target_from_source


def furnished(rng: np.random.Generator, scale: float) -> tuple[Triangles, float]:
    """The surfaces of a hall around the middle of its floor, and its length in metres, along x."""
    if scale < 0.5:
        raise InvalidConfig(f"a hall of scale {scale:g} has no room for furniture; give at least 0.5")
    size = np.array([8 * scale, 6 * np.sqrt(scale), 3.0])
    count = max(round(PIECES * scale), 1)
    half = rng.uniform(0.15, 0.75, (count, 3))
    yaw = np.where(rng.random(count) < 0.5, 0.0, rng.uniform(0, np.pi, count))  # half of them along the walls
    free = size[:2] / 2 - np.hypot(half[:, :1], half[:, 1:2])
    centre = np.column_stack([rng.uniform(-free, free), half[:, 2]])
    return joined([boxes([0, 0, 1.5], size / 2), boxes(centre, half, yaw, standing=True)]), float(size[0])
