"""The methods that can be evaluated by name: (source (N, 3), target (M, 3)) -> an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr.errors import InvalidConfig
from deepgmr.evaluation.peers import PEERS, Peer, PeerProcess, check_installed
from deepgmr.io import checkpoint
from deepgmr.networks.deepgmr import DeepGMR
from deepgmr.networks.overlap import OverlapNetwork
from deepgmr.pipeline.bundle import KIND, Bundle
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.settings import PRESETS

Method = Callable[[np.ndarray, np.ndarray], Any]


@dataclass(frozen=True, eq=False)
class Answer:
    """The least a method returns."""

    target_from_source: Any  # (4, 4), or (1, 4, 4), or a RigidTransform
    confidence: float | None = None
    milliseconds: float | None = None  # by the method's own clock


class Sizes(dict[str, Method]):
    """One method at several sizes, by their labels: the best of them is what is told, an oracle no user has."""


@dataclass(frozen=True)
class Options:
    """What every method is told."""

    seed: int = 0
    max_rotation_degrees: float | None = None


Factory = Callable[[str, Options], "Method | Sizes"]  # (argument or the empty string, options)


def _identity(argument: str, options: Options) -> Method:
    return lambda source, target: Answer(np.eye(4))


def _register(argument: str, options: Options) -> Method:
    """A preset of the bundled artifact, or another bundle."""
    preset = argument or "default"
    return registering(Registrar.load(preset=preset) if preset in PRESETS else Registrar.load(argument), options)


def registering(registrar: Registrar, options: Options | None = None) -> Method:
    """A registrar as a method."""
    told = options or Options()
    return lambda source, target: registrar.register(
        source, target, seed=told.seed, max_rotation_degrees=told.max_rotation_degrees
    )


def _network(argument: str, options: Options) -> Method:
    """A DeepGMR network alone, one forward pass; an overlap network in the place of the bundled one."""
    network = checkpoint.load(argument or "deepgmr")
    if isinstance(network, OverlapNetwork):
        return registering(Registrar(replace(Bundle.load(), network=network, id="")), options)
    assert isinstance(network, DeepGMR)

    def forward(source: np.ndarray, target: np.ndarray) -> Any:
        with torch.inference_mode():
            return network(torch.as_tensor(source).float()[None], torch.as_tensor(target).float()[None])

    return forward


def _peer(name: str) -> Factory:
    def make(argument: str, options: Options) -> Sizes:
        check_installed(name)
        try:
            sizes = (float(argument),) if argument else PEERS[name].sizes
        except ValueError:
            raise InvalidConfig(f"`{name}:{argument}`: the size must be a number, a share of the diagonal") from None
        process = PeerProcess(options.seed, torch.get_num_threads())
        return Sizes({f"{name}:{size:g}": _asking(process, Peer(name, size)) for size in sizes})

    return make


def _asking(process: PeerProcess, peer: Peer) -> Method:
    def ask(source: np.ndarray, target: np.ndarray) -> Answer:
        matrix, milliseconds = process.solve(peer, source, target)
        return Answer(matrix, milliseconds=milliseconds)

    return ask


# A name, or `name:argument`: "register:fast", "network:deepgmr-unseen", "ransac:0.02".
METHODS: dict[str, Factory] = {
    "identity": _identity,
    "register": _register,
    "network": _network,
    **{name: _peer(name) for name in PEERS},
}


def make_methods(
    specs: Sequence[str], *, seed: int = 0, max_rotation_degrees: float | None = None
) -> dict[str, Method | Sizes]:
    """Methods by their names in `METHODS`, as `name:argument`, or by the name or path of weights or of a bundle.

    Raises `InvalidConfig` for an unknown one, `MissingDependency` for a peer that is not installed, and
    `InvalidCheckpoint` for weights that cannot be used.
    """
    options = Options(seed, max_rotation_degrees)
    chosen: dict[str, Method | Sizes] = {}
    for spec in [specs] if isinstance(specs, str) else specs:
        name, _, argument = spec.partition(":")
        if name in METHODS:
            chosen[spec] = METHODS[name](argument, options)
        elif spec in checkpoint.bundled():
            chosen[spec] = _network(spec, options)
        elif Path(spec).is_file():
            holds_bundle = checkpoint.read(spec).kind == KIND
            chosen[spec] = (_register if holds_bundle else _network)(spec, options)
        else:
            known = ", ".join((*METHODS, *checkpoint.bundled()))
            raise InvalidConfig(f"unknown method `{spec}`; the methods are {known}, or the path of weights or a bundle")
    return chosen
