"""Principal axes of covariances: the matrix root whose columns are sqrt(lambda_k) times the k-th eigenvector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.divergence.precision import UNROLLED, Gaussians
from deepgmr.divergence.triangular import Planes, matrix_planes

_GAP = 1e-2  # eigenvalues closer than this share of the largest count as equal in the gradient


def principal_root(g: Gaussians) -> Tensor:
    """R (*B, d, d) with R R^T = S and orthogonal columns, the principal axes scaled to one standard deviation.

    Invariant: rotating the Gaussian rotates the columns (where eigenvalues are equal any axes will do, and the ones
    found depend on the coordinates). The derivative is that of the eigenvectors, except between eigenvalues equal to
    a hundredth: there it turns no axis, so it stays finite for round Gaussians. Once differentiable.
    """
    if g.diagonal:
        return torch.diag_embed(g.lower)
    if g.planes is not None:
        values, vectors = _unrolled_eigen([[entry.detach() for entry in row] for row in g.planes])
    else:
        values, vectors = torch.linalg.eigh(g.wide.detach())
    deviations = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    root = vectors * deviations.unsqueeze(-2)
    wide = g.covariances
    if wide.requires_grad:
        wide = g.wide
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
    """Eigenvalues (*B, d) and eigenvectors (*B, d, d), in columns and in no particular order. Constants: no gradient."""
    if matrix.shape[-1] > UNROLLED:
        values, vectors = torch.linalg.eigh(matrix.detach())
        return values, vectors
    return _unrolled_eigen(matrix_planes(matrix.detach()))


def _unrolled_eigen(m: Planes) -> tuple[Tensor, Tensor]:
    """Up to three dimensions without LAPACK, whose batched solver takes a microsecond a matrix and more.

    One eigenvector from the eigenvalue that stands apart (Eberly, A robust eigensolver for 3x3 symmetric matrices), the
    other two by one Jacobi rotation of what is left. Written out over the entries: each line runs over the whole batch.
    """
    if len(m) == 1:
        return m[0][0].unsqueeze(-1), torch.ones_like(m[0][0])[..., None, None]
    if len(m) == 2:
        c, s, low, high = _jacobi(m[0][0], m[1][0], m[1][1])
        return torch.stack([low, high], -1), torch.stack([c, s, -s, c], -1).unflatten(-1, (2, 2))
    m00, m11, m22, m10, m20, m21 = m[0][0], m[1][1], m[2][2], m[1][0], m[2][0], m[2][1]
    trace = m00 + m11 + m22
    mean = trace / 3
    a, b, c = m00 - mean, m11 - mean, m22 - mean
    squares = _dot([a, b, c], [a, b, c]) + 2 * _dot([m10, m20, m21], [m10, m20, m21])
    radius = (squares / 6).sqrt()
    minors = [b * c - m21 * m21, m21 * m20 - m10 * c, m10 * m21 - b * m20]
    half = _dot([a, m10, m20], minors) / (2 * radius**3).clamp_min(torch.finfo(a.dtype).tiny)
    # The largest eigenvalue stands apart from the other two, or the smallest.
    apart = torch.copysign(2 * radius * (torch.acos(half.abs().clamp_max(1)) / 3).cos(), half)
    x = _null_vector(a - apart, b - apart, c - apart, m10, m20, m21, squares)
    # An orthonormal pair (u, w) that completes x (Duff et al. 2017, Building an orthonormal basis, revisited).
    sign = torch.copysign(torch.ones_like(mean), x[2])
    scale = -1 / (sign + x[2])
    product, signed = x[0] * x[1] * scale, sign * x[0]
    u = [1 + signed * x[0] * scale, sign * product, -signed]
    w = [product, sign + x[1] * x[1] * scale, -x[1]]
    image = [_dot([m00, m10, m20], u), _dot([m10, m11, m21], u), _dot([m20, m21, m22], u)]
    middle = _dot(u, image)
    cos, sin, low, high = _jacobi(middle, _dot(w, image), trace - (apart + mean) - middle)
    columns = [(x[i], cos * u[i] - sin * w[i], sin * u[i] + cos * w[i]) for i in range(3)]
    vectors = torch.stack([entry for row in columns for entry in row], dim=-1).unflatten(-1, (3, 3))
    return torch.stack([apart + mean, low, high], dim=-1), vectors


def _jacobi(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cos, sin and eigenvalues of [[a, b], [b, c]]: eigenvectors (cos, -sin) and (sin, cos)."""
    difference = c - a
    size = difference.abs() + torch.hypot(difference, 2 * b)
    tangent = 2 * b / torch.copysign(size.clamp_min(torch.finfo(b.dtype).tiny), difference)
    cosine = 1 / torch.sqrt(1 + tangent * tangent)
    shift = tangent * b
    return cosine, cosine * tangent, a - shift, c + shift


def _null_vector(
    a: Tensor, b: Tensor, c: Tensor, m10: Tensor, m20: Tensor, m21: Tensor, squares: Tensor
) -> list[Tensor]:
    """Unit vectors that singular symmetric matrices send to zero, given their diagonal (a, b, c) and the rest.

    The adjugate of such a matrix is a multiple of x x^T; its column of largest diagonal entry is taken. Where the matrix
    is zero, which `squares` tells the scale of, any vector will do.
    """
    d0, d1, d2 = b * c - m21 * m21, a * c - m20 * m20, a * b - m10 * m10
    e10, e20, e21 = m20 * m21 - m10 * c, m10 * m21 - m20 * b, m10 * m20 - a * m21
    s0, s1, s2 = d0.abs(), d1.abs(), d2.abs()
    zeroth, second = (s0 >= s1) & (s0 >= s2), s2 > s1
    x = [
        torch.where(zeroth, d0, torch.where(second, e20, e10)),
        torch.where(zeroth, e10, torch.where(second, e21, d1)),
        torch.where(zeroth, e20, torch.where(second, d2, e21)),
    ]
    length = _dot(x, x)
    flat = (length <= (1e-30 * squares * squares).clamp_min(torch.finfo(a.dtype).tiny)).to(a.dtype)
    scale = (1 - flat) / (length + flat).sqrt()
    return [x[0] * scale + flat, x[1] * scale, x[2] * scale]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def sigma_points(g: Gaussians) -> Tensor:
    """The 2 d sigma points of every Gaussian (*B, J), as columns (*B, d, J 2d): the mean plus and minus sqrt(d)
    standard deviations along each principal axis. Their mean and covariance are those of the Gaussian.
    """
    step = math.sqrt(g.dimension) * principal_root(g).transpose(-3, -2)  # (*B, d, J, d)
    means = g.means.mT.unsqueeze(-1)  # (*B, d, J, 1)
    return torch.cat([means + step, means - step], dim=-1).flatten(-2)
