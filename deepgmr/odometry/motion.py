"""A sensor that goes on as it went: where it will be, and where it was while it turned."""

from __future__ import annotations

import numpy as np
import torch

from deepgmr.geometry.transform import RigidTransform

_SLICES = 128  # of a turn, in each of which the sensor stands still


def velocity(before: np.ndarray, after: np.ndarray, seconds: float) -> np.ndarray:
    """The twist (6,) a second between two poses (4, 4), in the frame of the sensor."""
    moved = torch.from_numpy(np.linalg.inv(before) @ after)
    return RigidTransform.from_matrix(moved).log().numpy() / seconds


def carried(pose: np.ndarray, twist: np.ndarray, seconds: float) -> np.ndarray:
    """The pose (4, 4) after so long."""
    return pose @ RigidTransform.exp(torch.from_numpy(twist * seconds)).matrix.numpy()


def deskewed(points: np.ndarray, ages: np.ndarray, twist: np.ndarray) -> np.ndarray:
    """Points (N, 3) of a moving sensor as it would see them from where it is at last.

    ages (N,) are the seconds from a point's measurement to the pose, below zero for one measured after it.
    """
    low, high = float(ages.min()), float(ages.max())
    if not high > low and high == 0:
        return points
    share = (ages - low) / (high - low) if high > low else np.zeros(len(ages))
    part = np.minimum((share * _SLICES).astype(np.int64), _SLICES - 1)
    middle = low + (np.arange(_SLICES) + 0.5) / _SLICES * (high - low)
    then = RigidTransform.exp(torch.from_numpy(-middle[:, None] * twist))  # (S,) now from then
    rotation, translation = then.rotation.numpy(), then.translation.numpy()
    return np.einsum("nij,nj->ni", rotation[part], points) + translation[part]


def between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The pose (4, 4) after a share of the way from one pose to another."""
    return carried(first, velocity(first, second, 1.0), share)
