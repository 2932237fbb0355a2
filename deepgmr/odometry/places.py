"""Places that were passed: what they look like, and which of them a scan may have come back to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepgmr.posegraph.looks import likeness


@dataclass(frozen=True, eq=False)
class Place:
    """One scan that is remembered."""

    number: int  # of the scan
    pose: np.ndarray  # (4, 4) world from sensor, as it was tracked
    covariance: np.ndarray  # (6, 6) of the pose, as `Fix.covariance`
    way: float  # from the start, input units
    points: np.ndarray  # (N, 3) float32, in the frame of the sensor
    look: np.ndarray  # (D,) unit


def alike(look: np.ndarray, places: list[Place]) -> list[Place]:
    """The places in the order of how much like that they look, by what tells them from one another."""
    if not places:
        return []
    order = np.argsort(-likeness(look, np.array([place.look for place in places])), kind="stable")
    return [places[i] for i in order]


def revisited(here: Place, places: list[Place], *, after: float, near: float, drift: float) -> list[Place]:
    """The places that may have been come back to, nearest first: so long ago, and so near for how long ago."""
    found = []
    for place in places:
        way = here.way - place.way
        distance = float(np.linalg.norm(here.pose[:3, 3] - place.pose[:3, 3]))
        if way >= after and distance <= near + drift * way:
            found.append((distance, place.number, place))
    return [place for *_, place in sorted(found, key=lambda each: each[:2])]
