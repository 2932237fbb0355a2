"""What is to be seen of a registration, as arrays: thinned clouds, poses, residuals, components and matches.

One frame for everything: input units, about the centre of the target; the source about its own centre, to which the
motion of a pose is applied. So nothing large remains for float32 to round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deepgmr.errors import InvalidInput
from deepgmr.pipeline.answer import Registration
from deepgmr.pipeline.scan import Level, Scan
from deepgmr.pipeline.trace import Search

POINTS = 40_000  # of a cloud that are drawn
MATCHES = 600  # proposed matches that are drawn
_APART = 3.0  # sizes between two clouds that are drawn where they lie; others are drawn this far apart


@dataclass(frozen=True, eq=False)
class Cloud:
    """One cloud as it is drawn."""

    role: str
    points: np.ndarray  # (N, 3) float64, about `origin`
    normals: np.ndarray  # (N, 3) float64, unit, of either sign
    origin: np.ndarray  # (3,) float64: its centre, in the coordinates of the input
    total: int  # points that count; each of `points` is the mean of those in one cell
    components: np.ndarray  # (J, 3) float64: the mixture that was searched
    axes: np.ndarray  # (J, 3, 3) float64: the roots of the covariances, one standard deviation

    @property
    def thinned(self) -> bool:
        return len(self.points) < self.total


@dataclass(frozen=True, eq=False)
class Pose:
    """The source in one place, and how it meets the target there."""

    name: str
    score: float  # in [0, 1]
    overlap: float  # share of source components that have a counterpart
    motion: np.ndarray  # (4, 4) float64, in the frame of the scene
    matrix: np.ndarray  # (4, 4) float64, in the coordinates of the input
    source_gaps: np.ndarray  # (N,) float64: distance to the other surface, infinite without a counterpart
    target_gaps: np.ndarray  # (M,)

    @property
    def gaps(self) -> np.ndarray:
        """Of the source points that have a counterpart."""
        return self.source_gaps[np.isfinite(self.source_gaps)]


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that the views show."""

    result: Registration
    search: Search
    source: Cloud
    target: Cloud
    before: np.ndarray  # (4, 4): where the source lay, moved nearer if it was far away
    moved_nearer: float  # input units; zero where the clouds are drawn as they were
    poses: tuple[Pose, ...]  # the answer, then the alternatives
    reach: float  # input units: no counterpart is looked for beyond it
    match_ends: tuple[np.ndarray, np.ndarray]  # (K, 3) and (K, 3) float64: proposed matches, of source and target
    match_tolerance: np.ndarray  # (K,) input units: from which on a match contradicts a motion
    matches_proposed: int
    view: tuple[float, float]  # azimuth and elevation (rad) from which most is seen

    @classmethod
    def of(cls, result: Registration, *, points: int = POINTS, rivals: bool = True) -> Scene:
        """The scene of an answer that was registered with `trace=`, with its alternatives or without.

        Of either cloud about so many points are drawn at most. Raises `InvalidInput` for an answer without a trace.
        """
        search = result.search
        if not isinstance(search, Search):
            raise InvalidInput(
                "this answer kept nothing that could be shown; register with trace=deepgmr.Trace(), then report"
            )
        pair, scale = search.pair, search.pair.scale
        fine = pair.fine(points, search.settings.detail.neighbours)
        source, target = (
            _cloud(role, scan, level, coarse, scale)
            for role, scan, level, coarse in zip(
                ("source", "target"), (pair.source, pair.target), fine, search.levels, strict=True
            )
        )
        spacing = max(level.spacing for level in search.levels)
        reach = search.settings.rank.seen * spacing
        overlaps = search.pose_terms.source_overlap.tolist()
        named = [("answer", result.score, result.overlap, result.target_from_source)]
        named += [
            (f"alternative {number}", other.score, overlaps[number], other.target_from_source)
            for number, other in enumerate(result.alternatives if rivals else (), 1)
        ]
        poses = tuple(_pose(search, fine, reach, *each) for each in named)
        before, nearer = _before(pair.source.origin - pair.target.origin, scale)
        ends, tolerance, proposed = _matches(search)
        moved = source.components @ poses[0].motion[:3, :3].T + poses[0].motion[:3, 3]
        return cls(
            result=result,
            search=search,
            source=source,
            target=target,
            before=before,
            moved_nearer=nearer,
            poses=poses,
            reach=reach * scale,
            match_ends=ends,
            match_tolerance=tolerance,
            matches_proposed=proposed,
            view=widest_view(np.concatenate([moved, target.components])),
        )

    @property
    def answer(self) -> Pose:
        return self.poses[0]

    def agreeing(self, pose: Pose) -> np.ndarray:
        """Which of the proposed matches (K,) a pose brings together."""
        source, target = self.match_ends
        gap = source @ pose.motion[:3, :3].T + pose.motion[:3, 3] - target
        return np.linalg.norm(gap, axis=1) <= self.match_tolerance


