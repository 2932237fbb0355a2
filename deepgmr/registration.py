"""`register`: from two clouds to a motion, a confidence and a covariance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr import search
from deepgmr.clouds import Frame, as_points, check_units, size_ratio
from deepgmr.confidence import Evidence, Status, confidence, judge
from deepgmr.errors import InvalidConfig, InvalidTransform
from deepgmr.files import read_cloud, read_transform
from deepgmr.mixture import GaussianMixture
from deepgmr.networks.features import farthest_points
from deepgmr.refine import Polish, covariance_of, polish, refine_together
from deepgmr.search import Prior
from deepgmr.surface import Surface, surfaces
from deepgmr.transform import RigidTransform, hat

Progress = Callable[[str, float], None]

_FROM_MATCHES = 48  # hypotheses that get a first look
_SAME_ANGLE, _SAME_DISTANCE = 0.26, 0.1  # hypotheses within 15 degrees and a tenth of the pair's size are one
_RIVAL_ANGLE = 0.17  # answers more than 10 degrees apart are different answers
_RIVALS = 5
_MIXTURE = 24  # components of the mixtures whose overlap scores the rotation grid
_SIZE_NOTE = 10.0


@dataclass(frozen=True)
class _Effort:
    scales: tuple[int, int]  # neighbours in the patches that are described
    grid: int  # hypotheses from the rotation grid
    refined: int  # hypotheses that are refined


_EFFORTS = (_Effort((24, 64), 0, 8), _Effort((16, 40), 12, 24))
_CLEAR, _WHOLE = 0.8, 0.9  # confidence, or overlap, that needs no second look
_FEW = 50  # components up to which everything is tried: it costs nothing
_TYPICAL = 0.1  # observability, before it is measured


@dataclass(frozen=True)
class Alternative:
    """Another motion that explains the clouds."""

    target_from_source: np.ndarray  # (4, 4) float64
    score: float  # in [0, 1], to be compared with `Registration.score`


@dataclass(frozen=True)
class Registration:
    """The answer, and how far to trust it. Lengths are in the units of the input."""

    target_from_source: np.ndarray  # (4, 4) float64: x_target = R x_source + t
    confidence: float  # probability in [0, 1] that the answer is right
    covariance: np.ndarray  # (6, 6) of (rotation vector [rad], translation), left perturbation in the target frame
    overlap: float  # estimated share of source points that have a counterpart in the target
    status: Status
    score: float  # one minus the divergence of the aligned surfaces, as a share of its largest value
    evidence: Evidence
    alternatives: tuple[Alternative, ...] = ()  # best first
    notes: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether the answer is one to act on: the status is `Status.OK`."""
        return self.status is Status.OK


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
    initial               (4, 4) array or path: a motion to consider beside those that are found
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
    check_units(source, target)
    frame = Frame.of(source, target)
    prior = _prior(initial, max_rotation_degrees, frame)
    x, y = frame.source(source, dtype=torch.float64).numpy(), frame.target(target, dtype=torch.float64).numpy()

    report("describing", 0.0)
    p, q = surfaces(x, y)  # each cloud as a mixture of disks
    report("searching", 0.2)
    candidates = RigidTransform.identity((0,), dtype=torch.float64)
    for effort in _EFFORTS:  # a harder look only where the first one leaves doubt
        hypotheses = _propose(p, q, prior, effort)  # matches and rotation grid -> motions in closed form
        candidates = _joined([candidates, refine_together(hypotheses, p, q, prior)])
        ranking = search.rank(candidates, p, q)  # by the divergence of the moved source from the target
        order = search.distinct(candidates, ranking.scores, _RIVALS + 1, angle=_RIVAL_ANGLE, distance=_SAME_DISTANCE)
        if min(len(p), len(q)) > _FEW and _clear(ranking, order):
            break
    best = candidates[int(order[0])]
    report("polishing", 0.8)
    answer = polish(x, y, best, reach=2 * max(p.spacing, q.spacing), iterations=10 if refine else 0)
    report("done", 1.0)

    evidence = _evidence(ranking, order, observability=answer.observability)
    status, probability = judge(evidence)
    alternatives = zip(frame.undo(candidates[order[1:]]), ranking.scores[order[1:]].tolist(), strict=True)
    return Registration(
        target_from_source=frame.undo(answer.target_from_source),
        confidence=probability,
        covariance=_covariance(answer, frame),
        overlap=evidence.source_overlap,
        status=status,
        score=evidence.score,
        evidence=evidence,
        alternatives=tuple(Alternative(matrix, score) for matrix, score in alternatives),
        notes=_notes(source, target),
    )


