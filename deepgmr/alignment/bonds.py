"""What the searches answered, as motions that may be right, each with its odds: about the centres of the scans."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.judge import Status
from deepgmr.pipeline.scan import Scan
from deepgmr.posegraph.graph import Edge, right_from_left

_WIDEST = 1.0  # radian or size: that far off nothing is known any more


@dataclass(frozen=True, eq=False)
class Bond:
    """Motions between two scans of which one may be right; frames are about the scans' own centres."""

    first: int
    second: int
    motions: np.ndarray  # (H, 4, 4) first from second
    odds: np.ndarray  # (H,) of each, against that none of them is right
    covariance: np.ndarray  # (6, 6) of a motion, right: about the centre of the second, input units
    wide: np.ndarray  # (6, 6) the same, of how far a motion may be off all the same

    @property
    def turn(self) -> float:
        """The variance by which a motion may be off: of a coordinate of the rotation vector ..."""
        return float(np.trace(self.wide[:3, :3])) / 3

    @property
    def shift(self) -> float:
        """... and of the place of the centre of the second, input units."""
        return float(np.trace(self.wide[3:, 3:])) / 3

    def edge(self, hypothesis: int) -> Edge:
        return Edge(self.first, self.second, self.motions[hypothesis], self.covariance, loop=True)


def bond(
    first: int, second: int, scans: tuple[Scan, Scan], answer: Registration, size: float, settings: AlignmentSettings
) -> Bond:
    """Of the answer that put the second of two scans onto the first; `size` is the unit of lengths."""
    others = answer.alternatives[: settings.alternatives]
    motions = [answer.target_from_source, *(other.target_from_source for other in others)]
    own = answer.covariance_about(_moved(motions[0], scans[1].origin))
    units = np.repeat([_WIDEST, _WIDEST * size], 3)
    values, vectors = np.linalg.eigh(own / np.outer(units, units))
    own = (vectors * np.clip(values, 1e-16, 1.0)) @ vectors.T * np.outer(units, units)
    # about the moved centre along the axes of the first: the motion about the centres has them about its own origin
    centred = np.array([_centred(motion, *scans) for motion in motions])
    turned = centred[0].copy()
    turned[:3, 3] = 0.0
    covariance = right_from_left(own, turned)
    floors = np.repeat([math.radians(settings.floor_degrees), settings.floor * size], 3)
    return Bond(
        first=first,
        second=second,
        motions=centred,
        odds=odds(answer, settings)[: len(motions)],
        covariance=covariance,
        wide=settings.widened**2 * covariance + np.diag(floors**2),
    )


def odds(answer: Registration, settings: AlignmentSettings) -> np.ndarray:
    """(1 + A,) odds of an answer and of its alternatives, against that all of them are wrong.

    The confidence is that of the shape: where other motions explain the clouds as well, they share it. Otherwise they
    share half of what it leaves, though none is believed more than the answer. Of motions that the clouds leave free none is
    believed.
    """
    if answer.status is Status.DEGENERATE:
        return np.zeros(1 + len(answer.alternatives))
    believed, count = min(answer.confidence, settings.surest), len(answer.alternatives)
    if answer.status is Status.AMBIGUOUS and count:
        rivals = count * math.exp(-max(answer.evidence.margin, 0.0))
        own, others = believed / (1 + rivals), believed * rivals / (1 + rivals)
    else:
        own, others = believed, min((1 - believed) / 2, count * believed)
    none = 1 - own - others
    return np.array([own, *([others / max(count, 1)] * count)]) / none


def _moved(motion: np.ndarray, point: np.ndarray) -> np.ndarray:
    return motion[:3, :3] @ point + motion[:3, 3]


def _centred(motion: np.ndarray, first: Scan, second: Scan) -> np.ndarray:
    """A motion first from second, between frames about the scans' centres."""
    inside = motion.copy()
    inside[:3, 3] = _moved(motion, second.origin) - first.origin
    return inside
