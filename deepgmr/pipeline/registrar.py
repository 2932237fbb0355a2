"""The algorithm box: from two clouds to a motion, a confidence and a covariance."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deepgmr.errors import InvalidCloud, InvalidConfig
from deepgmr.geometry.transform import RigidTransform, rigid_matrix
from deepgmr.io import read_cloud, read_transform
from deepgmr.pipeline.agree import consistent_motions
from deepgmr.pipeline.answer import Alternative, Registration, Stats
from deepgmr.pipeline.bundle import Bundle, whole_network
from deepgmr.pipeline.clouds import as_point, as_points, check_units, size_note
from deepgmr.pipeline.detail import sharpen
from deepgmr.pipeline.judge import Evidence, Status, judge, weigh
from deepgmr.pipeline.polish import Polished, polish
from deepgmr.pipeline.precision import Precision
from deepgmr.pipeline.propose.descriptors import describe
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.propose.grid import coarse, grid_motions
from deepgmr.pipeline.propose.learned import match_nodes
from deepgmr.pipeline.propose.matches import Matches, match
from deepgmr.pipeline.propose.mixtures import mixture_motion
from deepgmr.pipeline.rank import Terms, accidents, distinct, first_look, measure
from deepgmr.pipeline.refine import refine
from deepgmr.pipeline.scan import Level, Pair, Scan
from deepgmr.pipeline.settings import LookSettings, Settings, preset
from deepgmr.pipeline.trace import Clock, Look, Met, Search, Trace, joined
from deepgmr.pipeline.visibility import View, Views
from deepgmr.threads import one_thread

Progress = Callable[[str, float], None]

_OTHER_FRONT_END = (
    "the settings under `scan` are not those of the bundle: neither its network nor its confidence was made for them"
)
_TRIED = ("given", "as they are", "correlated")  # rooms whose motions are refined whatever the first look says
_LEAST = 3  # places that a cloud must hold


class Registrar:
    """A bundle ready to register clouds. It is never changed by what it does, and may be shared by threads."""

    def __init__(self, bundle: Bundle, settings: Settings | None = None) -> None:
        self.bundle = bundle
        self.settings = settings or bundle.settings

    @classmethod
    def load(cls, name_or_path: str | Path = "default", *, preset: str = "default") -> Registrar:
        """A bundle by name or path, with the settings it was calibrated with, as a preset changes them.

        Raises `InvalidCheckpoint` for a bundle that cannot be used, `InvalidConfig` for an unknown preset.
        """
        return _loaded(str(name_or_path), preset)

    def replace(self, **changes: Any) -> Registrar:
        """The same bundle with other settings: `registrar.replace(**{"judge.trust": 0.5})`. Raises `InvalidConfig`."""
        return Registrar(self.bundle, self.settings.replace(**changes))

    def prepare(self, cloud: Any, *, role: str = "cloud", drop_invalid: bool = False, seed: int = 0) -> Scan:
        """A cloud, checked and framed once, to be registered as often as wanted; a `Scan` is given back as it is.

        Raises `InvalidCloud`, which knows the `role`, or `InvalidFile`.
        """
        if isinstance(cloud, Scan):
            return cloud
        if isinstance(cloud, str | Path):
            cloud = read_cloud(cloud, seed=seed, properties=False).points
        scan = Scan.of(as_points(cloud, name=role, drop_invalid=drop_invalid, seed=seed), self.settings.scan)
        if len(scan.heaps) < _LEAST:
            raise InvalidCloud(
                f"{role}: the {scan.total} points lie in {len(scan.heaps)} places; a motion needs at least {_LEAST}",
                role=role,
            )
        return scan

    @one_thread()
    def register(
        self,
        source: Any,
        target: Any,
        *,
        initial: Any = None,
        max_rotation_degrees: float | None = None,
        source_origin: Any = None,
        target_origin: Any = None,
        trust: float | None = None,
        seed: int = 0,
        refine: bool = True,
        drop_invalid: bool = False,
        trace: Trace | None = None,
        progress: Progress | None = None,
    ) -> Registration:
        """Find the rigid motion that carries the source onto the target; see `deepgmr.register`."""
        settings, report, clock = self._asked(trust, refine), progress or _silent, Clock()
        report("describing", 0.0)
        with clock("scan"):
            prepared = (
                self.prepare(cloud, role=role, drop_invalid=drop_invalid, seed=seed)
                for role, cloud in (("source", source), ("target", target))
            )
            pair = Pair(*prepared)
            check_units(pair.size_ratio, settings.judge)
            prior = _prior(initial, max_rotation_degrees, pair)
            views = _views(pair, settings, source_origin=source_origin, target_origin=target_origin)
            levels = pair.levels()  # each cloud as a mixture of disks
            search = Search(pair, levels, prior, settings, clock, self.bundle, views)
            search.bundle = self.bundle.seen(detailed=search.detailed)

        report("searching", 0.2)
        for look in _looks(search):  # a harder look only where the ones before leave doubt
            hypotheses = self._propose(look, search)  # matches and rotation grid -> motions in closed form
            candidates = self._refine(look, search, hypotheses)  # local minima of the divergence
            self._rank(search, candidates)  # by the divergence of the moved source from the target, and by gaps
            self._settle(search)  # the foremost again, where there is more detail
            if self._clear(search):
                break

        report("polishing", 0.8)
        answer = self._polish(search)  # at the resolution of the data
        evidence = self._weigh(search, observability=answer.uncertainty.observability)
        status, confidence = judge(evidence, search.bundle.confidence, settings.judge)
        report("done", 1.0)
        if trace is not None:
            trace.search = search
        answered = self._answer(search, answer, evidence, status, confidence)
        return answered if trace is None else dataclasses.replace(answered, search=search)

    def register_batch(self, pairs: Iterable[tuple[Any, Any]], **options: Any) -> list[Registration]:
        """Register many (source, target) pairs with the options of `register`: the same answers as one by one."""
        return [self.register(source, target, **options) for source, target in pairs]

    # -- the steps ---------------------------------------------------------------------------------------------

    def _propose(self, look: LookSettings, search: Search) -> RigidTransform:
        """The motions worth refining (H,), of all the rooms that a look asks."""
        proposed = dict(self._proposed(look, search))
        hypotheses = joined([motions for room, motions in proposed.items() if room not in _TRIED])
        if look.refined and len(hypotheses.rotation):
            with search.clock("first look"):
                scores = first_look(hypotheses, *search.levels, search.settings.rank)
                hypotheses = hypotheses[_distinct_hypotheses(hypotheses, scores, look.refined, search)]
        tried = [room for room in _TRIED if room != "correlated" or room not in _precise(search)]
        hypotheses = joined([*(proposed[room] for room in tried if room in proposed), hypotheses])
        search.looks.append(Look(look, proposed, hypotheses, hypotheses[:0], Terms.none()))
        return hypotheses

    def _proposed(self, look: LookSettings, search: Search) -> Iterator[tuple[str, RigidTransform]]:
        settings, levels, clock = search.settings, search.levels, search.clock
        if look.mixtures:
            with clock("mixtures"):
                yield "mixtures", mixture_motion(whole_network(), *levels)
        if look.learned:
            with clock("network"):
                found = match_nodes(self.bundle.network, *levels)
            yield "learned", _agreed(found.matches, levels, search, tolerance=settings.agree.slack * found.gap)
        if look.described:
            seen = search.pair.levels(look.detail) if look.detail else levels
            propose, agree = settings.propose, settings.agree
            with clock("histograms"):
                a, b = (describe(level, scales=propose.scales, bins=propose.bins) for level in seen)
                matches = match(a, b, propose)
            tolerance = max(agree.tolerance * max(level.spacing for level in seen), agree.least_tolerance)
            yield "described", _agreed(matches, seen, search, tolerance=tolerance)
        if look.grid:
            propose = settings.propose
            with clock("rotation grid"):
                p, q = (coarse(level, propose) for level in levels)
                motions = grid_motions(
                    p, q, count=look.grid, prior=search.prior, rotations=propose.rotations, blur=propose.blur
                )
            yield "grid", motions
        if look.correlated:
            with clock("correlation"):
                motions, _ = search.correlated
            yield "correlated", motions[: look.correlated]
        if search.prior.initial is not None:
            yield "given", search.prior.initial[None]
        elif look.refined and not search.looks:
            yield "as they are", search.pair.enter(np.eye(4)[None])

    def _refine(self, look: LookSettings, search: Search, hypotheses: RigidTransform) -> RigidTransform:
        if not look.refined or not len(hypotheses.rotation):
            return search.prior.apply(hypotheses)
        settings = search.settings
        with search.clock("refinement"):
            candidates = refine(hypotheses, *search.levels, search.prior, settings.refine)
        near = [motions for room, motions in search.looks[-1].proposed.items() if room in _precise(search)]
        if near:
            with search.clock("detail"):
                spacing = max(level.spacing for level in search.ranked)
                sharpened = sharpen(
                    joined(near),
                    *search.ranked,
                    reach=max(settings.detail.cells * search.correlated[1], spacing),
                    prior=search.prior,
                    settings=settings.detail,
                    refinement=settings.refine,
                )
                candidates = joined([sharpened, candidates])
        return candidates

    def _rank(self, search: Search, candidates: RigidTransform) -> None:
        """Measure the new candidates where there is more detail, and put all of them in order."""
        settings = search.rank
        with search.clock("ranking"):
            terms = measure(candidates, *search.ranked, settings, views=search.views)
            search.looks[-1] = dataclasses.replace(search.looks[-1], candidates=candidates, terms=terms)
            search.terms = Terms.joined([search.terms, terms])
            search.candidates = joined([search.candidates, candidates])

    def _settle(self, search: Search) -> None:
        """Follow the most plausible poses to finer levels until one stands out or the detail ends; weigh the first."""
        settings, rank = search.settings.detail, search.rank
        with search.clock("detail"):
            search.finest, search.poses, search.pose_terms = search.ranked, search.candidates, search.terms
            search.least = 0.0
            self._order(search, rank.poses if not search.detailed else settings.finalists)
            before, least = search.levels, 0.0
            for levels in search.finer(search.levels):
                if before is not search.levels:
                    if len(search.pose_terms) < 2:
                        break
                    # what is bent or noisy meets no more closely than it did
                    unit = max(least, *(level.spacing for level in before))
                    least = settings.noise * unit * math.exp(float(search.pose_terms.misfit[0]))
                    if least > settings.least_gain * unit:
                        break
                poses = sharpen(
                    search.poses,
                    *levels,
                    reach=max(level.spacing for level in before),
                    prior=search.prior,
                    settings=settings,
                    refinement=search.settings.refine,
                )
                search.finest, search.poses, search.least = levels, poses, least
                search.pose_terms = measure(poses, *levels, rank, least=least, views=search.views)
                self._order(search, settings.finalists)
                before = levels
        self._weigh(search)

    def _order(self, search: Search, count: int) -> None:
        """The poses that are different, most plausible first."""
        settings = search.settings
        near = settings.search.same_distance
        if search.detailed:
            near = min(near, settings.detail.same * max(level.spacing for level in search.levels))
        plausibility = search.bundle.ranking.plausibility(search.pose_terms)
        order = distinct(search.poses, plausibility, count, angle=settings.rank.rival_angle, distance=near)
        if search.detailed:
            order = order[plausibility[order] >= plausibility[order[0]] - settings.detail.behind]
        search.poses, search.pose_terms = search.poses[order], search.pose_terms[order]

    def _weigh(self, search: Search, *, observability: float | None = None) -> Evidence:
        """The evidence for the first pose against the others."""
        settings, levels, poses = search.settings, search.levels, search.poses
        before = None if observability is None else search.evidence  # of the same pose, before it was polished
        with search.clock("judgement"):
            known = settings.judge.typical_observability if observability is None else observability
            evidence = weigh(
                poses, search.pose_terms, search.bundle.ranking, levels[0], settings.rank, observability=known
            )
            if not any(look.settings.refined for look in search.looks):  # nobody looked for a rival
                evidence = dataclasses.replace(evidence, share=min(evidence.share, settings.judge.unrivalled))
            if before is not None and math.isfinite(before.accidents):  # the polish makes the meeting no rarer
                evidence = dataclasses.replace(evidence, accidents=before.accidents)
            elif observability is not None or self._sure(evidence, search):  # else nothing hangs on it
                chance = accidents(poses[0], *levels, settings.rank, settings.accidents)
                evidence = dataclasses.replace(evidence, accidents=chance)
        search.evidence = evidence
        return evidence

    def _clear(self, search: Search) -> bool:
        """Whether a harder look has nothing to add: one pose stands out, and is sure or explains all of both clouds."""
        evidence, settings = search.evidence, search.settings
        if evidence is None or min(map(len, search.levels)) <= settings.search.few:
            return False
        whole = min(evidence.source_overlap, evidence.target_overlap) > settings.search.whole
        whole = whole and not search.detailed  # a room turned round overlaps wholly, too
        return evidence.margin >= settings.judge.tied and (whole or self._sure(evidence, search))

    def _sure(self, evidence: Evidence, search: Search) -> bool:
        settings = search.settings
        clear = settings.search.clear if not search.detailed else settings.search.clear_detailed
        return search.bundle.confidence.probability(evidence, settings.judge) > clear

    def _polish(self, search: Search) -> Polished:
        """The winner at the resolution of the data; it takes its own place among the candidates."""
        settings = search.settings
        reached = search.levels if not search.detailed or search.finest is None else search.finest
        with search.clock("polish"):
            answer = polish(
                *search.fine(settings.polish.components),
                search.poses[0],
                sparse=reached[0].balanced(settings.detail.moved),
                reach=settings.polish.reach * max(level.spacing for level in reached),
                settings=settings.polish,
                refinement=settings.refine,
            )
            final = answer.target_from_source[None]
            search.poses = joined([final, search.poses[1:]])
            assert search.finest is not None
            polished = measure(final, *search.finest, search.rank, least=search.least, views=search.views)
            search.pose_terms = Terms.joined([polished, search.pose_terms[1:]])
            every = dataclasses.replace(search.rank, asked=len(search.finest[0]) + len(search.finest[1]))
            whole = polished if not search.detailed else measure(final, *search.ranked, every)
            search.overlap = float(whole.source_overlap)
        return answer

    def _answer(
        self, search: Search, answer: Polished, evidence: Evidence, status: Status, confidence: float
    ) -> Registration:
        pair, settings = search.pair, search.settings
        rivals = slice(1, settings.judge.rivals + 1)
        others = zip(pair.undo(search.poses[rivals]), search.pose_terms.score[rivals].tolist(), strict=True)
        units = size_note(pair.size_ratio, settings.judge, doubtful=status is not Status.OK)
        precision = Precision.of(answer.uncertainty, scale=pair.scale, origin=pair.target.origin)
        return Registration(
            target_from_source=pair.undo(answer.target_from_source),
            confidence=confidence,
            covariance=precision.about(np.zeros(3)),
            overlap=search.overlap,
            status=status,
            sentence=status.sentence if units is None or status is Status.OK else units,
            score=evidence.score,
            evidence=evidence,
            precision=precision,
            stats=Stats(
                looks=len(search.looks),
                hypotheses=len(search.terms),
                components=(len(search.levels[0]), len(search.levels[1])),
                milliseconds=search.clock.milliseconds,
                bundle=self.bundle.id,
            ),
            alternatives=tuple(Alternative(matrix, score) for matrix, score in others),
            sketch=_sketch(search, answer.target_from_source),
            notes=(
                *([units] if units else []),
                *_notes(source=pair.source, target=pair.target),
                *([] if settings.scan == self.bundle.settings.scan else [_OTHER_FRONT_END]),
            ),
        )

    def _asked(self, trust: float | None, refine: bool) -> Settings:
        settings = self.settings
        if trust is not None:
            if not 0 <= trust <= 1:
                raise InvalidConfig(f"trust must be a probability in [0, 1], got {trust}")
            settings = dataclasses.replace(settings, judge=dataclasses.replace(settings.judge, trust=float(trust)))
        if not refine:
            settings = dataclasses.replace(settings, polish=dataclasses.replace(settings.polish, iterations=0))
        return settings


@functools.cache
def _loaded(name: str, preset_name: str) -> Registrar:
    bundle = Bundle.load(name)
    return Registrar(bundle, preset(preset_name, bundle.settings))


def register(source: Any, target: Any, **options: Any) -> Registration:
    """Find the rigid motion that carries the source onto the target: any pose, any unit, partial overlap.

    source, target        (N, 3) and (M, 3) arrays or tensors, Open3D or trimesh clouds or meshes, paths, or a `Scan`
    initial               (4, 4) array or tensor, `RigidTransform` or path: a motion to consider beside those found
    max_rotation_degrees  the answer turns no further than this from `initial` (without it, from no turn at all)
    source_origin, target_origin  (3,) where the sensor stood that saw the whole cloud, in its frame and units: nothing
                          of the other cloud can stand where it saw through
    trust                 the confidence from which an answer is one to act on; by default .9
    seed                  of the points drawn on meshes; clouds need no chance
    refine                False leaves out the polish at the resolution of the data
    drop_invalid          leave out points with NaN or infinite coordinates instead of raising
    trace                 a `Trace`, which then holds what was proposed, what became of it, and where the time went;
                          the answer can then be shown: `Registration.report`
    progress              called with (stage, fraction done)

    `Registrar.load("default").register`, in short. Deterministic, whatever the order of the points. Raises
    `InvalidCloud`, `InvalidFile`, `InvalidTransform` or `InvalidConfig` for input that cannot be used; geometry that
    cannot be answered is answered, with its `status`.
    """
    return Registrar.load("default").register(source, target, **options)


def register_batch(pairs: Iterable[tuple[Any, Any]], **options: Any) -> list[Registration]:
    """Register many (source, target) pairs with the options of `register`: the same answers as one by one."""
    return Registrar.load("default").register_batch(pairs, **options)


def _silent(stage: str, done: float) -> None:
    pass


def _looks(search: Search) -> Iterator[LookSettings]:
    """Those that could find more than the first."""
    settings, scans = search.settings.search, (search.pair.source, search.pair.target)
    points, ratio = max(len(scan.heaps) for scan in scans), search.pair.size_ratio
    for number, look in enumerate(settings.looks if not search.detailed else settings.detailed):
        if number and max(ratio, 1 / ratio) > settings.unlike:
            return  # no look finds the motion between millimetres and inches
        if look.detail and points < settings.finer * max(map(len, search.levels)):
            continue  # there is no finer detail to look at
        yield look


def _precise(search: Search) -> tuple[str, ...]:
    """The rooms whose motions are so near that a wide fit of few components would only spoil them."""
    if not search.detailed:
        return ()
    reach = search.settings.refine.reaches[-1] * max(level.spacing for level in search.levels)
    peaks = 0 < search.settings.detail.cells * search.correlated[1] <= reach
    return _TRIED if peaks else _TRIED[:2]


def _agreed(matches: Matches, levels: tuple[Level, Level], search: Search, *, tolerance: float) -> RigidTransform:
    """The motions (H,) that matches agree on."""
    settings = search.settings.agree
    search.matches.append(Met.of(len(search.looks), matches, levels, tolerance))
    with search.clock("consistency"):
        motions, agreement = consistent_motions(matches, *levels, search.prior, settings, tolerance=tolerance)
        return motions[_distinct_hypotheses(motions, agreement, settings.kept, search)]


def _distinct_hypotheses(motions: RigidTransform, scores: Tensor, count: int, search: Search) -> Tensor:
    settings = search.settings.search
    return distinct(motions, scores, count, angle=settings.same_angle, distance=settings.same_distance)


def _prior(initial: Any, max_rotation_degrees: float | None, pair: Pair) -> Prior:
    degrees = 180.0 if max_rotation_degrees is None else float(max_rotation_degrees)
    if not 0 < degrees <= 180:
        raise InvalidConfig(f"max_rotation_degrees must be in (0, 180], got {max_rotation_degrees}")
    if initial is None:
        return Prior(None, math.radians(degrees))
    if isinstance(initial, str | Path):
        initial = read_transform(initial)
    return Prior(pair.enter(rigid_matrix(initial, "initial")), math.radians(degrees))


def _views(pair: Pair, settings: Settings, **origins: Any) -> Views:
    """Both clouds as their sensors saw them, where it is known from where."""
    views: list[View | None] = []
    for (name, origin), scan in zip(origins.items(), (pair.source, pair.target), strict=True):
        if origin is None:
            views.append(None)
            continue
        place = as_point(origin, name)
        views.append(View.of(scan.heaps.means / pair.scale, (place - scan.origin) / pair.scale, settings.visibility))
    return views[0], views[1]


def _sketch(search: Search, motion: RigidTransform) -> tuple[np.ndarray, np.ndarray]:
    """The components of the moved source (J, 3) and of the target (K, 3), float32."""
    source, target = (level.means for level in search.levels)
    return motion.to(source.dtype).apply(source).numpy(), target.numpy()


def _notes(**scans: Scan) -> Iterator[str]:
    """What was odd about the clouds."""
    for role, scan in scans.items():
        if scan.far:
            yield f"{scan.far:,} points of the {role} lie far outside the rest and were left out"
        if scan.coarse is not None:
            yield (
                f"the coordinates of the {role} come in steps of {scan.coarse:g}, all that float32 keeps so far from the "
                "origin; subtract an offset in double precision before storing them as float32"
            )
