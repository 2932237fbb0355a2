"""Every error this package raises on purpose, as one small tree.

Bad input raises a subclass of `InvalidInput` (itself a `ValueError`) at the boundary, with a message that names
what was received and what to do. Numbers are never repaired in silence: a repair that is small enough to be
harmless is announced as a `NumericalWarning` that states its size; anything larger is an error.
"""

from __future__ import annotations


class DeepGMRError(Exception):
    """The root: catching it catches everything the package raises on purpose."""


class InvalidInput(DeepGMRError, ValueError):
    """An argument cannot be used; the message names what was received and the remedy."""


class InvalidCloud(InvalidInput):
    """A point cloud has the wrong shape, too few points, or coordinates that are not finite."""

    def __init__(self, message: str = "", *, role: str | None = None) -> None:
        super().__init__(message)
        self.role = role  # which of the two it is: "source", "target", or None where that is not known


class InvalidMixture(InvalidInput):
    """A Gaussian mixture has inconsistent shapes, bad weights, or bad covariances."""


class NotPositiveDefinite(InvalidMixture):
    """A covariance is not positive definite, and no harmless jitter makes it so."""


class InvalidTransform(InvalidInput):
    """A matrix is not a rigid transform."""


class InvalidFile(InvalidInput):
    """A file cannot be read or written; the message names the path."""


class InvalidConfig(InvalidInput):
    """A configuration has an unknown key or a value out of range."""


class InvalidCheckpoint(InvalidInput):
    """A checkpoint is corrupt, truncated, foreign, or newer than this package."""


class Cancelled(DeepGMRError):
    """The caller's `progress` returned False: what was asked for was not done."""


class TimedOut(DeepGMRError, TimeoutError):
    """The time given was over before there was anything to answer; the message says how much it was."""


class WorkerDied(DeepGMRError, RuntimeError):
    """The process that worked on a pair of a batch ended before it answered; the message says how."""


class MissingDependency(DeepGMRError, ImportError):
    """An optional library is not installed; the message names the package and the pip command."""


class NumericalWarning(RuntimeWarning):
    """A number was adjusted to keep a computation defined; the message states by how much."""
