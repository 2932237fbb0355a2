"""Matches from the overlap network: nodes of one cloud with those of the other, and who has a counterpart at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.geometry.neighbours import farthest_points
from deepgmr.networks.overlap import OverlapNetwork, OverlapPrediction
from deepgmr.networks.patches import Nodes, nodes_of
from deepgmr.pipeline.cohort import asked
from deepgmr.pipeline.propose.matches import Matches
from deepgmr.pipeline.scan import Level


@dataclass(frozen=True, eq=False)
class LearnedMatches:
    """What the network says of a pair."""

    matches: Matches  # of components; scores are logarithms
    source_overlap: float  # mean probability of the source's nodes to have a counterpart
    target_overlap: float
    gap: float  # between neighbouring nodes: how far apart the ends of a right match may lie


@torch.inference_mode()
def match_nodes(network: OverlapNetwork, source: Level, target: Level) -> LearnedMatches:
    """The likeliest counterpart of every source node, likeliest first; nodes are components of their level."""
    spacing = max(source.spacing, target.spacing)
    (x, at), (y, there) = (_nodes(network, level, spacing) for level in (source, target))
    prediction = asked(predicted, network, x, y)
    scores, index = prediction.log_matching()[0].max(dim=1)
    order = scores.argsort(descending=True, stable=True)
    return LearnedMatches(
        Matches(at[order], there[index[order]], scores[order]),
        source_overlap=float(torch.sigmoid(prediction.source_overlap).mean()),
        target_overlap=float(torch.sigmoid(prediction.target_overlap).mean()),
        gap=spacing * max(_gap(x), _gap(y)),
    )


def predicted(network: OverlapNetwork, source: Nodes, target: Nodes) -> OverlapPrediction:
    prediction: OverlapPrediction = network(source, target)
    return prediction


def _nodes(network: OverlapNetwork, level: Level, spacing: float) -> tuple[Nodes, Tensor]:
    count = min(network.config.nodes, len(level))
    chosen = level.made(("nodes", count), lambda: farthest_points(level.means[None], count)[0])
    around = level.made(("around", count), lambda: level.around(chosen))
    return nodes_of(level.means, level.normals, around, spacing, chosen), chosen


def _gap(nodes: Nodes) -> float:
    """The median distance to the nearest other node, in spacings."""
    distances = torch.cdist(nodes.points[0], nodes.points[0])
    return float(distances.topk(min(2, len(distances)), largest=False).values[:, -1].median())
