"""What a registration answers: a motion, how far to trust it, and what it took to find."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgmr.errors import InvalidCloud, TimedOut
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.clouds import as_point
from deepgmr.pipeline.judge import Evidence, Status
from deepgmr.pipeline.precision import FreeDirection, Precision, shifted


@dataclass(frozen=True, eq=False)
class Alternative:
    """Another motion that explains the clouds."""

    target_from_source: np.ndarray  # (4, 4) float64
    score: float  # in [0, 1], to be compared with `Registration.score`


@dataclass(frozen=True)
class Stats:
    """What an answer took."""

    looks: int  # taken
    hypotheses: int  # refined and ranked, over all looks
    components: tuple[int, int]  # of the source and of the target at the level that was searched
    milliseconds: dict[str, float] = field(default_factory=dict)  # a step
    bundle: str = ""  # what answered: the id of `deepgmr.Bundle`


@dataclass(frozen=True, eq=False)
class Registration:
    """The answer, and how far to trust it. Lengths are in the units of the input."""

    target_from_source: np.ndarray  # (4, 4) float64: x_target = R x_source + t, or scale R x_source + t
    confidence: float  # probability in [0, 1] that the answer is right, up to the symmetry of the shape
    # (6, 6) of (rotation vector [rad], translation), left perturbation, about the origin of the target's frame
    covariance: np.ndarray
    overlap: float  # estimated share of source points that have a counterpart in the target
    status: Status
    sentence: str  # the status in words, and what helps
    score: float  # one minus the divergence of the aligned surfaces, as a share of its largest value
    evidence: Evidence
    stats: Stats
    scale: float = 1.0  # by how much `target_from_source` scales, where that was to be estimated ...
    scale_deviation: float = 0.0  # ... and its standard deviation, as a share of it
    alternatives: tuple[Alternative, ...] = ()  # most plausible first: the symmetries of the answer, and its rivals
    notes: tuple[str, ...] = ()
    # (J, 3) and (K, 3) float32: the components of the moved source and of the target, in the frame of the pair
    sketch: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    precision: Precision | None = field(default=None, repr=False)
    search: Any = field(default=None, repr=False)  # with `trace=`: the `Search` it came from

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or sent to another process: all but the search, whose trees cannot be."""
        return vars(self) | {"search": None}

    def __repr__(self) -> str:
        return f"<Registration {self.status}: {self.numbers}>"

    def __str__(self) -> str:
        """What a person wants to know first."""
        rows = (
            " ".join(f"{value: .6f}" for value in row[:3]) + f"  {row[3]:.9g}" for row in self.target_from_source[:3]
        )
        lines = [
            f"{self.status}: {self.numbers}. {self.sentence}",
            "target_from_source:",
            *(f"  {row}" for row in rows),
            f"standard deviations: {self.deviations}",
            *(f"nothing holds: {direction}" for direction in self.free_directions),
            *(f"alternative, score {other.score:.3f}" for other in self.alternatives),
            *(f"note: {note}" for note in self.notes if note != self.sentence),
        ]
        return "\n".join(lines)

    @property
    def numbers(self) -> str:
        """Confidence and overlap in words, and the scale where it was estimated."""
        scale = "" if self.scale == 1 else f", scale {self.scale:.6g}"
        return f"confidence {self.confidence:.3f}, overlap {self.overlap:.3f}{scale}"

    @property
    def deviations(self) -> str:
        """Standard deviations in words: of the rotation, and of the middle of what was matched."""
        about = self.covariance if self.precision is None else self.precision.covariance
        turn, shift = (math.sqrt(max(np.trace(part), 0.0)) for part in (about[:3, :3], about[3:, 3:]))
        return f"rotation {math.degrees(turn):.3g} degrees, translation {shift:.3g} (units of the input)"

    @property
    def trusted(self) -> bool:
        """Whether the answer is one to act on: the status is `Status.OK`, the confidence at least what was asked."""
        return self.status is Status.OK

    @property
    def error(self) -> None:
        """None: there is an answer. Of a `Failure` it says why there is none."""

    def motion(self, like: Tensor | None = None) -> RigidTransform:
        """`target_from_source` in torch: float64 on the CPU, or in the dtype and on the device of a tensor.

        Raises `InvalidTransform` where a scale was estimated that is not one: a similarity is no rigid motion.

        Far from the origin float32 holds a place to no better than the grid of its coordinates; integers get float64.
        """
        motion = RigidTransform.from_matrix(torch.from_numpy(self.target_from_source.copy()))
        if like is None:
            return motion
        return motion.to(like.device, like.dtype if like.is_floating_point() else torch.float64)

    def moved(self, points: Any) -> Any:
        """Points (*B, 3) of the source as they lie in the target: an array for an array, in its dtype, or a tensor for a
        tensor, on its device as well and with its gradient. Computed in float64; integers become float64.

        Raises `InvalidCloud` for anything but rows of three numbers. `deepgmr.io.transformed` moves what was read from a
        file, with all it carries.
        """
        given = points if isinstance(points, Tensor) else np.asarray(points)
        numbers = not given.is_complex() if isinstance(given, Tensor) else given.dtype.kind in "fiu"
        if not numbers or given.ndim < 1 or given.shape[-1] != 3:
            raise InvalidCloud(
                f"expected real numbers of shape (..., 3), got {given.dtype} of shape {tuple(given.shape)}"
            )
        if isinstance(given, Tensor):
            matrix = torch.from_numpy(self.target_from_source).to(given.device)
            moved = given.double() @ matrix[:3, :3].mT + matrix[:3, 3]
            return moved.to(given.dtype if given.is_floating_point() else torch.float64)
        linear, shift = self.target_from_source[:3, :3], self.target_from_source[:3, 3]
        there = given.astype(np.float64) @ linear.T + shift
        return there.astype(given.dtype if given.dtype.kind == "f" else np.float64)

    def covariance_about(self, point: Any) -> np.ndarray:
        """The covariance (6, 6) of (rotation vector [rad], translation of the point), left, in the axes of the target.

        `point` (3,) lies in the frame of the target. A filter needs the place of the robot or of the object: about an
        origin far away the least turn moves far. Raises `InvalidConfig` for anything but a point.
        """
        place = as_point(point, "point")
        return shifted(self.covariance, place) if self.precision is None else self.precision.about(place)

    @property
    def free_directions(self) -> tuple[FreeDirection, ...]:
        """The shifts and turns that the clouds do not hold, along a corridor or about a column: shifts first.

        Their variances are those of knowing nothing; the rest of the answer holds.
        """
        return () if self.precision is None else self.precision.free

    def report(self, path: Any, *, source: str = "source", target: str = "target", command: str = "") -> None:
        """Write one self-contained HTML page that shows the answer, and what speaks for and against it.

        source, target  names of the clouds, as the page calls them
        command         what repeats the registration; by default a few lines of Python

        Needs what a registration with `trace=deepgmr.Trace()` keeps. Raises `InvalidInput` for an answer without it,
        `InvalidFile` for a path that cannot be written.
        """
        from deepgmr.report import write_page

        write_page(path, self, source=source, target=target, command=command)

    def picture(self, path: Any, *, width: int = 2000, height: int = 900) -> None:
        """Write a PNG (pixels) of the clouds before and after, side by side; as `report` in what it needs and raises."""
        from deepgmr.report import write_picture

        write_picture(path, self, width=width, height=height)

    def _repr_html_(self) -> str:
        """What a notebook shows: a small picture and a few numbers."""
        from deepgmr.report import registration_html

        return registration_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it: None for numbers that are not finite."""
        return plain(
            {
                "registered": self.trusted,
                "status": self.status.value,
                "sentence": self.sentence,
                "confidence": self.confidence,
                "overlap": self.overlap,
                "score": self.score,
                "target_from_source": self.target_from_source,
                "scale": self.scale,
                "covariance": self.covariance,
                "free_directions": [str(direction) for direction in self.free_directions],
                "alternatives": [vars(other) for other in self.alternatives],
                "evidence": vars(self.evidence),
                "stats": vars(self.stats),
                "notes": self.notes,
            }
        )


@dataclass(frozen=True, eq=False)
class Failure:
    """What a batch has for a pair that could not be registered."""

    error: Exception  # what `register` would have raised, or a `WorkerDied`

    confidence = 0.0
    trusted = False
    target_from_source = None

    @property
    def status(self) -> Status:
        """`Status.ERROR`, or `Status.TIMEOUT` where time was over before any motion was found."""
        return Status.TIMEOUT if isinstance(self.error, TimedOut) else Status.ERROR

    @property
    def sentence(self) -> str:
        """What is wrong, and what to do."""
        return f"{type(self.error).__name__}: {self.error}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"registered": False, "status": self.status.value, "sentence": self.sentence, "confidence": 0.0}


def plain(value: Any) -> Any:
    """The same as JSON can hold it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
