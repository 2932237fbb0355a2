"""One look at a pair: where hypotheses come from, which are worth refining, and how they rank once they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.agree import consistent_motions
from deepgmr.pipeline.bundle import whole_network
from deepgmr.pipeline.detail import sharpen
from deepgmr.pipeline.pace import TimeUp, check
from deepgmr.pipeline.partial import descend_together
from deepgmr.pipeline.propose.descriptors import describe
from deepgmr.pipeline.propose.grid import coarse, grid_motions
from deepgmr.pipeline.propose.learned import LearnedMatches, match_nodes
from deepgmr.pipeline.propose.matches import Matches, match
from deepgmr.pipeline.propose.mixtures import mixture_motion
from deepgmr.pipeline.propose.patches import match_inside, patch_motions
from deepgmr.pipeline.rank import Terms, distinct, first_look, measure
from deepgmr.pipeline.refine import refine
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import LookSettings
from deepgmr.pipeline.trace import Look, Met, Search, joined

_TRIED = ("given", "as they are", "correlated")  # rooms whose motions are refined whatever the first look says


def looks(search: Search) -> Iterator[LookSettings]:
    """Those that could find more than the first."""
    settings, scans = search.settings.search, (search.pair.source, search.pair.target)
    points, ratio = max(len(scan.heaps) for scan in scans), search.pair.size_ratio
    for number, look in enumerate(settings.looks if not search.detailed else settings.detailed):
        if number and max(ratio, 1 / ratio) > settings.unlike:
            return  # no look finds the motion between millimetres and inches
        if look.detail and points < settings.finer * max(map(len, search.levels)):
            continue  # there is no finer detail to look at
        yield look


def propose(look: LookSettings, search: Search) -> RigidTransform:
    """The motions worth refining (H,), of all the rooms that a look asks."""
    proposed = {}
    try:
        check()
        for room, motions in _proposed(look, search):
            proposed[room] = motions
            check()
    except TimeUp:
        if not any(len(motions.rotation) for motions in proposed.values()):
            raise  # else those of the rooms asked so far are all there are
    hypotheses = joined([motions for room, motions in proposed.items() if room not in _TRIED])
    if look.refined and len(hypotheses.rotation):
        with search.clock("first look"):
            scores = first_look(hypotheses, *search.levels, search.settings.rank)
            hypotheses = hypotheses[_distinct_hypotheses(hypotheses, scores, look.refined, search)]
    tried = [room for room in _TRIED if room != "correlated" or room not in _precise(search)]
    hypotheses = joined([*(proposed[room] for room in tried if room in proposed), hypotheses])
    search.looks.append(Look(look, proposed, hypotheses, hypotheses[:0], Terms.none()))
    return hypotheses


def _proposed(look: LookSettings, search: Search) -> Iterator[tuple[str, RigidTransform]]:
    settings, levels, clock = search.settings, search.levels, search.clock
    if look.mixtures:
        with clock("mixtures"):
            yield "mixtures", mixture_motion(whole_network(), *levels)
    if look.learned or look.patches:
        with clock("network"):
            found = search.learned or match_nodes(search.bundle.network, *levels, look.nodes)
            if not search.looks:  # else what was ranked before was ranked without it
                search.learned = found
    if look.learned:
        yield "learned", _agreed(found.matches, levels, search, tolerance=settings.agree.slack * found.gap)
    if look.patches and min(map(len, levels)) >= settings.patches.finer * max(found.forth.shape):
        yield "patches", _inside(found, levels, search)
    if look.described:
        seen = search.pair.levels(look.detail) if look.detail else levels
        propose = settings.propose
        with clock("histograms"):
            a, b = (describe(level, scales=propose.scales, bins=propose.bins) for level in seen)
            matches = match(a, b, propose)
        yield "described", _agreed(matches, seen, search, tolerance=_tolerance(settings.agree.tolerance, seen, search))
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
            motions = search.correlated(evident=look.evident)
        yield "correlated", motions[: look.correlated]
    if search.prior.initial is not None:
        yield "given", search.prior.initial[None]
    elif look.refined and not search.looks:
        yield "as they are", search.pair.enter(np.eye(4)[None])


def refined(look: LookSettings, search: Search, hypotheses: RigidTransform) -> RigidTransform:
    if not look.refined or not len(hypotheses.rotation):
        return search.prior.apply(hypotheses)
    settings = search.settings
    with search.clock("refinement"):
        if search.detailed or min(map(len, search.levels)) <= settings.refine.tiny:
            candidates = refine(hypotheses, *search.levels, search.prior, settings.refine)
        else:
            matrices = descend_together(*search.levels, hypotheses.matrix.double().numpy(), settings.descent)
            candidates = search.prior.apply(RigidTransform.from_matrix(torch.from_numpy(matrices)))
        search.looks[-1] = replace(search.looks[-1], candidates=candidates)
    near = [motions for room, motions in search.looks[-1].proposed.items() if room in _precise(search)]
    if near:
        with search.clock("detail"):
            spacing = max(level.spacing for level in search.ranked)
            sharpened = sharpen(
                joined(near),
                *search.ranked,
                reach=max(settings.detail.cells * search.cell, spacing),
                prior=search.prior,
                settings=settings.detail,
                refinement=settings.refine,
            )
            candidates = joined([sharpened, candidates])
    return candidates


def rank(search: Search, candidates: RigidTransform) -> None:
    """Measure the new candidates where there is more detail, and put all of them in order."""
    settings = search.rank
    with search.clock("ranking"):
        terms = measure(candidates, *search.ranked, settings, views=search.views, learned=search.learned)
        search.looks[-1] = replace(search.looks[-1], candidates=candidates, terms=terms)
        search.terms = Terms.joined([search.terms, terms])
        search.candidates = joined([search.candidates, candidates])


def _precise(search: Search) -> tuple[str, ...]:
    """The rooms whose motions are so near that a wide fit of few components would only spoil them."""
    if not search.detailed:
        return ()
    reach = search.settings.refine.reaches[-1] * max(level.spacing for level in search.levels)
    peaks = 0 < search.settings.detail.cells * search.cell <= reach
    return _TRIED if peaks else _TRIED[:2]


def _agreed(matches: Matches, levels: tuple[Level, Level], search: Search, *, tolerance: float) -> RigidTransform:
    """The motions (H,) that matches agree on."""
    settings = search.settings.agree
    search.matches.append(Met.of(len(search.looks), matches, levels, tolerance))
    with search.clock("consistency"):
        motions, agreement = consistent_motions(matches, *levels, search.prior, settings, tolerance=tolerance)
        return motions[_distinct_hypotheses(motions, agreement, settings.kept, search)]


def _inside(found: LearnedMatches, levels: tuple[Level, Level], search: Search) -> RigidTransform:
    """The motions (H,) of pairs of patches that the network matched."""
    settings, agree = search.settings.patches, search.settings.agree
    with search.clock("patches"):
        matches = match_inside(found, *levels, settings, search.settings.propose)
        tolerance = _tolerance(settings.tolerance, levels, search)
        motions, agreement = patch_motions(matches, *levels, settings, agree, tolerance=tolerance)
        allowed = search.prior.allows(motions.rotation)
        motions, agreement = motions[allowed], agreement[allowed]
        return motions[_distinct_hypotheses(motions, agreement, agree.kept, search)]


def _tolerance(spacings: float, levels: tuple[Level, Level], search: Search) -> float:
    """How much a right match of components may change a length, in frame units."""
    return max(spacings * max(level.spacing for level in levels), search.settings.agree.least_tolerance)


def _distinct_hypotheses(motions: RigidTransform, scores: Tensor, count: int, search: Search) -> Tensor:
    settings = search.settings.search
    return distinct(motions, scores, count, angle=settings.same_angle, distance=settings.same_distance)