def register_batch(pairs: Iterable[tuple[Any, Any]], **options: Any) -> list[Registration]:
    """Register many (source, target) pairs with the options of `register`: the same answers as one by one."""
    return [register(source, target, **options) for source, target in pairs]


# -- the steps -----------------------------------------------------------------------------------------------


def _propose(source: Surface, target: Surface, prior: Prior, effort: _Effort) -> RigidTransform:
    """The motions worth refining (H,): from matched descriptors, from the rotation grid, and from the caller."""
    matches = search.match(*(search.describe(surface, scales=effort.scales) for surface in (source, target)))
    matched, agreement = search.consistent_motions(matches, source, target, prior)
    few = search.distinct(matched, agreement, _FROM_MATCHES, angle=_SAME_ANGLE, distance=_SAME_DISTANCE)
    pool = [matched[few]]
    if effort.grid:
        pool.append(search.grid_motions(_coarse(source), _coarse(target), count=effort.grid, prior=prior))
    if prior.initial is not None:
        pool.append(prior.initial[None])
    hypotheses = _joined(pool)
    scores = search.first_look(hypotheses, source, target)
    return hypotheses[search.distinct(hypotheses, scores, effort.refined, angle=_SAME_ANGLE, distance=_SAME_DISTANCE)]


def _joined(motions: list[RigidTransform]) -> RigidTransform:
    return RigidTransform(torch.cat([m.rotation for m in motions]), torch.cat([m.translation for m in motions]))


def _clear(ranking: search.Ranking, order: torch.Tensor) -> bool:
    """Whether a harder look has nothing to add: the winner stands out, or alone explains all of both clouds."""
    evidence = _evidence(ranking, order, observability=_TYPICAL)
    whole = min(evidence.source_overlap, evidence.target_overlap) > _WHOLE and not evidence.tied
    return whole or confidence(evidence) > _CLEAR


def _coarse(surface: Surface) -> GaussianMixture:
    count = min(_MIXTURE, len(surface))
    seeds = surface.points[farthest_points(surface.points[None], count)[0]]
    return GaussianMixture.fit(surface.points, count, initial_means=seeds, max_iterations=2, floor=1e-4).mixture


def _evidence(ranking: search.Ranking, order: torch.Tensor, *, observability: float) -> Evidence:
    best = int(order[0])
    return Evidence(
        score=float(ranking.scores[best]),
        rival=float(ranking.scores[order[1]]) if len(order) > 1 else 0.0,
        source_overlap=float(ranking.source_overlap[best]),
        target_overlap=float(ranking.target_overlap[best]),
        observability=observability,
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
        cloud = read_cloud(cloud).points
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
    matrix = np.asarray(initial, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise InvalidTransform(f"initial must be a 4x4 rigid matrix, got shape {matrix.shape}")
    return Prior(frame.enter(matrix), math.radians(degrees))


def _notes(source: np.ndarray, target: np.ndarray) -> tuple[str, ...]:
    ratio = size_ratio(source, target)
    if 1 / _SIZE_NOTE < ratio < _SIZE_NOTE:
        return ()
    return (f"the source is {ratio:.3g} times the size of the target; if that surprises you, check the units",)
