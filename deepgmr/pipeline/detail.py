"""Finalists at a finer level: pulled to their minima there, before they are ranked again."""

from __future__ import annotations

import torch

from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.refine import descend
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import DetailSettings, RefineSettings


def sharpen(
    motions: RigidTransform,
    source: Level,
    target: Level,
    *,
    reach: float,
    prior: Prior,
    settings: DetailSettings,
    refinement: RefineSettings,
) -> RigidTransform:
    """The motions (H,) as generalised ICP of some components of the source onto all of the target leaves them.

    `reach` is how far the motions may be off, in frame units. A motion that would leave what the prior allows stays.
    """
    # Rare directions find the place; but they lie at edges, whose normals are blurred, and leave the fit askew.
    few = source.balanced(settings.moved)
    even = source.thinned(max(1, len(source) // settings.fitted), fewest=source.settings.for_normals)
    sharpened = motions.matrix.double().numpy()
    for number, share in enumerate(settings.reaches):
        sharpened = descend(
            even if number else few,
            target,
            sharpened,
            share * reach,
            iterations=settings.iterations,
            settled=settings.settled,
            dwarf=refinement.dwarf,
        )
    found = RigidTransform.from_matrix(torch.from_numpy(sharpened))
    allowed = prior.allows(found.rotation)
    return RigidTransform(
        torch.where(allowed[:, None, None], found.rotation, motions.rotation.double()),
        torch.where(allowed[:, None], found.translation, motions.translation.double()),
    )
