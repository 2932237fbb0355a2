"""Register point clouds by matching Gaussian mixtures. The public list, in pipeline order; loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepgmr import divergence, errors
    from deepgmr.checkpoint import load
    from deepgmr.confidence import Status
    from deepgmr.mixture import GaussianMixture
    from deepgmr.registration import Registration, register, register_batch
    from deepgmr.solver import solve_rigid
    from deepgmr.transform import RigidTransform

__version__ = "0.1.0"

_HOME = {
    "errors": "deepgmr.errors",
    "RigidTransform": "deepgmr.transform",
    "GaussianMixture": "deepgmr.mixture",
    "divergence": "deepgmr.divergence",
    "solve_rigid": "deepgmr.solver",
    "Status": "deepgmr.confidence",
    "load": "deepgmr.checkpoint",
    "register": "deepgmr.registration",
    "register_batch": "deepgmr.registration",
    "Registration": "deepgmr.registration",
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
