"""From matches to motions: which of them agree, and a motion in closed form for every consistent set."""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.geometry.procrustes import align_few
from deepgmr.geometry.transform import RigidTransform
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
    consistency = _consistency(a, m, b, n, tolerance, settings)
    likely = consistency.sum(1).topk(min(2 * settings.seeds, len(a))).indices
    second = consistency[likely] * (consistency[likely] @ consistency)  # (L, M)
    best = second.sum(1).topk(min(settings.seeds, len(likely))).indices
    seeds = likely[best]
    weight, index = second[best].topk(min(settings.followers, len(a)), dim=1)
    index = torch.cat([seeds.unsqueeze(1), index], dim=1)
    weight = torch.cat([weight[:, :1], weight], dim=1) + 1e-9
    aligned = align_few(a[index].numpy(), b[index].numpy(), weight.numpy())
    motions = RigidTransform(*(torch.from_numpy(part) for part in aligned))
    gap = (motions.apply(a) - b).norm(dim=-1) / (settings.meeting * tolerance)  # (S, M)
    facing = (motions.rotate(m) * n).sum(-1).clamp_min(0)
    agreement = (torch.exp(-gap.square().clamp_max(_NEGLIGIBLE)) * facing).sum(-1)
    return motions, torch.where(prior.allows(motions.rotation), agreement, torch.zeros_like(agreement))


def _consistency(
    source: Tensor,
    source_normals: Tensor,
    target: Tensor,
    target_normals: Tensor,
    tolerance: float,
    settings: AgreeSettings,
) -> Tensor:
    source_length, target_length = torch.cdist(source, source), torch.cdist(target, target)  # (M, M)
    stretch = (source_length - target_length) / tolerance
    turn = (source_normals @ source_normals.T - target_normals @ target_normals.T) / settings.normal_tolerance
    exponent = stretch.square() + turn.square()
    value = torch.exp(-exponent.clamp_max(_NEGLIGIBLE))
    apart = (source_length > settings.apart * tolerance) | (
        target_length > settings.apart * tolerance
    )  # neighbours agree with anything
    return torch.where(apart & (value > settings.least), value, torch.zeros_like(value))
