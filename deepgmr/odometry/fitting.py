"""One scan on the map of its surroundings: the polish of a registration, from where the sensor is expected."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from deepgmr.geometry.normals import balanced
from deepgmr.geometry.transform import hat
from deepgmr.odometry.local_map import LocalMap
from deepgmr.odometry.settings import OdometrySettings
from deepgmr.pipeline.polish import polish
from deepgmr.pipeline.precision import Precision
from deepgmr.pipeline.refine import moved
from deepgmr.pipeline.scan import Level, Pair, Scan
from deepgmr.pipeline.settings import Settings


@dataclass(frozen=True, eq=False)
class Fitted:
    """A scan on the map."""

    pose: np.ndarray  # (4, 4) world from sensor
    covariance: np.ndarray  # (6, 6) against the map, about the sensor, along the axes of the world
    overlap: float  # share of the scan, every direction of its surfaces counted alike, that meets the map
    observability: float


def fitted(
    scan: Scan,
    surroundings: LocalMap,
    step: int | None,
    expected: np.ndarray,
    *,
    reach: float,
    own: OdometrySettings,
    settings: Settings,
) -> Fitted:
    """Generalised ICP of a scan's components on a rung of the ladder onto the map, matched within `reach`, input units."""
    pair = Pair(scan, surroundings.scan)
    source, target = scan.level(step, pair.scale), surroundings.scan.level(None, pair.scale)
    some = Level.of(source.points[balanced(source.axes, own.moved)], scan.settings)
    found = polish(
        source,
        target,
        pair.enter(expected[None])[0],
        sparse=some,
        reach=reach / pair.scale,
        settings=replace(settings.polish, steps=own.steps),
        refinement=settings.refine,
    )
    close = own.close * surroundings.cell / pair.scale
    distance, _ = target.tree.within(moved(some.points, found.target_from_source.matrix.numpy()), close)
    pose = pair.undo(found.target_from_source)
    precision = Precision.of(found.uncertainty, scale=pair.scale, origin=surroundings.scan.origin)
    covariance = precision.about(pose[:3, 3])
    return Fitted(pose, symmetric(covariance), float(np.isfinite(distance).mean()), found.uncertainty.observability)


def carried_covariance(covariance: np.ndarray, arm: np.ndarray) -> np.ndarray:
    """A covariance (6, 6) about one place, of what moves rigidly with it an arm (3,) away."""
    change = np.eye(6)
    change[3:, :3] = -hat(torch.from_numpy(arm)).numpy()
    return change @ covariance @ change.T


def symmetric(matrix: np.ndarray) -> np.ndarray:
    """The same without what rounding left."""
    return (matrix + matrix.T) / 2
