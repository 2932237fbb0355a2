"""The foremost pose: followed to finer levels, weighed against the others, and polished once nothing else may beat it."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch

from deepgmr.errors import TimedOut
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.detail import sharpen
from deepgmr.pipeline.judge import Evidence, weigh
from deepgmr.pipeline.polish import Polished, polish
from deepgmr.pipeline.rank import Terms, accidents, distinct, measure, met
from deepgmr.pipeline.trace import Search, joined
from deepgmr.pipeline.uncertainty import observability


def settle(search: Search) -> None:
    """Follow the most plausible poses to finer levels until one stands out or the detail ends; weigh the first."""
    settings, rank = search.settings.detail, search.rank
    with search.clock("detail"):
        search.finest, search.poses, search.pose_terms = search.ranked, search.candidates, search.terms
        search.least = 0.0
        _order(search, rank.poses if not search.detailed else settings.finalists)
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
            search.pose_terms = measure(poses, *levels, rank, least=least, views=search.views, learned=search.learned)
            _order(search, settings.finalists)
            before = levels
    evidence = weigh_first(search)
    search.looks[-1] = replace(search.looks[-1], pose=search.poses[0], evidence=evidence)


def _order(search: Search, count: int) -> None:
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


def weigh_first(search: Search, *, observed: float | None = None) -> Evidence:
    """The evidence for the first pose against the others."""
    settings, levels, poses, before = search.settings, search.levels, search.poses, search.evidence
    if observed is None:
        before = None
    elif before is not None and search.detailed:  # its rivals are as sharp as it was: it is not to gain on them
        search.evidence = replace(before, observability=observed)
        return search.evidence
    with search.clock("judgement"):
        known = settings.judge.typical_observability if observed is None else observed
        if observed is None and search.detailed:
            radius = settings.rank.seen * max(level.spacing for level in search.ranked)
            known = observability(*search.ranked, poses[0], radius=radius)
        evidence = weigh(
            poses,
            search.pose_terms,
            search.bundle.ranking,
            search.ranked,
            settings.rank,
            detailed=search.detailed,
            observability=known,
            matched=settings.judge.typical_matched if search.learned is None else None,
        )
        if not any(look.settings.refined for look in search.looks):  # nobody looked for a rival
            evidence = replace(evidence, share=min(evidence.share, settings.judge.unrivalled))
        if before is not None and math.isfinite(before.accidents):  # the polish makes the meeting no rarer
            evidence = replace(evidence, accidents=before.accidents)
        elif observed is not None or _sure(evidence, search):  # else nothing hangs on it
            chance = accidents(poses[0], *levels, settings.rank, settings.accidents)
            evidence = replace(evidence, accidents=chance)
    search.evidence = evidence
    return evidence


def clear(search: Search) -> bool:
    """Whether a harder look has nothing to add: one pose stands out, and is sure or explains all of both clouds."""
    evidence, settings = search.evidence, search.settings
    if evidence is None or min(map(len, search.levels)) <= settings.search.few:
        return False
    whole = min(evidence.source_overlap, evidence.target_overlap) > settings.search.whole
    whole = whole and not search.detailed  # a room turned round overlaps wholly, too
    return evidence.margin >= settings.judge.tied and (whole or _sure(evidence, search))


def _sure(evidence: Evidence, search: Search) -> bool:
    settings = search.settings
    least = settings.search.clear if not search.detailed else settings.search.clear_detailed
    return search.bundle.confidence.probability(evidence, settings.judge) > least


def polished(search: Search) -> Polished:
    """The winner at the resolution of the data; it takes its own place among the candidates."""
    settings = search.settings
    reached = search.levels if not search.detailed or search.finest is None else search.finest
    with search.clock("polish"):
        fit = functools.partial(
            polish,
            *search.fine(settings.polish.components),
            search.poses[0],
            sparse=reached[0].balanced(settings.detail.moved),
            reach=settings.polish.reach * max(level.spacing for level in reached),
            refinement=settings.refine,
            descent=None if search.detailed else settings.descent,
        )
        answer = fit(settings=settings.polish)
        if not search.prior.allows(answer.target_from_source.rotation):
            answer = fit(settings=replace(settings.polish, iterations=0))
        final = answer.target_from_source[None]
        search.poses = joined([final, search.poses[1:]])
        search.overlap = float(met(final, *search.ranked, search.rank))
        if not search.detailed:
            terms = measure(final, *search.levels, search.rank, learned=search.learned)
            search.pose_terms = Terms.joined([terms, search.pose_terms[1:]])
    return answer


def cut_short(search: Search, timeout: float | None) -> Polished:
    """The foremost pose so far, as it is. Raises `TimedOut` where there is none."""
    if not len(search.candidates.rotation):  # nothing was weighed against anything yet
        given, last = search.prior.initial, search.looks[-1] if search.looks else None
        found = [] if last is None else [last.candidates if len(last.candidates.rotation) else last.hypotheses]
        motions = joined([search.poses, *([] if given is None else [given[None]]), *found])
        motions = motions[search.prior.allows(motions.rotation)]
        if not len(motions.rotation):
            raise TimedOut(f"no motion was found within the timeout of {timeout:g} s; give more time")
        left, _, right = torch.linalg.svd(motions.rotation)  # a network's are rounded to float32
        motions = RigidTransform(left @ right, motions.translation)
        search.poses, search.finest = motions, search.ranked
        search.pose_terms = measure(motions, *search.ranked, search.rank, views=search.views, learned=search.learned)
        _order(search, search.rank.poses)
    answer = polish(
        *search.levels,
        search.poses[0],
        sparse=search.levels[0],
        reach=max(level.spacing for level in search.levels),
        settings=replace(search.settings.polish, iterations=0),
        refinement=search.settings.refine,
    )
    search.overlap, search.evidence = float(search.pose_terms.source_overlap[0]), None
    return answer
