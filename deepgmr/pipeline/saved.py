"""A prepared scan as a file: safetensors, with the front-end that prepared it, so that a map outlives the process."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from deepgmr.errors import InvalidCheckpoint, InvalidConfig
from deepgmr.geometry.voxels import Heaps
from deepgmr.io import checkpoint as files
from deepgmr.pipeline.scan import Scan, fingerprint
from deepgmr.pipeline.settings import ScanSettings
from deepgmr.plain import from_plain, to_plain

KIND = "scan"


def write_scan(path: str | Path, scan: Scan) -> None:
    """Write what `read_scan` reads back, bit for bit; the file appears whole or not at all."""
    config = {
        "settings": to_plain(scan.settings),
        "front_end": fingerprint(scan.settings),
        "size": scan.size,
        "radius": scan.radius,
        "total": scan.total,
        "far": scan.far,
        "coarse": scan.coarse,
        "step": scan.heaps.step,
        "factor": scan.factor,
    }
    arrays = {"origin": scan.origin, "sums": scan.heaps.sums, "counts": scan.heaps.counts}
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    files.write(path, files.Checkpoint(KIND, config, tensors=tensors))


def read_scan(path: str | Path) -> Scan:
    """Raises `InvalidCheckpoint`, naming the file, for one that holds no scan, or a scan of another front-end."""
    found = files.read(path)
    if found.kind != KIND:
        raise InvalidCheckpoint(f"{path}: holds a `{found.kind}`, not a prepared scan; `Scan.save` writes those")
    content = found.config
    try:
        settings = from_plain(ScanSettings, content["settings"])
        made_for = content["front_end"]
        origin, sums, counts = (found.tensors[name].numpy() for name in ("origin", "sums", "counts"))
        coarse = None if content["coarse"] is None else float(content["coarse"])
        size, radius, step = (float(content[name]) for name in ("size", "radius", "step"))
        total, far, factor = int(content["total"]), int(content["far"]), float(content.get("factor", 1.0))
    except (InvalidConfig, KeyError, TypeError, ValueError) as error:
        raise InvalidCheckpoint(f"{path}: is no scan of this version ({error}); prepare the cloud again") from None
    if made_for != fingerprint(settings):
        raise InvalidCheckpoint(
            f"{path}: was prepared by another front-end ({made_for}; this version's is {fingerprint(settings)}); "
            "prepare the cloud again"
        )
    shapes = (origin.shape, sums.shape, counts.shape) == ((3,), (len(counts), 3), (len(sums),))
    types = (origin.dtype, sums.dtype, counts.dtype) == (np.float64, np.int64, np.int64)
    numbers = [size, radius, step, factor, *origin.ravel(), coarse or 1.0]
    if not (
        shapes and types and all(map(math.isfinite, numbers)) and min(size, radius, step, factor, *counts, total) > 0
    ):
        raise InvalidCheckpoint(f"{path}: what it says of the cloud cannot be; prepare the cloud again")
    return Scan(origin, size, radius, Heaps(sums, counts, step), total, far, coarse, settings, factor)
