"""`register`: from two clouds to a motion, a confidence and a covariance."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import search
from deepgmr.checkpoint import load
from deepgmr.clouds import (
    UNLIKE_SIZES,
    Frame,
    as_points,
    check_units,
    coarse_step,
    size_note,
    size_ratio,
    without_far,
)
from deepgmr.confidence import Evidence, Status, confidence, judge
from deepgmr.errors import InvalidCheckpoint, InvalidConfig
from deepgmr.files import read_cloud, read_transform
from deepgmr.mixture import GaussianMixture
from deepgmr.networks.features import farthest_points
from deepgmr.networks.overlap import OverlapNetwork
from deepgmr.refine import Polish, covariance_of, polish, refine_together
from deepgmr.search import Prior
from deepgmr.surface import Surface, surfaces
from deepgmr.threads import one_thread
from deepgmr.transform import RigidTransform, hat, rigid_matrix

Progress = Callable[[str, float], None]

_FROM_MATCHES = 48  # hypotheses that get a first look
_SAME_ANGLE, _SAME_DISTANCE = 0.26, 0.1  # hypotheses within 15 degrees and a tenth of the pair's size are one
_RIVAL_ANGLE = 0.17  # answers more than 10 degrees apart are different answers
_RIVALS = 5
_POSES = 12  # different answers that share out the probability
# Of the pair's size, across the surface: up to the first two poses put the source in one place, from the second on not.
_LIKE, _UNLIKE, _ELSEWHERE = 0.01, 0.05, 0.15
_SLACK = 0.4  # how much a right match of two nodes may change a length, in distances between nodes
_MIXTURE = 24  # components of the mixtures whose overlap scores the rotation grid


@dataclass(frozen=True)
class Effort:
    """Where hypotheses come from in one look at a pair, and how many are followed up."""

    learned: bool  # matches of the overlap network
    scales: tuple[int, int] | None  # neighbours in the patches that are described without training
    refined: int  # hypotheses that are refined
    grid: int = 0  # hypotheses from the rotation grid
    detail: int = 0  # components that the search without training sees; 0: those of the surfaces


EFFORTS = (  # one after the other, as long as there is doubt
    Effort(learned=True, scales=None, refined=8),
    Effort(learned=False, scales=(24, 64), refined=24, grid=12),
    Effort(learned=False, scales=(24, 64), refined=24, detail=5000),
)
_CLEAR, _WHOLE = 0.8, 0.9  # confidence, or overlap, that needs no second look
_FINER = 1.5  # times as many points as components, from which a finer look sees more
_FEW = 50  # components up to which everything is tried: it costs nothing
_TYPICAL = 0.1  # observability, before it is measured


@dataclass(frozen=True, eq=False)
class Alternative:
    """Another motion that explains the clouds."""

    target_from_source: np.ndarray  # (4, 4) float64
    score: float  # in [0, 1], to be compared with `Registration.score`


@dataclass(frozen=True, eq=False)
class Registration:
    """The answer, and how far to trust it. Lengths are in the units of the input."""

    target_from_source: np.ndarray  # (4, 4) float64: x_target = R x_source + t
    confidence: float  # probability in [0, 1] that the answer is right, up to the symmetry of the shape
    covariance: np.ndarray  # (6, 6) of (rotation vector [rad], translation), left perturbation in the target frame
    overlap: float  # estimated share of source points that have a counterpart in the target
    status: Status
    sentence: str  # the status in words, and what helps
    score: float  # one minus the divergence of the aligned surfaces, as a share of its largest value
    evidence: Evidence
    alternatives: tuple[Alternative, ...] = ()  # most plausible first: the symmetries of the answer, and its rivals
    notes: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether the answer is one to act on: the status is `Status.OK`."""
        return self.status is Status.OK


