"""Normals of points from their neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def estimate_normals(points: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Unit normals (N, 3) of points (N, 3), of either sign: the direction in which a patch spreads least.

    patches (N, K) are indices of the points around each, itself included.
    """
    patch = points[patches]  # (N, K, 3)
    patch = patch - patch.mean(axis=1, keepdims=True)
    return np.linalg.eigh(patch.swapaxes(1, 2) @ patch).eigenvectors[..., 0]


def towards_hollow(points: Tensor, normals: Tensor, neighbours: Tensor) -> Tensor:
    """Normals (N, 3) turned to the side on which their neighbours (N, K) lie: a choice that moves with the cloud."""
    side = ((points[neighbours] - points.unsqueeze(1)) * normals.unsqueeze(1)).sum((-1, -2))
    return torch.where((side < 0).unsqueeze(-1), -normals, normals)
