"""The pose graph: places along the way, the motions between them, and loops that tie far parts of it together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import bsr_array, csc_array
from scipy.sparse.linalg import splu

from deepgmr.geometry.transform import RigidTransform, hat

_DONE = 1e-9  # steps (rad, input units) below which the graph stands still
_SYMMETRIC: dict[str, Any] = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.0,
    "options": {"SymmetricMode": True},
}


@dataclass(frozen=True, eq=False)
class Edge:
    """What was measured between two poses."""

    first: int
    second: int
    motion: np.ndarray  # (4, 4) first from second
    covariance: np.ndarray  # (6, 6) of (rotation vector, translation), right: the true motion is `motion exp(xi)`
    loop: bool = False


def optimised(poses: np.ndarray, edges: list[Edge], *, rounds: int, robust: float) -> np.ndarray:
    """The poses (P, 4, 4) that agree best with what was measured, the first one where it was.

    Gauss and Newton on the sum of squared Mahalanobis lengths of log(motion^-1 first^-1 second), right perturbations
    (Grisetti et al. 2010, A tutorial on graph-based SLAM). A loop more than `robust` deviations off counts for less, by
    Cauchy's weight: one that is wrong must not bend everything
    else, and does not where it is more than about twice that of what the way in between may have drifted.
    """
    if len(poses) < 2 or not edges:
        return poses.copy()
    current, measured = _rigid(poses), _Measured.of(edges)
    for _ in range(rounds):
        free, error = measured.linearised(current, robust)
        # symmetric: eliminated by least degree, without pivots, in two thirds of the time
        factors = splu(csc_array(free.T @ free), **_SYMMETRIC)
        step = np.concatenate([np.zeros(6), -factors.solve(free.T @ error)])
        current = current @ RigidTransform.exp(torch.from_numpy(step.reshape(-1, 6)))
        if np.abs(step).max() < _DONE:
            break
    return current.matrix.numpy()


def typical(poses: np.ndarray, edges: list[Edge]) -> float:
    """How far edges are off the poses (P, 4, 4) that were fitted to them, in deviations: the median, at most one.

    A fit follows its edges, the more so the fewer there are: as much as that is made good. One where nothing closes.
    """
    spare = len(edges) - len(poses) + 1
    if spare < 1:
        return 1.0
    length = _Measured.of(edges).lengths(_rigid(poses))
    return min(1.0, float(np.median(length)) * np.sqrt(len(edges) / spare))


def marginals(poses: np.ndarray, edges: list[Edge], *, robust: float) -> np.ndarray:
    """Covariances (P, 6, 6) of the poses that `optimised` found, right, against the first one, whose own is zero.

    Of the inverse of the information; the larger, where there are more edges than a tree has, the further these are off
    for what their covariances say (the ratio of Birge 1932). Every pose must hang together with the first.
    """
    covariances = np.zeros((len(poses), 6, 6))
    if len(poses) < 2:
        return covariances
    free, error = _Measured.of(edges).linearised(_rigid(poses), robust)
    freedom = free.shape[0] - free.shape[1]
    ratio = max(1.0, float(error @ error) / freedom) if freedom else 1.0
    inverse = ratio * np.linalg.inv((free.T @ free).toarray())
    blocks = inverse.reshape(len(poses) - 1, 6, len(poses) - 1, 6)
    own = np.arange(len(poses) - 1)
    covariances[1:] = blocks[own, :, own]
    return (covariances + covariances.swapaxes(1, 2)) / 2


def right_from_left(covariance: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """From the covariance of xi in exp(xi) motion to that in motion exp(xi)."""
    back = _adjoint(_rigid(motion[None]).inverse())[0]
    return back @ covariance @ back.T


@dataclass(frozen=True, eq=False)
class _Measured:
    """Edges as arrays."""

    first: np.ndarray  # (E,)
    second: np.ndarray  # (E,)
    motion: RigidTransform  # (E) second from first
    root: np.ndarray  # (E, 6, 6) of the information
    loop: np.ndarray  # (E,)

    @classmethod
    def of(cls, edges: list[Edge]) -> _Measured:
        first, second = np.array([(edge.first, edge.second) for edge in edges]).T
        motion = _rigid(np.array([edge.motion for edge in edges])).inverse()
        roots = np.array([_whitening(edge.covariance) for edge in edges])
        return cls(first, second, motion, roots, np.array([edge.loop for edge in edges]))

    def lengths(self, poses: RigidTransform) -> np.ndarray:
        """(E,) deviations that the edges are off, of each of the six numbers."""
        return np.linalg.norm(self._errors(poses)[1], axis=1) / np.sqrt(6)

    def linearised(self, poses: RigidTransform, robust: float) -> tuple[csc_array, np.ndarray]:
        """How the whitened, weighted errors (6 E,) change with all poses but the first (6 E, 6 P - 6), and the errors."""
        between, error = self._errors(poses)
        length = np.linalg.norm(error, axis=1) / np.sqrt(6)
        weight = np.where(self.loop, 1 / np.sqrt(1 + (length / robust) ** 2), 1.0)[:, None, None]
        towards_first = -self.root @ _adjoint(between.inverse()) * weight
        blocks = _blocks(towards_first, self.root * weight, self.first, self.second, len(poses.translation))
        return blocks[:, 6:], (error * weight[:, 0]).ravel()

    def _errors(self, poses: RigidTransform) -> tuple[RigidTransform, np.ndarray]:
        """The motions between poses, and the whitened errors (E, 6)."""
        between = poses[self.first].inverse() @ poses[self.second]
        return between, np.einsum("eij,ej->ei", self.root, (self.motion @ between).log().numpy())


def _rigid(matrices: np.ndarray) -> RigidTransform:
    return RigidTransform.from_matrix(torch.from_numpy(np.asarray(matrices, dtype=np.float64)))


def _adjoint(motion: RigidTransform) -> np.ndarray:
    """(E, 6, 6), for twists of (rotation vector, translation)."""
    adjoint = np.zeros((len(motion.rotation), 6, 6))
    adjoint[:, :3, :3] = adjoint[:, 3:, 3:] = motion.rotation.numpy()
    adjoint[:, 3:, :3] = (hat(motion.translation) @ motion.rotation).numpy()
    return adjoint


def _whitening(covariance: np.ndarray) -> np.ndarray:
    """A root W of the information: W^T W is the inverse of the covariance."""
    return np.linalg.inv(np.linalg.cholesky(covariance))


def _blocks(ones: np.ndarray, others: np.ndarray, first: np.ndarray, second: np.ndarray, poses: int) -> csc_array:
    """A sparse matrix (6 E, 6 P) with two blocks a row."""
    data = np.stack([ones, others], axis=1).reshape(-1, 6, 6)
    columns = np.stack([first, second], axis=1).ravel()
    rows = np.arange(0, 2 * len(first) + 1, 2)
    return csc_array(bsr_array((data, columns, rows), shape=(6 * len(first), 6 * poses)))