@one_thread()
def register(
    source: Any,
    target: Any,
    *,
    initial: Any = None,
    max_rotation_degrees: float | None = None,
    seed: int = 0,
    refine: bool = True,
    drop_invalid: bool = False,
    progress: Progress | None = None,
) -> Registration:
    """Find the rigid motion that carries the source onto the target: any pose, any unit, partial overlap.

    source, target        (N, 3) and (M, 3) arrays or tensors, Open3D or trimesh clouds or meshes, or paths
    initial               (4, 4) array or tensor, `RigidTransform` or path: a motion to consider beside those found
    max_rotation_degrees  the answer turns no further than this from `initial` (without it, from no turn at all)
    seed                  of the points drawn on meshes; clouds need no chance
    refine                False leaves out the polish at full resolution
    drop_invalid          leave out points with NaN or infinite coordinates instead of raising
    progress              called with (stage, fraction done)

    Deterministic, whatever the order of the points. Raises `InvalidCloud`, `InvalidFile`, `InvalidTransform` or
    `InvalidConfig` for input that cannot be used; geometry that cannot be answered is answered, with its `status`.
    """
    report = progress or (lambda stage, done: None)
    source, target = _points(source, "source", drop_invalid, seed), _points(target, "target", drop_invalid, seed)
    (source, source_far), (target, target_far) = without_far(source), without_far(target)
    ratio = size_ratio(source, target)
    check_units(ratio)
    frame = Frame.of(source, target)
    prior = _prior(initial, max_rotation_degrees, frame)
    x, y = frame.source(source, dtype=torch.float64).numpy(), frame.target(target, dtype=torch.float64).numpy()

    report("describing", 0.0)
    p, q = surfaces(x, y)  # each cloud as a mixture of disks
    report("searching", 0.2)
    candidates = RigidTransform.identity((0,), dtype=torch.float64)
    alike = max(ratio, 1 / ratio) < UNLIKE_SIZES  # no look finds the motion between millimetres and inches
    for effort in EFFORTS if alike else EFFORTS[:1]:  # a harder look only where the first one leaves doubt
        if effort.detail and max(len(x), len(y)) < _FINER * max(len(p), len(q)):
            continue  # there is no finer detail to look at
        hypotheses = _propose((x, y), (p, q), prior, effort)  # matches and rotation grid -> motions in closed form
        candidates = _joined([candidates, refine_together(hypotheses, p, q, prior)])
        ranking = search.rank(candidates, p, q)  # by the divergence of the moved source from the target, and by gaps
        order = search.distinct(candidates, ranking.plausibility, _POSES, angle=_RIVAL_ANGLE, distance=_SAME_DISTANCE)
        evidence = _evidence(candidates, ranking, order, p, q)
        if min(len(p), len(q)) > _FEW and _clear(evidence):
            break
    best = candidates[int(order[0])]
    report("polishing", 0.8)
    answer = polish(x, y, best, reach=2 * max(p.spacing, q.spacing), iterations=10 if refine else 0)
    report("done", 1.0)

    evidence = replace(evidence, observability=answer.observability)
    rivals = order[1 : _RIVALS + 1]
    status, probability = judge(evidence)
    units = size_note(ratio, doubtful=status is not Status.OK)
    alternatives = zip(frame.undo(candidates[rivals]), ranking.scores[rivals].tolist(), strict=True)
    return Registration(
        target_from_source=frame.undo(answer.target_from_source),
        confidence=probability,
        covariance=_covariance(answer, frame),
        overlap=evidence.source_overlap,
        status=status,
        sentence=status.sentence if units is None or status is Status.OK else units,
        score=evidence.score,
        evidence=evidence,
        alternatives=tuple(Alternative(matrix, score) for matrix, score in alternatives),
        notes=(
            *([units] if units else []),
            *_left_out(source=source_far, target=target_far),
            *_rounding(source=source, target=target),
        ),
    )


def register_batch(pairs: Iterable[tuple[Any, Any]], **options: Any) -> list[Registration]:
    """Register many (source, target) pairs with the options of `register`: the same answers as one by one."""
    return [register(source, target, **options) for source, target in pairs]


# -- the steps -----------------------------------------------------------------------------------------------


def _propose(
    clouds: tuple[np.ndarray, np.ndarray], pair: tuple[Surface, Surface], prior: Prior, effort: Effort
) -> RigidTransform:
    """The motions worth refining (H,): from matched components, from the rotation grid, and from the caller."""
    pool = []
    if effort.learned:
        found = search.match_nodes(_network(), *pair)
        pool.append(_agreed(found.matches, *pair, prior, tolerance=_SLACK * found.gap))
    if effort.scales is not None:
        seen = surfaces(*clouds, components=effort.detail) if effort.detail else pair
        matches = search.match(*(search.describe(surface, scales=effort.scales) for surface in seen))
        pool.append(_agreed(matches, *seen, prior))
    if effort.grid:
        source, target = (_coarse(surface) for surface in pair)
        pool.append(search.grid_motions(source, target, count=effort.grid, prior=prior))
    if prior.initial is not None:
        pool.append(prior.initial[None])
    hypotheses = _joined(pool)
    scores = search.first_look(hypotheses, *pair)
    return hypotheses[search.distinct(hypotheses, scores, effort.refined, angle=_SAME_ANGLE, distance=_SAME_DISTANCE)]


def _agreed(
    matches: search.Matches, source: Surface, target: Surface, prior: Prior, *, tolerance: float | None = None
) -> RigidTransform:
    motions, agreement = search.consistent_motions(matches, source, target, prior, tolerance=tolerance)
    return motions[search.distinct(motions, agreement, _FROM_MATCHES, angle=_SAME_ANGLE, distance=_SAME_DISTANCE)]


