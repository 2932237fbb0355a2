"""An initial motion that checks out: fitted to the clouds at once, and sure enough to need no search."""

from __future__ import annotations

from dataclasses import replace

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.judge import Evidence, weigh
from deepgmr.pipeline.polish import Polished, polish
from deepgmr.pipeline.rank import measure, met
from deepgmr.pipeline.trace import Search


def checked(search: Search) -> Polished | None:
    """The initial motion, fitted, where it explains the clouds so well that nothing need be searched for; else None.

    It is then the only pose of the search, whose confidence is the one for answers that nobody sought a rival of.
    """
    if search.prior.initial is None:
        return None
    answer, evidence = fitted(search)
    bundle = replace(search.bundle, confidence=search.bundle.initial_confidence)
    if not bool(search.prior.allows(answer.target_from_source.rotation)):
        return None
    if bundle.confidence.probability(evidence, search.settings.judge) < search.settings.initial.clear:
        return None
    search.bundle, search.evidence = bundle, evidence
    search.overlap = float(met(search.poses, *search.ranked, search.rank))
    return answer


def fitted(search: Search) -> tuple[Polished, Evidence]:
    """The initial motion, polished at once, and the evidence for it alone."""
    settings, initial, levels = search.settings, search.prior.initial, search.levels
    assert initial is not None
    for level in search.ranked:
        level.patches(level.settings.for_height + 1)  # first: they tell the spacing, too
    with search.clock("polish"):
        answer = polish(
            *(search.fine(settings.polish.components) if search.detailed else levels),  # normals are there already
            initial,
            sparse=levels[0],
            reach=max(search.prior.reach, settings.polish.reach * max(level.spacing for level in levels)),
            settings=settings.polish,
            refinement=settings.refine,
            descent=None if search.detailed else settings.descent,
        )
    with search.clock("ranking"):
        search.finest, search.poses = search.ranked, answer.target_from_source[None]
        search.pose_terms = measure(search.poses, *search.ranked, search.rank, views=search.views)
        alone = weigh(
            search.poses,
            search.pose_terms,
            search.bundle.ranking,
            search.ranked,
            settings.rank,
            detailed=search.detailed,
            observability=answer.uncertainty.observability,
            matched=settings.judge.typical_matched,
        )
    return answer, replace(alone, stray=_stray(search, answer.target_from_source))


def _stray(search: Search, motion: RigidTransform) -> float:
    """How far the fitted motion moves the source from where the initial one does, in reaches of the prior."""
    initial = search.prior.initial
    assert initial is not None
    points = search.levels[0].means.double()
    return float((motion.apply(points) - initial.apply(points)).norm(dim=-1).mean()) / max(search.prior.reach, 1e-9)
