"""From descriptors to motions: matches, their consistency, and a closed-form motion for every consistent set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.geometry.procrustes import weighted_procrustes
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.search.prior import Prior
from deepgmr.pipeline.surface import Surface

_SHARPNESS = 20.0  # inverse temperature of descriptor similarities in [0, 1]
_CANDIDATES = 2  # target components considered for each source component
_MATCHES = 600
_SEEDS = 128
_NEGLIGIBLE = 30.0  # exponents beyond it: exp would underflow to subnormal numbers, ten times slower
_FOLLOWERS = 20  # matches that vote with each seed
_TOLERANCE, _LEAST_TOLERANCE = 2.0, 0.04  # of a length, in spacings and in frame units
_NORMAL_TOLERANCE = 0.5  # of the cosine between two normals: normals of half-seen patches are rough


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of components that may be the same place, best first."""

    source: Tensor  # (M,) int64
    target: Tensor  # (M,) int64
    scores: Tensor  # (M,)


def match(source: Tensor, target: Tensor, *, count: int = _MATCHES) -> Matches:
    """The `count` most distinctive pairs between descriptors (J, F) and (K, F) with unit rows.

    A pair counts by its softmax over targets times its softmax over sources (dual softmax, Rocco et al. 2018): how
    clearly each is the other's best.
    """
    similarity = _SHARPNESS * (source @ target.T)
    mutual = torch.softmax(similarity, dim=1) * torch.softmax(similarity, dim=0)  # (J, K)
    few = source.shape[0] * min(_CANDIDATES, target.shape[0])
    candidates = target.shape[0] if few < 64 else _CANDIDATES  # in a tiny cloud every pair is worth a look
    scores, index = mutual.topk(min(candidates, target.shape[0]), dim=1)
    order = scores.flatten().argsort(descending=True, stable=True)[:count]
    rows = torch.arange(len(source)).unsqueeze(-1).expand_as(index).flatten()
    return Matches(rows[order], index.flatten()[order], scores.flatten()[order])


def consistent_motions(
    matches: Matches, source: Surface, target: Surface, prior: Prior, *, tolerance: float | None = None
) -> tuple[RigidTransform, Tensor]:
    """Motions (S,) that many matches agree on, and how many agree with each (S,), zero where the prior forbids.

    Two matches are consistent if they keep their distance and the angle of their normals; consistency is squared
    once, as in SC2-PCR (Chen et al., CVPR 2022, eq. 4), so that matches vote for one another only if many others
    support both. Each of the best seeds and its strongest followers give one motion in closed form. `tolerance` is how
    much a right match may change a length, in frame units; by default a few spacings.
    """
    if tolerance is None:
        tolerance = max(_TOLERANCE * max(source.spacing, target.spacing), _LEAST_TOLERANCE)
    a, b = source.points[matches.source], target.points[matches.target]  # (M, 3)
    m, n = source.normals[matches.source], target.normals[matches.target]
    consistency = _consistency(a, m, b, n, tolerance)
    likely = consistency.sum(1).topk(min(2 * _SEEDS, len(a))).indices
    second = consistency[likely] * (consistency[likely] @ consistency)  # (L, M)
    best = second.sum(1).topk(min(_SEEDS, len(likely))).indices
    seeds = likely[best]
    weight, index = second[best].topk(min(_FOLLOWERS, len(a)), dim=1)
    index = torch.cat([seeds.unsqueeze(1), index], dim=1)
    weight = torch.cat([weight[:, :1], weight], dim=1) + 1e-9
    motions = weighted_procrustes(a[index], b[index], weight).target_from_source
    gap = (motions.apply(a) - b).norm(dim=-1) / (1.5 * tolerance)  # (S, M)
    facing = (motions.rotate(m) * n).sum(-1).clamp_min(0)
    agreement = (torch.exp(-gap.square().clamp_max(_NEGLIGIBLE)) * facing).sum(-1)
    return motions, torch.where(prior.allows(motions.rotation), agreement, torch.zeros_like(agreement))


def _consistency(
    source: Tensor, source_normals: Tensor, target: Tensor, target_normals: Tensor, tolerance: float
) -> Tensor:
    source_length, target_length = torch.cdist(source, source), torch.cdist(target, target)  # (M, M)
    stretch = (source_length - target_length) / tolerance
    turn = (source_normals @ source_normals.T - target_normals @ target_normals.T) / _NORMAL_TOLERANCE
    exponent = stretch.square() + turn.square()
    value = torch.exp(-exponent.clamp_max(_NEGLIGIBLE))
    apart = (source_length > 3 * tolerance) | (target_length > 3 * tolerance)  # neighbours agree with anything
    return torch.where(apart & (value > 0.2), value, torch.zeros_like(value))
