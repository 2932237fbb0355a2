"""Principal axes of covariances: the matrix root whose columns are sqrt(lambda_k) times the k-th eigenvector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.divergence.precision import UNROLLED, Gaussians

_GAP = 1e-2  # eigenvalues closer than this share of the largest count as equal in the gradient


def principal_root(g: Gaussians) -> Tensor:
    """R (*B, d, d) with R R^T = S and orthogonal columns, the principal axes scaled to one standard deviation.

    Invariant: rotating the Gaussian rotates the columns (where eigenvalues are equal any axes will do, and the ones
    found depend on the coordinates). The derivative is that of the eigenvectors, except between eigenvalues equal to
    a hundredth: there it turns no axis, so it stays finite for round Gaussians. Once differentiable.
    """
    if g.diagonal:
        return torch.diag_embed(g.lower)
    wide = g.wide
    values, vectors = symmetric_eigen(wide.detach())
    deviations = values.clamp_min(torch.finfo(wide.dtype).tiny).sqrt()
    root = vectors * deviations.unsqueeze(-2)
    if wide.requires_grad:
        # dR = V X with X D + D X^T = V^T dS V. The eigenvectors' own derivative is X_ik = M_ik d_k / (l_k - l_i);
        # where that divides by a vanishing gap, the symmetric solution M_ik / (d_i + d_k) does not.
        change = vectors.mT @ (wide - wide.detach()) @ vectors  # zero in value
        row, column = deviations.unsqueeze(-1), deviations.unsqueeze(-2)
        gap = values.unsqueeze(-2) - values.unsqueeze(-1)
        distinct = gap.abs() > _GAP * values.amax(-1)[..., None, None]
        turn = torch.where(distinct, column / torch.where(distinct, gap, 1), 1 / (row + column))
        root = root + vectors @ (change * turn)
    return root.to(g.dtype)


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (*B, d) and eigenvectors (*B, d, d), in columns and in no particular order, of symmetric matrices.

    Up to three dimensions without LAPACK, whose batched solver takes a microsecond a matrix and more: one eigenvector
    from the eigenvalue that stands apart (Eberly, A robust eigensolver for 3x3 symmetric matrices), the other two by
    one Jacobi rotation of what is left. Constants: no gradient.
    """
    d = matrix.shape[-1]
    if d > UNROLLED:
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    m = matrix.movedim((-2, -1), (0, 1)).contiguous()
    if d == 1:
        return m[0, 0].unsqueeze(-1), torch.ones_like(matrix)
    if d == 2:
        c, s, low, high = _jacobi(m[0, 0], m[0, 1], m[1, 1])
        return torch.stack([low, high], -1), torch.stack([c, s, -s, c], -1).unflatten(-1, (2, 2))
    mean = (m[0, 0] + m[1, 1] + m[2, 2]) / 3
    eye = torch.eye(3, dtype=m.dtype, device=m.device).reshape(3, 3, *[1] * mean.ndim)
    centred = m - mean * eye  # (3, 3, *B), as everything below: entries first
    squares = centred.square().flatten(0, 1).sum(0)
    radius = (squares / 6).sqrt()
    det = (centred[0] * torch.linalg.cross(centred[1], centred[2], dim=0)).sum(0)
    half = (det / (2 * radius**3).clamp_min(torch.finfo(m.dtype).tiny)).clamp(-1, 1)
    sign = torch.where(half >= 0, 1.0, -1.0).to(m.dtype)  # the largest stands apart, or the smallest
    apart = sign * 2 * radius * (torch.acos(half.abs()) / 3).cos()
    x = _null_vector(centred - apart * eye, squares)  # (3, *B)
    # An orthonormal pair (u, w) that completes x: u drops one of the first two components, the smaller one.
    first = x[0].abs() > x[1].abs()
    zero = torch.zeros_like(mean)
    u = torch.stack([torch.where(first, -x[2], zero), torch.where(first, zero, x[2]), torch.where(first, x[0], -x[1])])
    u = u * u.square().sum(0).rsqrt()
    frame = torch.stack([x, u, torch.linalg.cross(x, u, dim=0)], dim=1)  # (3, 3, *B), vectors in columns
    image = (m.unsqueeze(2) * frame.unsqueeze(0)).sum(1)
    within = (frame * image).sum(0)  # the diagonal of frame^T M frame
    c, s, low, high = _jacobi(within[1], (frame[:, 1] * image[:, 2]).sum(0), within[2])
    rotated = torch.stack([frame[:, 0], c * frame[:, 1] - s * frame[:, 2], s * frame[:, 1] + c * frame[:, 2]], dim=1)
    return torch.stack([within[0], low, high], dim=-1), rotated.movedim((0, 1), (-2, -1))


def _jacobi(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cos, sin and eigenvalues of [[a, b], [b, c]]: eigenvectors (cos, -sin) and (sin, cos)."""
    difference = c - a
    sign = torch.where(difference >= 0, 1.0, -1.0).to(a.dtype)
    size = difference.abs() + torch.hypot(difference, 2 * b)
    tangent = sign * 2 * b / torch.where(size > 0, size, 1)
    cosine = (1 + tangent * tangent).rsqrt()
    return cosine, cosine * tangent, a - tangent * b, c + tangent * b


def _null_vector(matrix: Tensor, squares: Tensor) -> Tensor:
    """Unit vectors (3, *B) that singular symmetric matrices (3, 3, *B) send to zero: the longest cross of two rows.

    Where the matrix is round, `squares` tells the scale below which it counts as zero, and any vector will do.
    """
    crosses = torch.linalg.cross(matrix, matrix.roll(1, 0), dim=1)  # (3, 3, *B), a cross a row
    lengths = crosses.square().sum(1)
    longest, index = lengths.max(0)
    best = crosses.gather(0, index.expand(1, 3, *index.shape)).squeeze(0)
    flat = longest <= (1e-30 * squares * squares).clamp_min(torch.finfo(squares.dtype).tiny)
    best = best * torch.where(flat, 1, longest).rsqrt()
    default = torch.zeros_like(best)
    default[0] = 1
    return torch.where(flat, default, best)


def sigma_points(g: Gaussians) -> Tensor:
    """The 2 d sigma points of every Gaussian (*B, J), as columns (*B, d, J 2d): the mean plus and minus sqrt(d)
    standard deviations along each principal axis. Their mean and covariance are those of the Gaussian.
    """
    step = math.sqrt(g.dimension) * principal_root(g).transpose(-3, -2)  # (*B, d, J, d)
    means = g.means.mT.unsqueeze(-1)  # (*B, d, J, 1)
    return torch.cat([means + step, means - step], dim=-1).flatten(-2)
