"""An initial motion that checks out: fitted to the clouds at once, and sure enough to need no search."""

from __future__ import annotations

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.judge import weigh
from deepgmr.pipeline.polish import Polished, polish
from deepgmr.pipeline.rank import measure, met
from deepgmr.pipeline.trace import Search


def fit_initial(search: Search) -> Polished:
    """The initial motion, polished at once: it becomes the only pose, with the evidence for it and none against it."""
    settings, initial, levels = search.settings, search.prior.initial, search.levels
    assert initial is not None
    with search.clock("polish"):
        answer = polish(
            *search.fine(settings.polish.components),
            initial,
            sparse=levels[0],
            reach=max(search.prior.reach, settings.polish.reach * max(level.spacing for level in levels)),
            settings=settings.polish,
            refinement=settings.refine,
        )
    with search.clock("ranking"):
        search.finest, search.poses = levels, answer.target_from_source[None]
        search.pose_terms = measure(search.poses, *levels, search.rank, views=search.views)
        search.overlap = float(met(search.poses, *levels, search.rank))
        search.evidence = weigh(
            search.poses,
            search.pose_terms,
            search.bundle.ranking,
            levels[0],
            settings.rank,
            symmetric=not search.detailed,
            observability=answer.observability,
        )
    return answer


def strayed(search: Search, motion: RigidTransform) -> float:
    """How far the fitted motion moves the source from where the initial one does, in reaches of the prior."""
    initial = search.prior.initial
    assert initial is not None
    points = search.levels[0].means.double()
    return float((motion.apply(points) - initial.apply(points)).square().sum(-1).mean().sqrt()) / search.prior.reach
