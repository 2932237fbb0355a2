"""Suites cut on the spot by a protocol of `deepgmr.datasets.pairs.protocols`: of procedural shapes, or of ModelNet40."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deepgmr.datasets.pairs.protocols import PROTOCOLS, make_pairs
from deepgmr.datasets.suites.fixed import PairSuite, suite_of
from deepgmr.datasets.suites.modelnet import read_modelnet
from deepgmr.datasets.worlds.shapes import sample_shapes
from deepgmr.errors import InvalidConfig

PROCEDURAL = "procedural"
PAIRS = 25  # of a procedural suite
POINTS = 2048  # of a procedural shape, before the protocol cuts it
SMALL = tuple(f"{PROCEDURAL}#{name}" for name in ("noisy", "resampled", "crop70_180", "crop50_180"))  # needs no data
SEEN = 20  # categories of ModelNet40, the first ones, that `unseen` leaves out
_SEED = 2**50  # of the draws; no step of a training reaches it
_CHUNK = 64  # pairs made at once


def procedural_suite(protocol: str = "resampled", *, pairs: int = PAIRS) -> PairSuite:
    """Pairs of procedural shapes (radius 1), always the same ones. Raises `InvalidConfig` for an unknown protocol."""
    _check(protocol)
    generator = torch.Generator().manual_seed(_SEED)
    shapes, _ = sample_shapes(pairs, POINTS, generator=generator)
    made = make_pairs(shapes, protocol, generator=generator)
    return suite_of(made, f"{PROCEDURAL}#{protocol}", parents=shapes)


def modelnet_suite(root: str | Path, protocol: str = "noisy") -> PairSuite:
    """One pair of each cloud of ModelNet40's test split that is no training cloud, always the same ones.

    The protocol `unseen` is `noisy` on the categories beyond the first twenty. Raises `InvalidConfig` for an unknown
    protocol, `InvalidFile` for a folder that is not in the official layout.
    """
    _check(protocol)
    clouds = read_modelnet(root, "test", drop_duplicates=True)
    generator = torch.Generator().manual_seed(_SEED)
    parts = []
    for start in range(0, len(clouds), _CHUNK):
        parents = torch.from_numpy(clouds.points[start : start + _CHUNK])
        parts.append(suite_of(make_pairs(parents, protocol, generator=generator), "part", parents=parents))
    suite = PairSuite(
        name=f"{Path(root).resolve().name}#{protocol}",
        kind=parts[0].kind,
        sources=[cloud for part in parts for cloud in part.sources],
        targets=[cloud for part in parts for cloud in part.targets],
        transforms=np.concatenate([part.transforms for part in parts]),
        names=tuple(f"{clouds.categories[label]}_{row}" for row, label in enumerate(clouds.labels)),
        shapes=[shape for part in parts for shape in part.shapes or ()],
        labels=clouds.labels,
        categories=clouds.categories,
        unseen=clouds.labels >= SEEN,
    )
    return suite.subset(clouds.labels >= SEEN) if protocol == "unseen" else suite


def _check(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise InvalidConfig(f"unknown protocol `{protocol}`; the protocols are {', '.join(PROTOCOLS)}")
