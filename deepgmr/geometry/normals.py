"""Normals of points from their neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BINS = 5  # a side, on each face of the cube of directions


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


def balanced(axes: np.ndarray, most: int) -> np.ndarray:
    """Indices, ascending, of about `most` of the axes (J, 3): of every direction that there is as many as of any other.

    Normal-space sampling (Rusinkiewicz and Levoy, 3DIM 2001), signs left out, in cells on the faces of a cube.
    """
    face = np.abs(axes).argmax(axis=1)
    rows = np.arange(len(axes))
    u, v = (axes[rows, (face + k) % 3] / axes[rows, face] for k in (1, 2))
    place = [np.minimum((x + 1) * (_BINS / 2), _BINS - 1).astype(np.int64) for x in (u, v)]
    cell = (face * _BINS + place[0]) * _BINS + place[1]
    rare = 1.0 / np.bincount(cell)[cell]
    share = rare * (most / rare.sum())
    for _ in range(8):  # no component counts for more than itself
        full = share >= 1
        share[full] = 1
        if full.all() or share.sum() >= most - 1:
            break
        share[~full] *= (most - full.sum()) / share[~full].sum()
    order = np.argsort(cell, kind="stable")  # cell after cell, so that each has its share to within one
    return np.sort(order[np.diff(np.floor(np.cumsum(share[order])), prepend=0.0) > 0])
