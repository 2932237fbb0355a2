"""A short drive through a small town whose poses are known, seen by a sensor that does not err."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from deepgmr.datasets.worlds.tours import Tour, tour


@cache
def way(*, moving: bool = False) -> Tour:
    """A hundred and sixty metres, some 11,000 points a scan."""
    found = tour(np.random.default_rng(4), frames=160, steps=200, moving=moving, route=((0, 0), (1, 0)))
    return replace(found, sensor=replace(found.sensor, noise=(0.0, 0.0), dropout=0.0))


@cache
def scan(number: int, *, moving: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) and their ages (N,)."""
    return way(moving=moving).timed(number)


def truth(number: int, first: int = 0) -> np.ndarray:
    """The pose (4, 4) of a scan in the frame of the first."""
    poses = way().poses
    return np.linalg.inv(poses[first]) @ poses[number]