def moved(motion: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) under a motion (4, 4)."""
    return points @ motion[:3, :3].T + motion[:3, 3]


def widest_view(points: np.ndarray) -> tuple[float, float]:
    """Azimuth and elevation (rad) of the view, from half above the horizon, in which points (N, 3) spread most."""
    elevation = np.radians(32.0)
    centred = points - points.mean(axis=0)
    azimuths = np.radians(np.arange(-50.0, 310.0, 45.0))
    spread = []
    for azimuth in azimuths:
        right, up, _ = view_axes(float(azimuth), float(elevation))
        flat = centred @ np.stack([right, up]).T
        spread.append(float(np.linalg.det(flat.T @ flat)))
    return float(azimuths[int(np.argmax(spread))]), float(elevation)


def spacing(points: np.ndarray) -> float:
    """About how far apart points (N, 3) lie on the surface that they cover, in their unit; visible where they are few."""
    size = float(np.ptp(points, axis=0).max()) or 1.0
    cells = np.unique(np.floor((points - points.min(axis=0)) / (size / 80)).astype(np.int64), axis=0)
    return min(size / 80 * math.sqrt(len(cells) / len(points)), size / 60)


def view_axes(azimuth: float, elevation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors to the right of, up in, and out of a picture seen from azimuth and elevation (rad); z is up."""
    out = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return right, np.cross(out, right), out


def _cloud(role: str, scan: Scan, level: Level, coarse: Level, scale: float) -> Cloud:
    mixture = coarse.mixture
    values, vectors = np.linalg.eigh(mixture.covariances.double().numpy())
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :] @ vectors.swapaxes(1, 2)
    return Cloud(role, scale * level.points, level.axes, scan.origin, scan.total, scale * coarse.points, scale * roots)


def _pose(
    search: Search,
    fine: tuple[Level, Level],
    reach: float,
    name: str,
    score: float,
    overlap: float,
    matrix: np.ndarray,
) -> Pose:
    """How the clouds meet under a motion (4, 4) in input coordinates; `reach` in the frame of the pair."""
    pair = search.pair
    motion = pair.enter(matrix).matrix.numpy()
    back = np.linalg.inv(motion)
    source, target = fine
    gaps = [_gaps(source, target, motion, reach), _gaps(target, source, back, reach)]
    inside = motion.copy()
    inside[:3, 3] *= pair.scale
    return Pose(name, score, overlap, inside, matrix, *(pair.scale * gap for gap in gaps))


def _gaps(source: Level, target: Level, motion: np.ndarray, reach: float) -> np.ndarray:
    """Distance (N,) of the moved points to the tangent plane of the nearest, infinite beyond the reach."""
    points = moved(motion, source.points)
    distance, nearest = target.tree.within(points, reach)
    across = np.abs(((points - target.points[nearest]) * target.axes[nearest]).sum(axis=1))
    return np.where(np.isfinite(distance), across, np.inf)


def _before(offset: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """Where the source lay, but no further than `_APART` sizes; and by how much that is nearer than it was."""
    distance = float(np.linalg.norm(offset))
    shown = min(distance, _APART * scale)
    place = np.eye(4)
    place[:3, 3] = offset * (shown / distance) if distance > 0 else 0.0
    return place, distance - shown


def _matches(search: Search) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, int]:
    """The best proposed matches of every look, in turn, and how many there were."""
    rows = [
        (rank, number, met.source[rank], met.target[rank], met.tolerance)
        for number, met in enumerate(search.matches)
        for rank in range(min(len(met.source), MATCHES))
    ]
    rows = sorted(rows, key=lambda row: row[:2])[:MATCHES]
    scale, slack = search.pair.scale, search.settings.agree.meeting
    source = np.array([row[2] for row in rows]).reshape(-1, 3) * scale
    target = np.array([row[3] for row in rows]).reshape(-1, 3) * scale
    tolerance = np.array([row[4] for row in rows]).reshape(-1) * scale * slack
    return (source, target), tolerance, sum(len(met.source) for met in search.matches)
