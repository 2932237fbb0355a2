"""Matches from the overlap network: nodes of one cloud with those of the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.geometry.neighbours import farthest_points
from deepgmr.geometry.transform import RigidTransform
from deepgmr.networks.overlap import OverlapNetwork, OverlapPrediction
from deepgmr.networks.patches import Nodes, nodes_of
from deepgmr.pipeline.cohort import asked
from deepgmr.pipeline.propose.matches import Matches
from deepgmr.pipeline.scan import Level

_WIDE = 0.7  # distances between nodes: the deviation of the ends of a match that is made good
_DOUBT = 0.02  # probability that the network is wrong, whatever it says


@dataclass(frozen=True, eq=False)
class LearnedMatches:
    """What the network says of a pair."""

    matches: Matches  # of components; scores are logarithms
    gap: float  # between neighbouring nodes: how far apart the ends of a right match may lie
    source_nodes: Tensor  # (J, 3) in the frame
    target_nodes: Tensor  # (K, 3)
    clearly: Tensor  # (J, K) log of how clearly each pair is each other's best
    forth: Tensor  # (J, K) probability of each counterpart of a source node, if it has one
    back: Tensor  # (J, K) and of a target node

    def makes_good(self, motions: RigidTransform) -> Tensor:
        """The mean log (H,) of the share of the matches that motions (H,) make good."""
        moved = motions.to(self.source_nodes.dtype).apply(self.source_nodes)
        square = torch.cdist(moved, self.target_nodes.expand(len(moved), -1, -1)).square()
        meets = torch.exp(-square / (2 * (_WIDE * self.gap) ** 2))
        forth, back = (
            torch.log((meets * likely).sum(across) + _DOUBT).mean(-1)
            for across, likely in ((2, self.forth), (1, self.back))
        )
        return (forth + back) / 2


@torch.inference_mode()
def match_nodes(network: OverlapNetwork, source: Level, target: Level, nodes: int = 0) -> LearnedMatches:
    """The likeliest counterpart of every source node, likeliest first; nodes are components of their level.

    `nodes` of each cloud, where it has so many; 0 stands for as many as the network was trained with.
    """
    spacing = max(source.spacing, target.spacing)
    (x, at), (y, there) = (_nodes(level, spacing, nodes or network.config.nodes) for level in (source, target))
    prediction = asked(predicted, network, x, y)
    clearly = prediction.log_matching()[0]
    scores, index = clearly.max(dim=1)
    order = scores.argsort(descending=True, stable=True)
    similarity = prediction.similarity[0]
    return LearnedMatches(
        Matches(at[order], there[index[order]], scores[order]),
        gap=spacing * max(_gap(x), _gap(y)),
        source_nodes=source.means[at],
        target_nodes=target.means[there],
        clearly=clearly,
        forth=similarity.softmax(1),
        back=similarity.softmax(0),
    )


def predicted(network: OverlapNetwork, source: Nodes, target: Nodes) -> OverlapPrediction:
    prediction: OverlapPrediction = network(source, target)
    return prediction


def nodes_in(level: Level, count: int) -> tuple[Tensor, Tensor]:
    """The rows (J,) of `count` components that cover a level evenly, or of all, and those about each (J, K)."""
    count = min(count, len(level))
    chosen = level.made(("nodes", count), lambda: farthest_points(level.means[None], count)[0])
    return chosen, level.made(("around", count), lambda: level.around(chosen))


def _nodes(level: Level, spacing: float, count: int) -> tuple[Nodes, Tensor]:
    chosen, around = nodes_in(level, count)
    return nodes_of(level.means, level.normals, around, spacing, chosen), chosen


def _gap(nodes: Nodes) -> float:
    """The median distance to the nearest other node, in spacings."""
    distances = torch.cdist(nodes.points[0], nodes.points[0])
    return float(distances.topk(min(2, len(distances)), largest=False).values[:, -1].median())
