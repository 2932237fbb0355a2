"""From matches to motions: which of them agree, and a motion in closed form for every consistent set."""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.geometry.neighbours import gather_points
from deepgmr.geometry.procrustes import align_few
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.cohort import asked
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.propose.matches import Matches
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import AgreeSettings

_NEGLIGIBLE = 30.0  # exponents beyond it: exp would underflow to subnormal numbers, ten times slower


def consistent_motions(
    matches: Matches, source: Level, target: Level, prior: Prior, settings: AgreeSettings, *, tolerance: float
) -> tuple[RigidTransform, Tensor]:
    """Motions (S,) that many matches agree on, and how many agree with each (S,), zero where the prior forbids.

    Two matches are consistent if they keep their distance and the angle of their normals; consistency is squared
    once, as in SC2-PCR (Chen et al., CVPR 2022, eq. 4), so that matches vote for one another only if many others
    support both. Each of the best seeds and its strongest followers give one motion in closed form. `tolerance` is how
    much a right match may change a length, in frame units.
    """
    a, b = source.means[matches.source], target.means[matches.target]  # (M, 3)
    m, n = source.normals[matches.source], target.normals[matches.target]
    motions, agreement = asked(agreed, a, b, m, n, tolerance, settings)
    return motions, torch.where(prior.allows(motions.rotation), agreement, torch.zeros_like(agreement))


def agreed(
    a: Tensor, b: Tensor, m: Tensor, n: Tensor, tolerance: float | Tensor, settings: AgreeSettings
) -> tuple[RigidTransform, Tensor]:
    """Motions (S,) of places a, b (M, 3) with normals m, n that are matched, and how many agree with each (S,).

    Of B pairs at once: all of these have a first dimension more, and `tolerance` is (B, 1, 1).
    """
    rows = gather_points if a.dim() == 3 else Tensor.__getitem__
    consistency = _consistency(a, m, b, n, tolerance, settings)
    likely = consistency.sum(-1).topk(min(2 * settings.seeds, a.shape[-2])).indices
    strong = rows(consistency, likely)
    second = strong * (strong @ consistency)  # (L, M)
    best = second.sum(-1).topk(min(settings.seeds, likely.shape[-1])).indices
    seeds = likely.gather(-1, best)
    weight, index = rows(second, best).topk(min(settings.followers, a.shape[-2]), dim=-1)
    index = torch.cat([seeds.unsqueeze(-1), index], dim=-1)
    weight = torch.cat([weight[..., :1], weight], dim=-1) + 1e-9
    aligned = align_few(*(each.cpu().numpy() for each in (rows(a, index), rows(b, index), weight)))
    motions = RigidTransform(*(torch.from_numpy(part).to(a.device) for part in aligned))
    return motions, supports(motions, a, b, m, n, tolerance=tolerance, settings=settings).sum(-1)


def supports(
    motions: RigidTransform,
    a: Tensor,
    b: Tensor,
    m: Tensor,
    n: Tensor,
    *,
    tolerance: float | Tensor,
    settings: AgreeSettings,
) -> Tensor:
    """How far (S, M) each of the matches of places a, b (M, 3) with normals m, n agrees with each of motions (S,)."""
    gap = (motions.apply(a.unsqueeze(-3)) - b.unsqueeze(-3)).norm(dim=-1) / (settings.meeting * tolerance)
    facing = (motions.rotate(m.unsqueeze(-3)) * n.unsqueeze(-3)).sum(-1).clamp_min(0)
    return torch.exp(-gap.square().clamp_max(_NEGLIGIBLE)) * facing


def _consistency(
    source: Tensor,
    source_normals: Tensor,
    target: Tensor,
    target_normals: Tensor,
    tolerance: float | Tensor,
    settings: AgreeSettings,
) -> Tensor:
    source_length, target_length = torch.cdist(source, source), torch.cdist(target, target)  # (M, M)
    stretch = (source_length - target_length) / tolerance
    turn = (source_normals @ source_normals.mT - target_normals @ target_normals.mT) / settings.normal_tolerance
    exponent = stretch.square() + turn.square()
    value = torch.exp(-exponent.clamp_max(_NEGLIGIBLE))
    apart = (source_length > settings.apart * tolerance) | (
        target_length > settings.apart * tolerance
    )  # neighbours agree with anything
    return torch.where(apart & (value > settings.least), value, torch.zeros_like(value))
