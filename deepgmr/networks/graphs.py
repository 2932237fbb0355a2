"""Networks as graphs: tensors in, tensors out, for clouds of any size, so that other runtimes can hold them.

A graph has no chunks, no search trees and few checks; the numbers are those of the network. The
motion inside DeepGMR is the same one-sided Jacobi iteration as everywhere (`geometry/procrustes.py`): additions,
products and roots, with no SVD, inverse or Cholesky factor that a runtime might lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepgmr.errors import InvalidConfig
from deepgmr.geometry.transform import random_rotations
from deepgmr.networks.deepgmr import DeepGMR, Framed
from deepgmr.networks.overlap import OverlapNetwork
from deepgmr.networks.patches import MEMBERS, SCALES, nodes_of

_AROUND = MEMBERS * max(SCALES)  # as many others as the widest patch takes from


@dataclass(frozen=True)
class Port:
    """A tensor that enters or leaves a graph."""

    shape: tuple[str | int, ...]  # a name is a size that varies
    dtype: torch.dtype = torch.float32


class Graph(nn.Module):
    """What an exporter traces; inputs are given in the order of `inputs`, outputs come in that of `outputs`."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    least: Mapping[str, int]  # of each size that varies

    def example(self, seed: int, *, small: bool = False) -> tuple[Tensor, ...]:
        """A problem with an answer, to trace the graph with or to compare runtimes on."""
        raise NotImplementedError


class DeepGMRGraph(Graph):
    """`DeepGMR` for a batch of pairs: a motion, its determinacy, and both mixtures."""

    def __init__(self, network: DeepGMR) -> None:
        super().__init__()
        config = network.config
        if config.features == "rri":
            raise InvalidConfig(
                "a network with features `rri` searches neighbours in a tree, which no graph holds; train one with "
                "features `moments`"
            )
        self.network = network
        j = config.components
        self.inputs = {"source": Port(("B", "N", 3)), "target": Port(("B", "M", 3))}
        self.outputs = {"target_from_source": Port(("B", 4, 4)), "determinacy": Port(("B",))}
        for role in ("source", "target"):
            self.outputs |= {
                f"{role}_weights": Port(("B", j)),
                f"{role}_means": Port(("B", j, 3)),
                f"{role}_covariances": Port(("B", j, 3, 3)),
            }
        self.least = {"B": 1, "N": 3, "M": 3}

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        for role, cloud in (("source", source), ("target", target)):
            _assert_finite(role, cloud)
            extended = (cloud != cloud[:, :1]).flatten(1).any(1).all()
            torch._assert_async(extended, f"{role}: all points of a cloud are equal; there is no shape to register")
        first, second = (Framed.of(cloud, self.network.precision) for cloud in (source, target))
        found = self.network.solved(first, second, (self._share(first.points), self._share(second.points)))
        mixtures = found.source_mixture, found.target_mixture
        parts = [part for mixture in mixtures for part in (mixture.weights, mixture.means, mixture.covariances)]
        return (found.motion.matrix, found.solution.determinacy.to(source.dtype), *parts)

    def _share(self, points: Tensor) -> Tensor:
        return self.network.logits(points, chunked=False).to(points.dtype).softmax(-1)

    def example(self, seed: int, *, small: bool = False) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        batch, count, kept = (1, 60, 60) if small else (2, 130, 110)
        source, _ = _surface(batch, count, generator)
        rotation = random_rotations((batch,), generator=generator)
        return source, (source @ rotation.mT + 0.5)[:, -kept:].contiguous()


class OverlapGraph(Graph):
    """`OverlapNetwork` for one pair: from the components of two clouds to how well each two nodes match.

    `_points`, `_normals` are components and their unit normals; `_nodes` the rows among them that cover the cloud,
    `_around` the rows of the 64 others nearest to each node, nearest first, repeated where there are fewer; `spacing` the
    coarser of the two clouds' median distances between neighbouring components. Out come the logarithm of how clearly
    each two nodes are each other's best, and the logits of having a counterpart at all.
    """

    def __init__(self, network: OverlapNetwork) -> None:
        super().__init__()
        self.network = network
        self.inputs = {}
        for role, n, j in (("source", "N", "J"), ("target", "M", "K")):
            self.inputs |= {
                f"{role}_points": Port((n, 3)),
                f"{role}_normals": Port((n, 3)),
                f"{role}_nodes": Port((j,), torch.int64),
                f"{role}_around": Port((j, _AROUND), torch.int64),
            }
        self.inputs |= {"spacing": Port(())}
        self.outputs = {"log_matching": Port(("J", "K"))}
        self.least = {"N": 2, "M": 2, "J": 1, "K": 1}

    def forward(
        self,
        source_points: Tensor,
        source_normals: Tensor,
        source_nodes: Tensor,
        source_around: Tensor,
        target_points: Tensor,
        target_normals: Tensor,
        target_nodes: Tensor,
        target_around: Tensor,
        spacing: Tensor,
    ) -> tuple[Tensor, ...]:
        for role, points in (("source", source_points), ("target", target_points)):
            _assert_finite(role, points)
        source = nodes_of(source_points, source_normals, source_around, spacing, source_nodes)
        target = nodes_of(target_points, target_normals, target_around, spacing, target_nodes)
        found = self.network(source, target)
        return (found.log_matching()[0],)

    def example(self, seed: int, *, small: bool = False) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        inputs: list[Tensor] = []
        for count, nodes in ((40, 9), (50, 11)) if small else ((150, 24), (170, 20)):
            points, normals = (part[0] for part in _surface(1, count, generator))
            apart = torch.cdist(points, points)
            order = apart.argsort(dim=1)[:nodes, 1 + torch.arange(_AROUND) % (count - 1)]
            inputs += [points, normals, torch.arange(nodes), order]
        return (*inputs, torch.tensor(0.15))


def graph_of(network: nn.Module) -> Graph:
    """The graph of a network; a graph is its own. Raises `InvalidConfig` for what can have none."""
    if isinstance(network, Graph):
        return network.eval()
    if isinstance(network, DeepGMR):
        return DeepGMRGraph(network).eval()
    if isinstance(network, OverlapNetwork):
        return OverlapGraph(network).eval()
    raise InvalidConfig(f"a {type(network).__name__} is no network that can be exported")


def _assert_finite(role: str, points: Tensor) -> None:
    """An assertion, which a .pt2 keeps and ONNX cannot: there what is not finite comes out as NaN."""
    torch._assert_async(torch.isfinite(points).all(), f"{role}: the cloud holds NaN or infinite coordinates")


def _surface(batch: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (B, N, 3) on a bumpy, lopsided ball, and the directions (B, N, 3) they were drawn in."""
    direction = nn.functional.normalize(torch.randn(batch, count, 3, generator=generator), dim=-1)
    radius = 1 + 0.4 * direction[..., :1] * direction[..., 1:2] + 0.3 * (3 * direction[..., 2:]).sin()
    return direction * radius * torch.tensor([1.0, 0.7, 0.5]), direction
