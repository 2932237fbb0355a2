"""`deepgmr doctor`: what is installed, what the machine has, and whether a registration works here."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any

import typer

from deepgmr.cli.terminal import BAD_INPUT, answering, paint, put

REQUIRED = ("torch", "numpy", "scipy", "small_gicp", "safetensors", "typer", "rich", "jinja2")
OPTIONAL = {  # a package and the extra that brings it
    "trimesh": "meshes",
    "laspy": "las",
    "pye57": "e57",
    "h5py": "evaluate",
    "pooch": "download",
    "matplotlib": "plots",
    "tensorboard": "tensorboard",
    "rerun-sdk": "view",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "open3d": "benchmark",
    "kiss-matcher": "benchmark",
}
_POINTS = 800  # of each cloud of the self-test


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Say what is installed, whether the bundled weights are whole, and register a small pair as a test.

    Takes seconds. Exits with 0 when all is well and with 2 when something needed is missing or broken.
    """
    with answering("deepgmr doctor", as_json=as_json):
        found = examined()
        put(json.dumps(found) + "\n" if as_json else _text(found))
        raise typer.Exit(0 if found["well"] else BAD_INPUT)


def examined() -> dict[str, Any]:
    """Everything that is said, as JSON holds it; `well` is whether a registration works here."""
    import torch

    from deepgmr import __version__

    weights, test = _weights(), _self_test()
    required = {name: _version(name) for name in REQUIRED}
    return {
        "well": bool(test["well"] and all(row["whole"] for row in weights) and all(required.values())),
        "deepgmr": {"version": __version__, "folder": str(resources.files("deepgmr"))},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "required": required,
        "optional": {name: {"version": _version(name), "extra": extra} for name, extra in OPTIONAL.items()},
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "weights": weights,
        "self_test": test,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _weights() -> list[dict[str, Any]]:
    """Every file of weights in the package: the digest inside each tells a damaged one."""
    from deepgmr.errors import DeepGMRError
    from deepgmr.io import checkpoint

    rows = []
    inside = Path(str(resources.files("deepgmr")))
    for path in sorted([*inside.glob("weights/*.safetensors"), *inside.glob("bundles/*.safetensors")]):
        try:
            kind, trouble = checkpoint.read(path).kind, None
        except DeepGMRError as error:
            kind, trouble = None, str(error)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(inside).as_posix()
        rows.append({"file": name, "kind": kind, "sha256": digest, "whole": trouble is None, "trouble": trouble})
    return rows


def _self_test() -> dict[str, Any]:
    """One registration of two crops of a known shape, moved by a known motion."""
    import numpy as np

    from deepgmr.errors import DeepGMRError

    start = time.perf_counter()
    try:
        from deepgmr.pipeline.registrar import register

        source, target, truth = _pair()
        answer = register(source, target)
        turn = answer.target_from_source[:3, :3] @ truth[:3, :3].T
        degrees = float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
        told = {"rotation_error_degrees": degrees, "confidence": answer.confidence, "status": answer.status.value}
    except (DeepGMRError, ImportError, OSError, RuntimeError) as error:
        return {"well": False, "seconds": time.perf_counter() - start, "trouble": f"{type(error).__name__}: {error}"}
    return {"well": degrees < 2.0, "seconds": time.perf_counter() - start, **told, "trouble": None}


def _pair() -> tuple[Any, Any, Any]:
    """Two samplings of three boxes that differ, (N, 3) each, and the motion (4, 4) between them."""
    import numpy as np
    from scipy.spatial.transform import Rotation

    draw = np.random.default_rng(0)

    def surface() -> Any:
        parts = []
        for centre, size in (
            ((0, 0, 0), (2, 1, 0.4)),
            ((0.6, 0.2, 0.6), (0.4, 0.5, 0.9)),
            ((-0.7, 0, 0.3), (0.3,) * 3),
        ):
            points = draw.uniform(-0.5, 0.5, (_POINTS // 3, 3))
            side = draw.integers(0, 3, len(points))
            points[np.arange(len(points)), side] = draw.choice((-0.5, 0.5), len(points))
            parts.append(points * size + centre)
        return np.concatenate(parts)

    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = Rotation.from_rotvec([0.3, 1.8, -0.7]).as_matrix(), (1.0, -2.0, 0.5)
    return surface(), surface() @ truth[:3, :3].T + truth[:3, 3], truth


def _text(found: dict[str, Any]) -> str:
    def mark(well: bool, needed: bool = True) -> str:
        colour = "green" if well else "red" if needed else "yellow"
        return paint("ok     " if well else "BROKEN " if needed else "absent ", colour, sys.stdout)

    test = found["self_test"]
    lines = [
        f"deepgmr {found['deepgmr']['version']} in {found['deepgmr']['folder']}",
        f"Python {found['python']['version']} ({found['python']['executable']}) on {found['platform']}",
        f"{found['processors']} processors, torch uses {found['torch_threads']} threads "
        f"(OMP_NUM_THREADS {found['OMP_NUM_THREADS'] or 'not set'}); register uses one",
        f"GPU: {found['gpu'] or 'none that torch can use; register needs none, training is slower without'}",
        *(f"{mark(bool(version))} {name} {version or ''}".rstrip() for name, version in found["required"].items()),
    ]
    for name, row in found["optional"].items():
        get = row["version"] or f'for the extra {row["extra"]}: pip install "deepgmr[{row["extra"]}]"'
        lines.append(f"{mark(bool(row['version']), needed=False)} {name} {get}")
    for row in found["weights"]:
        lines.append(f"{mark(row['whole'])} {row['file']} {row['trouble'] or 'sha256 ' + row['sha256'][:12]}")
    told = test["trouble"] or (
        f"a pair of {_POINTS} points in {test['seconds']:.1f} s, imports included, rotation off by "
        f"{test['rotation_error_degrees']:.2f} degrees, confidence {test['confidence']:.3f}"
    )
    lines.append(f"{mark(test['well'])} self-test: {told}")
    return "\n".join(lines) + "\n"
