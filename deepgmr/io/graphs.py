"""Networks as files for other runtimes: torch.export (.pt2) and ONNX.

Nothing is written before the bytes that are to be written have been run on problems of another size than the one
they were traced with, and gave what the network gives.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepgmr.errors import InvalidFile
from deepgmr.extras import extra
from deepgmr.io.disk import check_writable, replacing
from deepgmr.io.quiet import quiet_warnings
from deepgmr.networks.graphs import Graph, graph_of

FORMATS = (".pt2", ".onnx")
METADATA = "deepgmr"  # the key in an ONNX file's properties; in a .pt2 the extra file `deepgmr.json`
TOLERANCE = 1e-4  # of an output, in shares of its largest number where that is above one


def write_graph(path: Path, network: nn.Module, *, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write a network as the suffix of `path` says; what was written about it comes back, with its largest difference.

    The file holds one JSON text: `about`, the versions, and the inputs and outputs with their shapes, in which a name
    is a size that varies. Raises `InvalidFile` for another suffix, a place that cannot be written, or a file that does
    not give what the network gives; `InvalidConfig` for a network that no graph holds; `MissingDependency` without the
    extra `export`, which ONNX needs.
    """
    if path.suffix not in FORMATS:
        raise InvalidFile(f"{path}: a network is exported as {' or '.join(FORMATS)}")
    check_writable(path)
    if path.suffix == ".onnx":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            extra(library, "export", f"{path}: ONNX")
    graph = graph_of(network)
    told = {**(about or {}), **_versions(), **_ports(graph)}
    make, start = (_pt2, _run_pt2) if path.suffix == ".pt2" else (_onnx, _run_onnx)
    with quiet_warnings(), _silenced("torch.onnx", "torch.export", "onnxscript", "onnx_ir"), torch.no_grad():
        try:
            data = make(graph, _traced(graph), json.dumps(told, sort_keys=True))
            difference = compared(graph, start(data, graph))
        except RuntimeError as error:  # what exporters raise, and runtimes
            first = str(error).strip().partition("\n")[0]
            raise InvalidFile(f"{path}: not written, torch {torch.__version__} cannot export it: {first}") from error
    if not difference <= TOLERANCE:
        raise InvalidFile(
            f"{path}: not written, the exported graph is off by {difference:.3g} (allowed is {TOLERANCE:g})"
        )
    with replacing(path) as stream:
        stream.write(data)
    return {"file": str(path), **told, "difference": difference}


def compared(graph: Graph, run: Callable[..., list[Tensor]]) -> float:
    """How far a runtime's answers are from the graph's, in shares of the largest number where that is above one."""
    worst = torch.zeros(())
    for seed, small in ((1, False), (2, True)):
        inputs = graph.example(seed, small=small)
        for ours, theirs in zip(graph(*inputs), run(*inputs), strict=True):
            off = (ours - theirs).abs().amax() / ours.abs().amax().clamp_min(1)
            worst = torch.maximum(worst, off)  # which NaN survives
    return float(worst)


def _traced(graph: Graph) -> torch.export.ExportedProgram:
    sizes = {name: torch.export.Dim(name, min=least) for name, least in graph.least.items()}
    shapes = tuple({axis: sizes[name] for axis, name in _named(port.shape)} or None for port in graph.inputs.values())
    return torch.export.export(graph, graph.example(0), dynamic_shapes=shapes, strict=False)


def _pt2(graph: Graph, program: torch.export.ExportedProgram, told: str) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={f"{METADATA}.json": told})
    return stream.getvalue()


def _onnx(graph: Graph, program: torch.export.ExportedProgram, told: str) -> bytes:
    named = {name: dict(_named(port.shape)) for name, port in graph.inputs.items()}
    made = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        optimize=False,  # takes minutes, the square of the nodes of the solver; a runtime optimises what it loads
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        dynamic_shapes=named,
    )
    assert made is not None  # as it is for `dynamo`
    made.model.metadata_props[METADATA] = told
    return made.model_proto.SerializeToString()


def _run_pt2(data: bytes, graph: Graph) -> Callable[..., list[Tensor]]:
    return torch.export.load(io.BytesIO(data)).module()


def _run_onnx(data: bytes, graph: Graph) -> Callable[..., list[Tensor]]:
    runtime = extra("onnxruntime", "export", "ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: value.contiguous().numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
        return [torch.from_numpy(found) for found in session.run(list(graph.outputs), given)]

    return run


def _named(shape: tuple[str | int, ...]) -> Iterator[tuple[int, str]]:
    return ((axis, size) for axis, size in enumerate(shape) if isinstance(size, str))


def _versions() -> dict[str, str]:
    from deepgmr import __version__

    return {"deepgmr": __version__, "torch": str(torch.__version__)}


def _ports(graph: Graph) -> dict[str, Any]:
    return {
        side: {
            name: {"shape": list(port.shape), "dtype": str(port.dtype).removeprefix("torch.")} for name, port in ports
        }
        for side, ports in (("inputs", graph.inputs.items()), ("outputs", graph.outputs.items()))
    }


@contextmanager
def _silenced(*names: str) -> Iterator[None]:
    """Within, these libraries' logs hold errors only: what exporters say on the way is not for who uses the file."""
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
