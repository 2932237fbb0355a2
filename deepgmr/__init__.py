"""Register point clouds by matching Gaussian mixtures. The public list, in pipeline order; loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepgmr import divergence, errors
    from deepgmr.geometry.transform import RigidTransform
    from deepgmr.io import read_cloud, write_cloud
    from deepgmr.io.checkpoint import load
    from deepgmr.mixture import GaussianMixture
    from deepgmr.mixture.solver import solve_rigid
    from deepgmr.pipeline.answer import Alternative, Registration, Stats
    from deepgmr.pipeline.bundle import Bundle
    from deepgmr.pipeline.judge import Evidence, Status
    from deepgmr.pipeline.registrar import Registrar, register, register_batch
    from deepgmr.pipeline.scan import Scan
    from deepgmr.pipeline.settings import Settings
    from deepgmr.pipeline.trace import Trace

__version__ = "0.1.0"

_HOME = {  # in reading order
    "errors": "deepgmr.errors",
    "RigidTransform": "deepgmr.geometry.transform",
    "GaussianMixture": "deepgmr.mixture.gaussian_mixture",
    "solve_rigid": "deepgmr.mixture.solver",
    "divergence": "deepgmr.divergence",
    "load": "deepgmr.io.checkpoint",
    "read_cloud": "deepgmr.io",
    "write_cloud": "deepgmr.io",
    "Settings": "deepgmr.pipeline.settings",
    "Scan": "deepgmr.pipeline.scan",
    "Status": "deepgmr.pipeline.judge",
    "Evidence": "deepgmr.pipeline.judge",
    "Alternative": "deepgmr.pipeline.answer",
    "Stats": "deepgmr.pipeline.answer",
    "Registration": "deepgmr.pipeline.answer",
    "Trace": "deepgmr.pipeline.trace",
    "Bundle": "deepgmr.pipeline.bundle",
    "Registrar": "deepgmr.pipeline.registrar",
    "register": "deepgmr.pipeline.registrar",
    "register_batch": "deepgmr.pipeline.registrar",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'deepgmr' has no attribute {name!r}")
    module = import_module(_HOME[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
