"""Networks as graphs: the numbers of the network, for clouds of any size, from operators that every runtime has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepgmr.errors import InvalidConfig
from deepgmr.networks import DeepGMR, NetworkConfig, OverlapConfig, OverlapNetwork
from deepgmr.networks.graphs import DeepGMRGraph, Graph, OverlapGraph, graph_of
from deepgmr.networks.patches import nodes_of

SMALL = NetworkConfig(components=8, encoder=(32,), decoder=(32, 16), pooled=16, landmarks=4)


def deepgmr(features: str = "moments") -> DeepGMR:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = DeepGMR(NetworkConfig(**{**vars(SMALL), "features": features}))
    network.calibrate(DeepGMRGraph(network).example(5)[0])
    return network.eval()


def overlap() -> OverlapNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return OverlapNetwork(OverlapConfig(width=16, heads=2, blocks=2)).eval()


def answers(network: DeepGMR, source: Tensor, target: Tensor) -> list[Tensor]:
    """What the network says, in the order of its graph's outputs."""
    found = network(source, target)
    parts = [found.target_from_source, found.solution.determinacy]
    for mixture in (found.source_mixture, found.target_mixture):
        parts += [mixture.weights, mixture.means, mixture.covariances]
    return parts


@pytest.mark.parametrize("features", ["moments", "xyz", "tnet"])
@torch.no_grad()
def test_a_graph_says_what_deepgmr_says(features: str) -> None:
    network = deepgmr(features)
    graph = graph_of(network)
    for seed, small in ((3, False), (4, True)):
        clouds = graph.example(seed, small=small)
        found, expected = graph(*clouds), answers(network, *clouds)
        assert len(found) == len(graph.outputs) == len(expected)
        for name, ours, theirs in zip(graph.outputs, found, expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6), name


@torch.no_grad()
def test_a_graph_says_what_the_overlap_network_says_of_the_nodes() -> None:
    network = overlap()
    graph = graph_of(network)
    *sides, spacing = graph.example(3)
    nodes = [
        nodes_of(points, normals, around, float(spacing), chosen)
        for points, normals, chosen, around in (sides[:4], sides[4:])
    ]
    expected = network(*nodes)
    (matching,) = graph(*sides, spacing)
    assert torch.allclose(matching, expected.log_matching()[0], atol=1e-5)


@pytest.mark.parametrize("make", [deepgmr, overlap])
@torch.no_grad()
def test_ports_are_what_goes_in_and_comes_out(make) -> None:  # type: ignore[no-untyped-def]
    graph: Graph = graph_of(make())
    for small in (False, True):
        inputs = graph.example(0, small=small)
        sizes: dict[str, int] = {}
        both = [(graph.inputs, inputs), (graph.outputs, graph(*inputs))]
        for ports, values in both:
            for (name, port), value in zip(ports.items(), values, strict=True):
                assert value.dtype == port.dtype, name
                assert len(value.shape) == len(port.shape), name
                for said, size in zip(port.shape, value.shape, strict=True):
                    assert size == (said if isinstance(said, int) else sizes.setdefault(said, size)), name
        assert set(sizes) == set(graph.least)


@torch.no_grad()
def test_what_is_not_finite_is_refused() -> None:
    graph = graph_of(deepgmr())
    source, target = graph.example(0)
    target = target.clone()
    target[1, 2, 0] = torch.nan
    with pytest.raises(RuntimeError, match="target: the cloud holds NaN"):
        graph(source, target)


@torch.no_grad()
def test_what_has_no_shape_is_refused() -> None:
    graph = graph_of(deepgmr())
    source, target = graph.example(0)
    with pytest.raises(RuntimeError, match="source: all points of a cloud are equal"):
        graph(torch.ones_like(source), target)


def test_what_no_graph_holds_is_named() -> None:
    with pytest.raises(InvalidConfig, match="features `moments`"):
        graph_of(DeepGMR(NetworkConfig(features="rri")))
    with pytest.raises(InvalidConfig, match="Linear"):
        graph_of(nn.Linear(2, 2))
    graph = graph_of(overlap())
    assert isinstance(graph, OverlapGraph) and graph_of(graph) is graph
