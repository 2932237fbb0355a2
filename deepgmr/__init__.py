"""Register point clouds by matching Gaussian mixtures. The public list, in pipeline order; loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepgmr import divergence, errors
    from deepgmr.geometry.transform import RigidTransform
    from deepgmr.io.checkpoint import load
    from deepgmr.mixture import GaussianMixture
    from deepgmr.mixture.solver import solve_rigid
    from deepgmr.pipeline.judge import Status
    from deepgmr.pipeline.registrar import Registration, register, register_batch

__version__ = "0.1.0"

_HOME = {
    "errors": "deepgmr.errors",
    "RigidTransform": "deepgmr.geometry.transform",
    "GaussianMixture": "deepgmr.mixture.gaussian_mixture",
    "divergence": "deepgmr.divergence",
    "solve_rigid": "deepgmr.mixture.solver",
    "Status": "deepgmr.pipeline.judge",
    "load": "deepgmr.io.checkpoint",
    "register": "deepgmr.pipeline.registrar",
    "register_batch": "deepgmr.pipeline.registrar",
    "Registration": "deepgmr.pipeline.registrar",
}

__all__ = [
    "errors",
    "RigidTransform",
    "GaussianMixture",
    "divergence",
    "solve_rigid",
    "Status",
    "load",
    "register",
    "register_batch",
    "Registration",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'deepgmr' has no attribute {name!r}")
    module = import_module(_HOME[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
