"""Where a sensor is, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepgmr.pipeline.answer import plain
from deepgmr.pipeline.judge import Worded


class Tracking(Worded):
    """How a pose was found. The value is the word for machines, `sentence` is for people."""

    STARTED = "started", "the first scan: its frame is the world"
    TRACKED = "tracked", "found where it was expected"
    RELOCALISED = "relocalised", "not where it was expected; found by a search, and verified"
    LOST = (
        "lost",
        "not where it was expected, and not found anywhere it has been; go back to where it was tracked, or start anew",
    )


@dataclass(frozen=True, eq=False)
class Fix:
    """One scan's pose. Lengths are in the units of the scans."""

    number: int  # of the scan, from zero
    time: float  # as it was given, or the number of the scan
    status: Tracking
    world_from_sensor: np.ndarray | None  # (4, 4) float64; none while lost
    # (6, 6) of (rotation vector [rad], translation) along the axes of the world, about the sensor, against the first
    # scan: the true pose is (exp(w) R, t + v). None while lost.
    covariance: np.ndarray | None
    overlap: float  # share of the scan, every direction of its surfaces counted alike, that meets the map
    observability: float  # least over largest eigenvalue of the information of the matched points
    milliseconds: float = 0.0  # that finding it took

    @property
    def trusted(self) -> bool:
        """Whether there is a pose."""
        return self.status is not Tracking.LOST

    def after(self, milliseconds: float) -> Fix:
        """The same, with what it took."""
        return replace(self, milliseconds=milliseconds)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return plain(vars(self) | {"status": self.status.value, "sentence": self.status.sentence})


@dataclass(frozen=True, eq=False)
class Loop:
    """A place that was come back to, verified by a registration."""

    first: int  # number of the earlier scan
    second: int  # and of the later
    first_from_second: np.ndarray  # (4, 4)
    covariance: np.ndarray  # (6, 6), as that of `Registration`
    confidence: float
