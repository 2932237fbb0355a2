"""Crops of independent samplings, cut from the shapes of ModelNet: no point of one cloud is in the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgmr.datasets.pairs.protocols import make_pairs
from deepgmr.datasets.suites.fixed import PairSuite, read_suite, suite_of
from deepgmr.datasets.suites.modelnet import read_modelnet
from deepgmr.errors import InvalidFile

RECROPS = ("recrop70", "recrop50")
_SEED = 20261121
_POINTS = 1024  # of a shape that are used
_CHUNK = 100  # pairs made at once


def recropped(path: str | Path, protocol: str) -> PairSuite:
    """One pair of each shape of a suite with whole shapes, or of each test shape of a folder of ModelNet40.

    Always the same pairs of the same shapes; rows keep what the suite says of them. Raises `InvalidFile` for a suite
    without shapes, or with shapes of fewer than 1,024 points.
    """
    path = Path(path)
    more: dict[str, Any]
    if path.is_dir():
        modelnet = read_modelnet(path, "test")
        shapes = list(modelnet.points)
        names = tuple(f"{modelnet.categories[label]}_{i:04d}" for i, label in enumerate(modelnet.labels))
        more = {"names": names, "labels": modelnet.labels, "categories": modelnet.categories}
    else:
        suite = read_suite(path)
        if suite.shapes is None:
            raise InvalidFile(f"{path} holds no whole shapes under `shape`, so no pairs can be cut from them")
        shapes = suite.shapes
        kept = ("names", "labels", "categories", "axisymmetric", "unseen")
        more = {key: getattr(suite, key) for key in kept}
    if min(map(len, shapes)) < _POINTS:
        raise InvalidFile(f"{path}: shapes of {min(map(len, shapes))} points are too small; {_POINTS} are needed")
    parents = torch.from_numpy(np.stack([shape[:_POINTS] - shape.mean(axis=0) for shape in shapes]).astype(np.float32))
    generator = torch.Generator().manual_seed(_SEED)
    parts = [
        suite_of(make_pairs(chunk, protocol, generator=generator), protocol, parents=chunk)
        for chunk in parents.split(_CHUNK)
    ]
    return PairSuite(
        name=protocol,
        kind="modelnet",
        sources=[cloud for part in parts for cloud in part.sources],
        targets=[cloud for part in parts for cloud in part.targets],
        transforms=np.concatenate([part.transforms for part in parts]),
        shapes=[shape for part in parts for shape in part.shapes or ()],
        **more,
    )
