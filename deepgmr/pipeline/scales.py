"""The scale between two clouds: noticed where it was taken for one, or found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.clouds import unit_ratios
from deepgmr.pipeline.judge import Evidence
from deepgmr.pipeline.looks import looks, propose, rank, refined
from deepgmr.pipeline.pace import TimeUp
from deepgmr.pipeline.polish import Polished
from deepgmr.pipeline.propose.learned import match_nodes
from deepgmr.pipeline.rank import measure
from deepgmr.pipeline.scan import Level, Pair
from deepgmr.pipeline.settings import ScaleSettings
from deepgmr.pipeline.settle import clear, settle
from deepgmr.pipeline.stretch import Stretch, stretch
from deepgmr.pipeline.trace import Search


def at_scale(search: Search, answer: Polished, *, estimated: bool) -> Evidence:
    """The evidence for an answer, with what is to be said of its scale; where it is to be `estimated`, it is."""
    evidence = search.evidence
    assert evidence is not None
    motion, settings = answer.target_from_source, search.settings
    with search.clock("scale"):
        if estimated:
            levels = search.fine(settings.polish.components)
            search.stretch = _stretch(search, motion, settings.scale, levels=levels)
            observability = 0.0 if math.isinf(search.stretch.deviation) else evidence.observability
            share = min(evidence.share, search.share)
            return replace(evidence, share=share, observability=observability, freedom=settings.scale.freedom)
        factor = _noticed(search, motion, settings.scale)
    if factor == 1:
        return evidence
    return replace(evidence, scale=factor, share=min(evidence.share, settings.scale.doubtful))


def _noticed(search: Search, motion: RigidTransform, settings: ScaleSettings) -> float:
    """So many times as large the source would fit plainly better from a motion (one); 1 where it would not."""
    found = _stretch(search, motion, replace(settings, settled=settings.nearly_settled), least=settings.noticed)
    plain = abs(math.log(found.factor)) > max(settings.noticed, settings.deviations * found.deviation)
    return found.factor if plain else 1.0


def sized(search: Search, begin: Callable[[Pair], Search], known: float | None) -> Search:
    """A search at the most plausible scale, with the motion that it was found by.

    One look at each of some scales, those at which both clouds are of about one size first, as long as none is clear;
    from the pose that it finds a fit over similarities; and the fitted scales compared, each with its own pose, as poses
    are. `known` is the scale to begin with. Raises `TimeUp` where time was over before any was found.
    """
    settings, pair = search.settings.scale, search.pair
    found: list[tuple[float, Search]] = []
    for scale in _scales(pair, known, settings):
        try:
            search = begin(pair.rescaled(scale))
            hypotheses = propose(next(looks(search)), search)
            rank(search, refined(search.looks[-1].settings, search, hypotheses))
            settle(search)
        except TimeUp:
            if not found:
                raise
            break
        fit = _stretch(search, search.poses[0], settings)
        if not math.isfinite(fit.deviation) or abs(math.log(fit.factor)) > math.log(settings.widest):
            continue
        again = begin(pair.rescaled(scale * fit.factor))
        fitted = RigidTransform.from_matrix(torch.from_numpy(fit.matrix))
        motion = again.pair.enter(search.pair.undo(fitted, fit.factor))[None]
        again.candidates, again.terms = motion, measure(motion, *again.ranked, again.rank, views=again.views)
        found.append((float(again.bundle.ranking.plausibility(again.terms)[0]), again))
        if clear(search):
            break
    if not found:
        return search
    best, chosen = max(found, key=lambda each: each[0])
    others = [
        math.exp(plausibility - best)
        for plausibility, search in found
        if abs(math.log(search.pair.source.factor / chosen.pair.source.factor)) > math.log(settings.same)
    ]
    chosen.share = 1 / (1 + max(others, default=0.0))  # several starts may have come to one rival
    chosen.learned = match_nodes(chosen.bundle.network, *chosen.levels)  # what follows is ranked with it
    chosen.terms = measure(chosen.candidates, *chosen.ranked, chosen.rank, views=chosen.views, learned=chosen.learned)
    return chosen


def _scales(pair: Pair, known: float | None, settings: ScaleSettings) -> Iterator[float]:
    """The scales that are tried: those of units where they are near, from the one of equal sizes to either side."""
    if known is not None:
        yield known
    about, step = pair.source.factor / pair.size_ratio, math.log(settings.step)
    steps = round(math.log(settings.span) / step)
    for number in sorted(range(-steps, steps + 1), key=abs):
        scale = about * math.exp(number * step)
        yield min((scale, *unit_ratios()), key=lambda other: _apart(other, scale, step))


def _apart(other: float, scale: float, step: float) -> float:
    """How near a ratio of units is to a scale: nearer than that itself within half a step, else out of the question."""
    distance = abs(math.log(other / scale))
    return distance - step if 0 < distance <= step / 2 else distance


def _stretch(
    search: Search,
    motion: RigidTransform,
    settings: ScaleSettings,
    levels: tuple[Level, Level] | None = None,
    *,
    least: float = 0.0,
) -> Stretch:
    levels = levels or search.levels
    reach = settings.reach * max(level.spacing for level in levels)
    matrix = motion.matrix.double().numpy()
    return stretch(*levels, matrix, reach, settings, same=search.settings.polish, least=least)
