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
    b = [m[0, 0] - mean, m[0, 1], m[0, 2], m[1, 1] - mean, m[1, 2], m[2, 2] - mean]  # upper triangle of M - mean I
    squares = b[0] * b[0] + b[3] * b[3] + b[5] * b[5] + 2 * (b[1] * b[1] + b[2] * b[2] + b[4] * b[4])
    radius = (squares / 6).sqrt()
    cofactor = [b[3] * b[5] - b[4] * b[4], b[2] * b[4] - b[1] * b[5], b[1] * b[4] - b[2] * b[3]]
    det = b[0] * cofactor[0] + b[1] * cofactor[1] + b[2] * cofactor[2]
    half = (det / (2 * radius**3).clamp_min(torch.finfo(m.dtype).tiny)).clamp(-1, 1)
    sign = torch.where(half >= 0, 1.0, -1.0).to(m.dtype)  # the largest stands apart, or the smallest
    apart = sign * 2 * radius * (torch.acos(half.abs()) / 3).cos()
    x = _null_vector([b[0] - apart, b[1], b[2], b[3] - apart, b[4], b[5] - apart], squares)
    # An orthonormal pair (u, w) that completes x; the component of x largest in size is never divided by zero.
    first = x[0].abs() > x[1].abs()
    length = torch.where(first, x[0] * x[0] + x[2] * x[2], x[1] * x[1] + x[2] * x[2]).rsqrt()
    zero = torch.zeros_like(length)
    u = [
        torch.where(first, -x[2] * length, zero),
        torch.where(first, zero, x[2] * length),
        torch.where(first, x[0] * length, -x[1] * length),
    ]
    w = _cross(x, u)
    mu, mw, mx = (_times(m, vector) for vector in (u, w, x))
    c, s, low, high = _jacobi(_dot(u, mu), _dot(u, mw), _dot(w, mw))
    values = torch.stack([_dot(x, mx), low, high], dim=-1)
    columns = [(x[i], c * u[i] - s * w[i], s * u[i] + c * w[i]) for i in range(3)]
    vectors = torch.stack([entry for row in columns for entry in row], dim=-1).unflatten(-1, (3, 3))
    return values, vectors


def _jacobi(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cos, sin and eigenvalues of [[a, b], [b, c]]: eigenvectors (cos, -sin) and (sin, cos)."""
    difference = c - a
    sign = torch.where(difference >= 0, 1.0, -1.0).to(a.dtype)
    size = difference.abs() + torch.hypot(difference, 2 * b)
    tangent = sign * 2 * b / torch.where(size > 0, size, 1)
    cosine = (1 + tangent * tangent).rsqrt()
    return cosine, cosine * tangent, a - tangent * b, c + tangent * b


def _null_vector(b: list[Tensor], squares: Tensor) -> list[Tensor]:
    """A unit vector that the singular matrix of upper triangle b sends to zero: the longest of the rows' crosses."""
    rows = [[b[0], b[1], b[2]], [b[1], b[3], b[4]], [b[2], b[4], b[5]]]
    best = _cross(rows[0], rows[1])
    longest = _dot(best, best)
    for i, k in ((0, 2), (1, 2)):
        other = _cross(rows[i], rows[k])
        length = _dot(other, other)
        better = length > longest
        best = [torch.where(better, y, x) for x, y in zip(best, other, strict=True)]
        longest = torch.maximum(length, longest)
    round_ = longest <= (1e-30 * squares * squares).clamp_min(torch.finfo(squares.dtype).tiny)
    scale = torch.where(round_, 1, longest).rsqrt()
    return [torch.where(round_, float(i == 0), x * scale) for i, x in enumerate(best)]


def _cross(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _times(m: Tensor, v: list[Tensor]) -> list[Tensor]:
    return [m[i, 0] * v[0] + m[i, 1] * v[1] + m[i, 2] * v[2] for i in range(3)]


def sigma_points(g: Gaussians) -> Tensor:
    """The 2 d sigma points of every Gaussian (*B, J), as columns (*B, d, J 2d): the mean plus and minus sqrt(d)
    standard deviations along each principal axis. Their mean and covariance are those of the Gaussian.
    """
    step = math.sqrt(g.dimension) * principal_root(g).transpose(-3, -2)  # (*B, d, J, d)
    means = g.means.mT.unsqueeze(-1)  # (*B, d, J, 1)
    return torch.cat([means + step, means - step], dim=-1).flatten(-2)