@functools.cache
def _network() -> OverlapNetwork:
    network = load("overlap")
    if not isinstance(network, OverlapNetwork):
        raise InvalidCheckpoint(f"the bundled weights `overlap` hold a {type(network).__name__}; reinstall deepgmr")
    return network


def _joined(motions: list[RigidTransform]) -> RigidTransform:
    return RigidTransform(torch.cat([m.rotation for m in motions]), torch.cat([m.translation for m in motions]))


def _clear(evidence: Evidence) -> bool:
    """Whether a harder look has nothing to add: one pose stands out, and is sure or explains all of both clouds."""
    whole = min(evidence.source_overlap, evidence.target_overlap) > _WHOLE
    return not evidence.tied and (whole or confidence(evidence) > _CLEAR)


def _coarse(surface: Surface) -> GaussianMixture:
    count = min(_MIXTURE, len(surface))
    seeds = surface.points[farthest_points(surface.points[None], count)[0]]
    return GaussianMixture.fit(surface.points, count, initial_means=seeds, max_iterations=2, floor=1e-4).mixture


def _evidence(
    candidates: RigidTransform, ranking: search.Ranking, order: torch.Tensor, source: Surface, target: Surface
) -> Evidence:
    """What speaks for the winner, `order[0]`, against the other poses in `order`, before the polish.

    The poses share out the probability as the plausibilities say; a pose that puts the source where the winner does,
    by a symmetry, counts for the winner.
    """
    best = int(order[0])
    behind = (ranking.plausibility[best] - ranking.plausibility[order]).double()  # nats (P,)
    odds = torch.exp(-behind)
    apart = search.unlikeness(candidates[best], candidates[order], source)
    apart[0] = 0.0
    elsewhere = ((apart - _LIKE) / (_UNLIKE - _LIKE)).clamp(0, 1).double()  # a slight asymmetry counts in part
    for_it, against = float((odds * (1 - elsewhere)).sum()), float((odds * elsewhere).sum())
    return Evidence(
        score=float(ranking.scores[best]),
        standing=math.log(for_it / max(against, 1e-9)),
        share=float(odds[apart <= _ELSEWHERE].sum() / odds.sum()),
        margin=float(behind[1]) if len(order) > 1 else math.inf,
        source_overlap=float(ranking.source_overlap[best]),
        target_overlap=float(ranking.target_overlap[best]),
        misfit=float(ranking.misfit[best]),
        looseness=float(ranking.looseness[best]),
        relief=float(ranking.relief[best]),
        accidents=search.accidents(candidates[best], source, target),
        observability=_TYPICAL,
    )


def _covariance(answer: Polish, frame: Frame) -> np.ndarray:
    """From the frame (about the target's centre, unit scale) to the units and origin of the target.

    A perturbation y -> y + w x y + v there is, in input units, y -> y + w x y + (scale v - w x centre).
    """
    change = np.eye(6)
    change[3:, 3:] *= frame.scale
    change[3:, :3] = hat(torch.from_numpy(frame.target_centre)).numpy()
    covariance = change @ covariance_of(answer.information) @ change.T
    return (covariance + covariance.T) / 2


# -- what comes in -------------------------------------------------------------------------------------------


def _points(cloud: Any, name: str, drop_invalid: bool, seed: int) -> np.ndarray:
    """Checked points in an order that depends on the points alone, so that shuffling them changes nothing."""
    if isinstance(cloud, str | Path):
        cloud = read_cloud(cloud, seed=seed).points
    points = as_points(cloud, name=name, drop_invalid=drop_invalid, seed=seed)
    return points[np.lexsort(points.T)]


def _prior(initial: Any, max_rotation_degrees: float | None, frame: Frame) -> Prior:
    degrees = 180.0 if max_rotation_degrees is None else float(max_rotation_degrees)
    if not 0 < degrees <= 180:
        raise InvalidConfig(f"max_rotation_degrees must be in (0, 180], got {max_rotation_degrees}")
    if initial is None:
        return Prior(None, math.radians(degrees))
    if isinstance(initial, str | Path):
        initial = read_transform(initial)
    matrix = rigid_matrix(initial, "initial")
    return Prior(frame.enter(matrix), math.radians(degrees))


def _left_out(**far: int) -> Iterator[str]:
    for role, count in far.items():
        if count:
            yield f"{count:,} points of the {role} lie far outside the rest and were left out"


def _rounding(**clouds: np.ndarray) -> Iterator[str]:
    for name, points in clouds.items():
        step = coarse_step(points)
        if step is not None:
            yield (
                f"the coordinates of the {name} come in steps of {step:g}, all that float32 keeps at "
                f"{np.abs(points).max():.3g}; subtract an offset in double precision before storing them as float32"
            )
