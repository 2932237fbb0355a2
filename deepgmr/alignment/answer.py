"""What became of many scans: where each one is in one frame, how far to trust that, and what was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepgmr.errors import InvalidConfig
from deepgmr.pipeline.answer import plain
from deepgmr.pipeline.clouds import as_point
from deepgmr.pipeline.precision import shifted


@dataclass(frozen=True, eq=False)
class Link:
    """Two scans that were tried with each other, and what that says once all is known. Lengths are the scans'."""

    first: int
    second: int
    motion: np.ndarray | None  # (4, 4) first from second: as accepted, or else as answered; none where nothing was
    covariance: np.ndarray | None  # (6, 6) as that of `Registration`, the first being the target
    confidence: float  # of the answer, by itself
    probability: float  # that this motion is right, beside all others
    accepted: bool
    why: str  # it was or was not


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where N scans are. The frame of a component is that of its first scan."""

    poses: np.ndarray  # (N, 4, 4) float64, component from scan
    # (N,) share of the others of its component that a scan is expected to lie right to; 0 for one that lies to no other
    confidence: np.ndarray
    # (N, 6, 6) of (rotation vector [rad], translation), left, about the origin of the component's frame, against its
    # first scan: that one's are zero
    covariances: np.ndarray
    components: tuple[tuple[int, ...], ...]  # the scans of each, rising; the largest first
    edges: tuple[Link, ...]  # what was tried, by the numbers of the scans
    sketches: tuple[np.ndarray, ...]  # (P, 3) a few places of every scan, in its own frame

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def component(self) -> np.ndarray:
        """(N,) the number of each scan's component."""
        found = np.zeros(len(self), dtype=np.int64)
        for number, scans in enumerate(self.components):
            found[list(scans)] = number
        return found

    def trusted(self, trust: float = 0.9) -> bool:
        """Whether all scans are in one frame, each with at least this confidence."""
        return len(self.components) == 1 and bool((self.confidence >= trust).all())

    def covariance_about(self, scan: int, point: Any) -> np.ndarray:
        """The covariance (6, 6) of (rotation vector, translation of the point) of one scan's pose.

        `point` (3,) lies in the frame of the component. Raises `InvalidConfig` for anything but a point and a scan.
        """
        if not 0 <= scan < len(self):
            raise InvalidConfig(f"scan must be a number from 0 to {len(self) - 1}, got {scan}")
        return shifted(self.covariances[scan], as_point(point, "point"))

    def report(self, path: Any, *, names: Sequence[str] | None = None) -> None:
        """Write one HTML page with a picture of the scans where they are, and tables of them and of the edges.

        Raises `InvalidFile` for a path that cannot be written.
        """
        from deepgmr.report.aligned import write_aligned

        write_aligned(path, self, names or [f"scan {scan}" for scan in range(len(self))])

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return plain(
            {
                "scans": [
                    {
                        "pose": self.poses[scan],
                        "component": self.component[scan],
                        "confidence": self.confidence[scan],
                        "covariance": self.covariances[scan],
                    }
                    for scan in range(len(self))
                ],
                "components": self.components,
                "edges": [vars(edge) for edge in self.edges],
            }
        )
