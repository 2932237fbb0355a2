"""Small triangular matrices written out entry by entry.

`Planes` is a lower triangle as rows of tensors: `planes[i][k]`, k <= i, holds entry (i, k) of every matrix of the
batch, contiguous. The loops below are the textbook ones; what they loop over is a whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

Planes = list[list[Tensor]]


def matrix_planes(matrix: Tensor) -> Planes:
    """The lower triangle of matrices (*B, d, d)."""
    entries = matrix.movedim((-2, -1), (0, 1)).contiguous()
    return [[entries[i, k] for k in range(i + 1)] for i in range(matrix.shape[-1])]


def vector_planes(vector: Tensor) -> list[Tensor]:
    """The entries of vectors (*B, d)."""
    return list(vector.movedim(-1, 0).contiguous().unbind(0))


def stack_planes(planes: Planes) -> Tensor:
    """Back to lower triangular matrices (*B, d, d)."""
    zero = torch.zeros_like(planes[0][0])
    entries = [row[k] if k < len(row) else zero for row in planes for k in range(len(planes))]
    return torch.stack(entries, dim=-1).unflatten(-1, (len(planes), len(planes)))


def cholesky_planes(matrix: Planes) -> tuple[Planes, list[Tensor]]:
    """The Cholesky factor of a symmetric matrix given by its lower triangle, and the pivots.

    Nothing is raised: a pivot that is not positive says that the matrix is not positive definite, and the factor
    then holds NaN.
    """
    lower: Planes = []
    pivots: list[Tensor] = []
    for i, row in enumerate(matrix):
        lower.append([])
        for k in range(i + 1):
            entry = row[k]
            for m in range(k):
                entry = torch.addcmul(entry, lower[i][m], lower[k][m], value=-1)
            if k < i:
                lower[i].append(entry / lower[k][k])
            else:
                pivots.append(entry)
                lower[i].append(entry.sqrt())
    return lower, pivots


def inverse_planes(lower: Planes) -> Planes:
    """The inverse of a lower triangular matrix."""
    rows: Planes = []
    for i in range(len(lower)):
        scale = lower[i][i].reciprocal()
        row = []
        for k in range(i):
            entry = lower[i][k] * rows[k][k]
            for m in range(k + 1, i):
                entry = torch.addcmul(entry, lower[i][m], rows[m][k])
            row.append(-entry * scale)
        rows.append([*row, scale])
    return rows


def solve_planes(lower: Planes, vector: list[Tensor]) -> list[Tensor]:
    """Forward substitution: L^-1 v."""
    solution: list[Tensor] = []
    for i, entry in enumerate(vector):
        for k in range(i):
            entry = torch.addcmul(entry, lower[i][k], solution[k], value=-1)
        solution.append(entry / lower[i][i])
    return solution
