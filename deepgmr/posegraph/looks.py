"""What a scan looks like from any pose, in one vector: to tell which of many scans are likely to share something."""

from __future__ import annotations

import numpy as np

from deepgmr.pipeline.propose.descriptors import describe
from deepgmr.pipeline.scan import Scan
from deepgmr.pipeline.settings import ProposeSettings


def look_of(scan: Scan, settings: ProposeSettings) -> np.ndarray:
    """The mean of the histograms of a scan's components (D,), of unit length: it does not change with the pose."""
    level = scan.level(scan.rung_for(scan.settings.most), scan.size)
    pooled = describe(level, scales=settings.scales, bins=settings.bins).double().mean(0).numpy()
    return pooled / np.linalg.norm(pooled)


def likeness(look: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """How much like each of looks (L, D) one (D,) is, in [-1, 1]: by what tells them from one another."""
    usual = looks.mean(axis=0) if len(looks) > 2 else np.zeros_like(look)
    looks, look = looks - usual, look - usual
    lengths = np.linalg.norm(looks, axis=1) * np.linalg.norm(look)
    return (looks @ look) / np.maximum(lengths, 1e-30)
