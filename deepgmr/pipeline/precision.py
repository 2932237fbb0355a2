"""How precise an answer is, in the units and the frame of the target: about any point, and what nothing holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from deepgmr.pipeline.stretch import Stretch
from deepgmr.pipeline.uncertainty import Uncertainty

_UNKNOWN = 1e3  # standard deviations of a logarithm that stand for knowing nothing
_TURNS = 0.3  # share of rotation beyond which a twist of unit length is one about an axis


@dataclass(frozen=True, eq=False)
class FreeDirection:
    """A motion that the clouds do not hold: along `direction`, or about the axis with it through `point`."""

    kind: str  # "shift" or "turn"
    direction: np.ndarray  # (3,) unit, in the frame of the target; of either sign
    point: np.ndarray | None = None  # (3,) on the axis of a turn

    @property
    def twist(self) -> np.ndarray:
        """(6,) of (rotation vector, translation), per unit of length or radian, about the origin of the target."""
        if self.point is None:
            return np.concatenate([np.zeros(3), self.direction])
        return np.concatenate([self.direction, np.cross(self.point, self.direction)])

    def __str__(self) -> str:
        direction = ", ".join(f"{value + 0:.3f}" for value in np.round(self.direction, 3))
        if self.point is None:
            return f"shift along ({direction})"
        return f"turn about ({direction}) through ({', '.join(f'{value:.6g}' for value in self.point)})"


@dataclass(frozen=True, eq=False)
class Precision:
    """The covariance about the centre of what was matched, where it loses nothing to rounding."""

    centre: np.ndarray  # (3,)
    covariance: np.ndarray  # (6, 6) of (rotation vector [rad], translation of the centre)
    free: tuple[FreeDirection, ...] = ()
    scale_deviation: float = 0.0  # standard deviation of the logarithm of a scale that was estimated ...
    swing: np.ndarray = field(default_factory=lambda: np.zeros(6))  # ... and how the twist about the centre follows it

    @classmethod
    def of(cls, found: Uncertainty, stretch: Stretch | None = None, *, scale: float, origin: np.ndarray) -> Precision:
        """From the frame of the pair: `scale` input units long, about `origin`."""
        units = np.repeat([1.0, scale], 3)
        covariance = found.covariance * np.outer(units, units)
        centre = scale * found.centre + origin
        named = _named(found.free, found.lever * scale, scale, centre)
        told = cls(centre, (covariance + covariance.T) / 2, named)
        return (
            told if stretch is None else replace(told, scale_deviation=stretch.deviation, swing=units * stretch.swing)
        )

    def about(self, point: np.ndarray) -> np.ndarray:
        """The covariance (6, 6) of (rotation vector, translation of the point): a scale in doubt moves what is far off."""
        rigid = shifted(self.covariance, point - self.centre)
        if self.scale_deviation == 0:
            return rigid
        arm = point - self.centre
        swing = self.swing + np.concatenate([np.zeros(3), arm + np.cross(self.swing[:3], arm)])
        return rigid + min(self.scale_deviation, _UNKNOWN) ** 2 * np.outer(swing, swing)


def shifted(covariance: np.ndarray, step: np.ndarray) -> np.ndarray:
    """A covariance (6, 6) about a point so far (3,) from the one that it is about: the point moves by v + w x step.

    By its root: of large variances times long ways the squares would leave less than nothing.
    """
    x, y, z = step
    adjoint = np.eye(6)
    adjoint[3:, :3] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
    unit = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(covariance / unit[:, None] / unit)
    root = adjoint @ (unit[:, None] * vectors * np.sqrt(np.maximum(values, 0.0)))
    return root @ root.T


def _named(free: np.ndarray, lever: float, scale: float, centre: np.ndarray) -> tuple[FreeDirection, ...]:
    """Twists (F, 6) about the centre as shifts and turns, shifts first; turns are about one point if they can be."""
    if not len(free):
        return ()
    rows = free * np.repeat([lever / scale, 1.0], 3)  # rotations by how far they move the points
    left, share, turns = np.linalg.svd(rows[:, :3])
    count = int((share > _TURNS).sum())
    rest = left.T @ rows
    shifts = np.linalg.svd(rest[count:, 3:])[2][: len(free) - count]  # (S, 3)
    axes = turns[:count]
    drift = rest[:count, 3:] / share[:count, None]  # of the centre, by a turn that moves the points by one
    drift = drift - drift @ shifts.T @ shifts
    # A turn about an axis through p moves the centre by w x -p: the p of all turns at once, nearest to the centre.
    x, y, z = axes.T if count else np.zeros((3, 0))
    zero = np.zeros(count)
    skew = np.stack([zero, z, -y, -z, zero, x, y, -x, zero], axis=1).reshape(-1, 3)  # p x w = -[w] p
    arm = lever * (np.linalg.lstsq(skew, drift.ravel(), rcond=1e-6)[0] if count else np.zeros(3))
    return (
        *(FreeDirection("shift", _signed(axis)) for axis in shifts),
        *(FreeDirection("turn", _signed(axis), centre + arm) for axis in axes),
    )


def _signed(axis: np.ndarray) -> np.ndarray:
    """The one of both directions whose largest coordinate is positive."""
    return axis * np.sign(axis[np.abs(axis).argmax()])
