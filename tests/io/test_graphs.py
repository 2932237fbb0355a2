"""Networks as files: each is run by another runtime and says what the network says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from problems import make_problem
from torch import Tensor, nn

from deepgmr.errors import InvalidFile
from deepgmr.geometry.procrustes import weighted_procrustes
from deepgmr.io.graphs import METADATA, write_graph
from deepgmr.networks import DeepGMR, NetworkConfig, OverlapConfig, OverlapNetwork
from deepgmr.networks.graphs import Graph, Port, graph_of

# Operators that runtimes lack.
FACTORS = ("svd", "inv", "inverse", "cholesky", "eig", "eigh", "solve", "qr", "det", "slogdet", "lu")


class Solver(Graph):
    """The closed form that a graph of DeepGMR holds, by itself."""

    inputs = {"source": Port(("B", "J", 3)), "target": Port(("B", "J", 3)), "weights": Port(("B", "J"))}  # noqa: RUF012
    outputs = {"rotation": Port(("B", 3, 3)), "determinacy": Port(("B",))}  # noqa: RUF012
    least = {"B": 1, "J": 3}  # noqa: RUF012

    def forward(self, source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        found = weighted_procrustes(source, target, weights)
        return found.target_from_source.rotation, found.determinacy

    def example(self, seed: int, *, small: bool = False) -> tuple[Tensor, ...]:
        problem = make_problem("generic", batch=(1 if small else 3,), seed=seed, components=5 + seed)
        return tuple(
            torch.tensor(part, dtype=torch.float32) for part in (problem.source, problem.target, problem.weights)
        )


def network(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        if kind == "overlap":
            return OverlapNetwork(OverlapConfig(width=16, heads=2, blocks=1)).eval()
        model = DeepGMR(NetworkConfig(components=6, encoder=(16,), decoder=(16,), pooled=8, landmarks=2))
    model.calibrate(graph_of(model).example(5)[0])
    return model.eval()


def session(path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime", reason='ONNX needs pip install "deepgmr[export]"')
    pytest.importorskip("onnxscript", reason='ONNX needs pip install "deepgmr[export]"')
    return runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def needs_onnx() -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason='ONNX needs pip install "deepgmr[export]"')


def arrays(graph: Graph, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    return {name: value.contiguous().numpy() for name, value in zip(graph.inputs, inputs, strict=True)}


@pytest.mark.parametrize("kind", ["deepgmr", "overlap"])
@torch.no_grad()
def test_a_pt2_says_what_the_network_says(kind: str, tmp_path: Path) -> None:
    path, model = tmp_path / f"{kind}.pt2", network(kind)
    told = write_graph(path, model, about={"name": kind, "id": "0123456789ab"})
    assert told["difference"] <= 1e-4 and told["id"] == "0123456789ab"
    extra = {f"{METADATA}.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra[f"{METADATA}.json"]).items() <= told.items()
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in names if any(f"linalg_{word}" in name or f".{word}." in name for word in FACTORS)]
    graph, run = graph_of(model), program.module()
    for seed, small in ((11, False), (12, True)):
        inputs = graph.example(seed, small=small)
        for name, ours, theirs in zip(graph.outputs, graph(*inputs), run(*inputs), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deepgmr", "overlap"])
@torch.no_grad()
def test_an_onnx_says_what_the_network_says(kind: str, tmp_path: Path) -> None:
    needs_onnx()
    path, model = tmp_path / f"{kind}.onnx", network(kind)
    told = write_graph(path, model, about={"name": kind, "id": "0123456789ab"})
    runtime, graph = session(path), graph_of(model)
    assert json.loads(runtime.get_modelmeta().custom_metadata_map[METADATA]).items() <= told.items()
    for ports, found in ((graph.inputs, runtime.get_inputs()), (graph.outputs, runtime.get_outputs())):
        assert {port.name: tuple(port.shape) for port in found} == {name: port.shape for name, port in ports.items()}
    for seed, small in ((11, False), (12, True)):
        inputs = graph.example(seed, small=small)
        for name, ours, theirs in zip(
            graph.outputs, graph(*inputs), runtime.run(None, arrays(graph, inputs)), strict=True
        ):
            np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-4, err_msg=name)
    if kind == "deepgmr":  # no assertion in ONNX: what is not finite is told by the answer
        source, target = (value.clone() for value in graph.example(11))
        target[0, 3, 1] = torch.nan
        motion, determinacy, *_ = runtime.run(None, arrays(graph, (source, target)))
        assert np.isnan(motion[0, :3]).all() and np.isnan(determinacy[0]) and np.isfinite(motion[1]).all()
        for clouds in ((source[1:], torch.ones(1, 9, 3)), (torch.ones(1, 9, 3), source[1:])):  # without a shape
            assert not runtime.run(None, arrays(graph, clouds))[1] > 0


@pytest.mark.slow
def test_the_solver_in_a_graph_is_the_svd_in_float64(tmp_path: Path) -> None:
    needs_onnx()
    write_graph(tmp_path / "solver.onnx", Solver())
    runtime = session(tmp_path / "solver.onnx")
    for kind, noise, flat in (
        *(("generic", 0.0, 1.0), ("generic", 3.0, 1.0), ("planar", 0.0, 1.0), ("symmetric", 0.0, 1.0)),
        *(("generic", 0.0, 0.1), ("generic", 1.0, 0.1), ("generic", 0.0, 0.05)),  # all but on a line
    ):
        problem = make_problem(kind, batch=(200,), seed=3, components=9, noise=noise)
        axis = problem.source[:, :1] / np.linalg.norm(problem.source[:, :1], axis=-1, keepdims=True)
        along = (problem.source * axis).sum(-1, keepdims=True) * axis
        source = along + flat * (problem.source - along)
        shift = problem.target - problem.source @ problem.rotation.swapaxes(-1, -2)  # translation and noise
        target = source @ problem.rotation.swapaxes(-1, -2) + flat * shift
        given = {"source": source, "target": target, "weights": problem.solver_weights}
        given = {name: value.astype(np.float32) for name, value in given.items()}
        rotation, determinacy = runtime.run(None, given)
        np.testing.assert_allclose(
            rotation @ rotation.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (200, 3, 3)), atol=1e-5
        )
        np.testing.assert_allclose(np.linalg.det(rotation.astype(float)), 1, atol=1e-5)
        exact = [value.astype(float) for value in given.values()]
        sure = np.flatnonzero(determinacy > 1e-3)
        assert len(sure) > 100
        for b in sure:
            truth, _, _ = oracles.procrustes(*(value[b] for value in exact))
            assert oracles.angle_between(rotation[b], truth) < 2e-6 / min(determinacy[b], 1), (kind, noise, flat)
    mirrored = np.float32([[[1, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]]])
    given = {"source": mirrored, "target": mirrored * np.float32([1, 1, -1]), "weights": np.ones((1, 6), np.float32)}
    rotation, determinacy = runtime.run(None, given)
    assert (
        determinacy == 0 and abs(np.linalg.det(rotation[0].astype(float)) - 1) < 1e-5
    )  # proper, and said to be a guess


class Forgetful(Graph):
    """A graph whose answer depends on when it was asked, as no export may."""

    inputs = {"x": Port(("N",))}  # noqa: RUF012
    outputs = {"y": Port(("N",))}  # noqa: RUF012
    least = {"N": 1}  # noqa: RUF012

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x + (0.0 if torch.compiler.is_exporting() else 1e-3),)

    def example(self, seed: int, *, small: bool = False) -> tuple[Tensor, ...]:
        return (torch.linspace(0, 1, 5 if small else 7),)


def test_nothing_is_written_that_says_something_else(tmp_path: Path) -> None:
    (tmp_path / "old.pt2").write_bytes(b"old")
    with pytest.raises(InvalidFile, match=r"old\.pt2: not written, the exported graph is off by 0\.00(1|0999)"):
        write_graph(tmp_path / "old.pt2", Forgetful())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    with pytest.raises(InvalidFile, match=r"net\.pt: a network is exported as \.pt2 or \.onnx"):
        write_graph(tmp_path / "net.pt", network("overlap"))
