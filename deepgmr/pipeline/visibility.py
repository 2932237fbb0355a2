"""What a sensor saw through is empty: what would stand there contradicts a motion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.clouds import as_point
from deepgmr.pipeline.scan import Pair
from deepgmr.pipeline.settings import VisibilitySettings


@dataclass(frozen=True, eq=False)
class View:
    """A cloud as the sensor saw it that stood at the origin: how far it could see, direction by direction.

    The sphere is cut into rings of equal height, a ring into cells of about equal width.
    """

    origin: Tensor  # (3,) float64, in the frame of the cloud
    size: float  # of a cell, radians
    nearest: Tensor  # (C,) float64: as far as all was seen through, in a cell and those about it; infinite: none looked
    settings: VisibilitySettings

    @classmethod
    def of(cls, points: np.ndarray, origin: np.ndarray, settings: VisibilitySettings) -> View:
        """The view of points (N, 3) from an origin (3,); the cells follow their angular spacing.

        A cell that holds nothing says nothing. In one that does, all was seen through up to the nearest of its points and
        of those a cell away, so that neither edges nor surfaces that are seen at a slant contradict their neighbours.
        """
        offset = points - origin
        distance = np.linalg.norm(offset, axis=1)
        offset, distance = offset[distance > 0], distance[distance > 0]
        size = _cell_size(offset / distance[:, None], settings)
        own = np.full(_cells_of_rings(size).sum(), np.inf)
        np.minimum.at(own, _cells(offset, size), distance)
        held = np.flatnonzero(np.isfinite(own))
        nearest = np.full(len(own), np.inf)
        nearest[held] = np.min([own[beside] for beside in _beside(held, size)], axis=0)
        return cls(torch.from_numpy(origin), size, torch.from_numpy(nearest), settings)

    def seen_through(self, motions: RigidTransform, points: Tensor, spacing: float) -> Tensor:
        """The share (H,) of points (J, 3), moved into the frame of the view, that stand in space it saw through.

        Of those that stand where it looked; nearer than what was seen there by more than a margin: some spacings, for
        what the points stand for, and a share of the range, for what the motion may be off.
        """
        settings = self.settings
        offset = (motions.to(torch.float64).apply(points.double()) - self.origin).numpy()  # (H, J, 3)
        nearest = self.nearest[torch.from_numpy(_cells(offset, self.size))]
        looked = nearest.isfinite()
        reach = (1 - settings.share) * nearest - settings.margin * spacing
        through = looked & (torch.from_numpy(np.linalg.norm(offset, axis=-1)) < reach)
        return through.sum(-1) / (looked.sum(-1) + settings.belief * points.shape[0])


Views = tuple[View | None, View | None]  # of the source and the target, where it is known from where they were seen


def seen_through(motions: RigidTransform, source: Tensor, target: Tensor, views: Views, spacing: float) -> Tensor:
    """The share (H,) of source (J, 3) and target (K, 3) points that stand in space which the other's sensor saw through.

    The mean of the sides whose view is known; zero if none is.
    """
    of_source, of_target = views
    shares = [] if of_target is None else [of_target.seen_through(motions, source, spacing)]
    shares += [] if of_source is None else [of_source.seen_through(motions.inverse(), target, spacing)]
    return torch.stack(shares).mean(0) if shares else motions.translation.new_zeros(motions.translation.shape[:1])


def _cell_size(directions: np.ndarray, settings: VisibilitySettings) -> float:
    """The side of cells of which half, each about one of the directions (N, 3), hold as many others as they should."""
    asked = directions[:: max(1, len(directions) // settings.probes)]
    rank = min(settings.per_cell + 1, len(directions))
    chord = float(np.median(cKDTree(directions).query(asked, [rank])[0])) if len(directions) else math.inf
    return float(np.clip(math.sqrt(math.pi) * chord, settings.finest, settings.coarsest))


def _cells_of_rings(size: float) -> np.ndarray:
    """(R,) how many cells every ring has, from pole to pole."""
    middle = (np.arange(math.ceil(math.pi / size)) + 0.5) * size
    return np.maximum(1, np.ceil(2 * math.pi * np.sin(np.minimum(middle, math.pi)) / size)).astype(np.int64)


def _cells(offset: np.ndarray, size: float) -> np.ndarray:
    """The cell (*B) in whose direction an offset (*B, 3) lies."""
    counts = _cells_of_rings(size)
    x, y, z = np.moveaxis(offset, -1, 0)
    ring = np.minimum(np.arctan2(np.hypot(x, y), z) / size, len(counts) - 1).astype(np.int64)
    along = (np.arctan2(y, x) / (2 * math.pi)) % 1.0
    column = np.minimum(along * counts[ring], counts[ring] - 1).astype(np.int64)
    return (np.cumsum(counts) - counts)[ring] + column


def _beside(cells: np.ndarray, size: float) -> Iterator[np.ndarray]:
    """Nine times (C,): the cells themselves, and those above, below and to either side of them."""
    counts = _cells_of_rings(size)
    first = np.cumsum(counts) - counts
    ring = np.searchsorted(first, cells, side="right") - 1
    for there in (np.maximum(ring - 1, 0), ring, np.minimum(ring + 1, len(counts) - 1)):
        for over in (-0.5, 0.5, 1.5):
            turn = ((cells - first[ring] + over) / counts[ring]) % 1.0
            yield first[there] + np.minimum(turn * counts[there], counts[there] - 1).astype(np.int64)


def views_of(pair: Pair, settings: VisibilitySettings, **origins: Any) -> Views:
    """Both clouds as their sensors saw them, where it is known from where."""
    views: list[View | None] = []
    for (name, origin), scan in zip(origins.items(), (pair.source, pair.target), strict=True):
        if origin is None:
            views.append(None)
            continue
        place = scan.factor * as_point(origin, name)
        views.append(View.of(scan.heaps.means / pair.scale, (place - scan.origin) / pair.scale, settings))
    return views[0], views[1]
