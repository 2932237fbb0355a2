"""A pair of clouds of a world: the truth is fixed, the clouds are drawn at whatever size is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepgmr.datasets.worlds.sections import Floats
from deepgmr.datasets.worlds.triangles import Keep, Triangles

FAR = 1000.0  # metres: how far from its origin a cloud may stand


@dataclass(frozen=True, eq=False)
class Planned:
    """Two clouds of one world, the motion between their frames, and what answer is right.

    An answer is right within the tolerances; where there is a `shape` of radius one, up to its symmetry (ADD-S below
    .05) instead.
    """

    target_from_source: Floats  # (4, 4)
    clouds: Callable[[int], tuple[Floats, Floats]]  # points a cloud -> source (N, 3), target (M, 3): always the same
    degrees: float = 5.0  # tolerance of the rotation
    metres: float = 0.1  # tolerance of the displacement of the source's centroid
    shape: Floats | None = None  # (K, 3) in the frame of the source
    overlap: float | None = None  # share of the source that the target shows too, where it is known
    ambiguous: bool = False  # other motions fit as well as the true one, which alone counts as right
    origins: tuple[Floats, Floats] | None = None  # (3,) where the sensors stood, each in the frame of its cloud


def any_pose(rng: np.random.Generator, far: float = FAR) -> Floats:
    """A motion (4, 4) with a uniform rotation and a translation uniform in a box of half-width `far`."""
    q = rng.standard_normal(4)
    w, x, y, z = q / np.linalg.norm(q)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = rng.uniform(-far, far, 3)
    return pose


def two_parts(
    surfaces: Triangles,
    first: Keep,
    second: Keep,
    rng: np.random.Generator,
    *,
    noise: float,
    degrees: float,
    metres: float,
    overlap: float | None = None,
    ambiguous: bool = False,
) -> Planned:
    """The parts of a world that `first` and `second` keep, sampled independently; the source stands in any pose."""
    pose, seed = any_pose(rng), int(rng.integers(2**62))

    def clouds(points: int) -> tuple[Floats, Floats]:
        again = np.random.default_rng(seed)
        source = surfaces.sample(points, again, keep=first, noise=noise, pose=pose)
        return source, surfaces.sample(points, again, keep=second, noise=noise)

    truth = inverse(pose)
    return Planned(truth, clouds, degrees=degrees, metres=metres, overlap=overlap, ambiguous=ambiguous)


def inverse(motion: Floats) -> Floats:
    """The way back from a rigid motion (4, 4)."""
    back = np.eye(4)
    back[:3, :3] = motion[:3, :3].T
    back[:3, 3] = -motion[:3, :3].T @ motion[:3, 3]
    return back
