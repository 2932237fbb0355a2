"""From nodes to points: matches of components inside patches that the network matched, and motions that patches agree on.

As CoFiNet (Yu et al., NeurIPS 2021) and GeoTransformer (Qin et al., CVPR 2022, sec. 3.3 and 3.4, whose local-to-global
registration this is), with histograms for the descriptors of what is inside a patch: one pair of patches that is matched
rightly gives a motion, and the matches of all pairs say how good it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.geometry.procrustes import align_few
from deepgmr.geometry.transform import RigidTransform
from deepgmr.pipeline.agree import agreed, supports
from deepgmr.pipeline.pace import check
from deepgmr.pipeline.propose.descriptors import describe
from deepgmr.pipeline.propose.learned import LearnedMatches, nodes_in
from deepgmr.pipeline.propose.matches import Matches, mutual
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import AgreeSettings, PatchSettings, ProposeSettings


def match_inside(
    found: LearnedMatches, source: Level, target: Level, settings: PatchSettings, propose: ProposeSettings
) -> Matches:
    """The `matches` likeliest pairs of components in each of the likeliest `pairs` of patches, a row (P, M) each."""
    clearly = found.clearly
    rows = clearly.flatten().topk(min(settings.pairs, clearly.numel())).indices
    ends = rows // clearly.shape[1], rows % clearly.shape[1]
    inside, described = [], []
    for level, count, end in zip((source, target), clearly.shape, ends, strict=True):
        nodes, around = nodes_in(level, count)
        inside.append(torch.cat([nodes[:, None], around[:, : settings.members - 1]], dim=1)[end])  # (P, K)
        described.append(describe(level, scales=propose.scales, bins=propose.bins)[inside[-1]])
    clear = mutual(*described, sharpness=propose.sharpness)  # (P, K, K')
    scores, best = clear.flatten(1).topk(min(settings.matches, clear[0].numel()), dim=1)
    width = clear.shape[2]
    return Matches(inside[0].gather(1, best // width), inside[1].gather(1, best % width), scores)


def patch_motions(
    matches: Matches, source: Level, target: Level, settings: PatchSettings, agree: AgreeSettings, *, tolerance: float
) -> tuple[RigidTransform, Tensor]:
    """Motions (S,) of single pairs of patches, fitted to what all matches (P, M) say of them, and how many agree (S,).

    Inside a pair of patches the match that most others are consistent with, and these, give its motion. `tolerance` is how
    much a right match may change a length, in frame units.
    """
    a, b = source.means[matches.source], target.means[matches.target]  # (P, M, 3)
    m, n = source.normals[matches.source], target.normals[matches.target]
    motions = agreed(a, b, m, n, tolerance, settings.inside(agree))[0][:, 0]
    clearest = (each[:, : settings.asked].flatten(0, 1) for each in (a, b, m, n))
    agreement = supports(motions, *clearest, tolerance=tolerance, settings=agree).sum(-1)
    motions = motions[agreement.topk(min(settings.followed, len(agreement))).indices]
    check()
    a, b, m, n = (each.flatten(0, 1) for each in (a, b, m, n))
    weights = supports(motions, a, b, m, n, tolerance=tolerance, settings=agree) + 1e-9
    here, there = (each.expand(len(weights), -1, -1).numpy() for each in (a, b))
    motions = RigidTransform(*map(torch.from_numpy, align_few(here, there, weights.numpy())))
    return motions, supports(motions, a, b, m, n, tolerance=tolerance, settings=agree).sum(-1)
