"""The methods that can be evaluated by name: (source (N, 3), target (M, 3)) -> an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepgmr.errors import InvalidConfig

Method = Callable[[np.ndarray, np.ndarray], Any]
Factory = Callable[..., Method]  # (argument, *, seed, max_rotation_degrees) -> Method


@dataclass(frozen=True, eq=False)
class Answer:
    """The least a method returns."""

    target_from_source: Any  # (4, 4), or (1, 4, 4), or a RigidTransform
    confidence: float | None = None


def _identity(argument: str | None, *, seed: int, max_rotation_degrees: float | None) -> Method:
    return lambda source, target: Answer(np.eye(4))


def _register(argument: str | None, *, seed: int, max_rotation_degrees: float | None) -> Method:
    from deepgmr.pipeline.registrar import register  # here: reads trained weights

    return lambda source, target: register(source, target, seed=seed, max_rotation_degrees=max_rotation_degrees)


def _network(argument: str | None, *, seed: int, max_rotation_degrees: float | None) -> Method:
    from deepgmr.io.checkpoint import load  # here: reads trained weights

    model = load(argument or "deepgmr").eval()

    def forward(source: np.ndarray, target: np.ndarray) -> Any:
        with torch.inference_mode():
            return model(torch.as_tensor(source).float()[None], torch.as_tensor(target).float()[None])

    return forward


# A name, or `name:argument`: "network:deepgmr-unseen" loads those weights.
METHODS: dict[str, Factory] = {"identity": _identity, "register": _register, "network": _network}


def make_methods(
    specs: Sequence[str], *, seed: int = 0, max_rotation_degrees: float | None = None
) -> dict[str, Method]:
    """Methods by their names in `METHODS` (or `name:argument`); `InvalidConfig` for an unknown one."""
    chosen: dict[str, Method] = {}
    for spec in [specs] if isinstance(specs, str) else specs:
        name, _, argument = spec.partition(":")
        if name not in METHODS:
            raise InvalidConfig(f"unknown method `{spec}`; the methods are {', '.join(METHODS)}")
        chosen[spec] = METHODS[name](argument or None, seed=seed, max_rotation_degrees=max_rotation_degrees)
    return chosen
