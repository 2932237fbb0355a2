"""Depth images of a thing from all around it, each in a pose of its own, with where they belong."""

from __future__ import annotations

import numpy as np

from deepgmr.datasets.worlds.gatherings import turntable


def views(seed: int, count: int, *, degrees: float = 45.0, side: int = 64) -> tuple[list[np.ndarray], np.ndarray]:
    """Scans of the thing, so many degrees apart, and their poses (N, 4, 4), the thing from the scan."""
    found = turntable(seed, count, degrees=degrees, side=side)
    return list(found.scans), found.poses
