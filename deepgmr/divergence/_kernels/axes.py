"""Principal axes of covariances: the matrix root whose columns are sqrt(lambda_k) times the k-th eigenvector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.divergence._kernels.precision import UNROLLED, Gaussians
from deepgmr.divergence._kernels.triangular import Planes, matrix_planes

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
    # Three entries at a time, (3, *B): the diagonal, and off it the entry opposite to each.
    diagonal, across = torch.stack([m[0][0], m[1][1], m[2][2]]), torch.stack([m[2][1], m[2][0], m[1][0]])
    trace = diagonal.sum(0)
    mean = trace / 3
    centred = diagonal - mean
    squared = across * across
    squares = torch.addcmul(2 * squared, centred, centred).sum(0)
    radius = (squares / 6).sqrt()
    on, off = _following(centred), _following(across)
    minors = on[0] * on[1] - squared  # of the adjugate of M - mean I: its diagonal, and off it
    cross = torch.addcmul(off[0] * off[1], centred, across, value=-1)
    det = centred[0] * minors[0] + across[2] * cross[2] + across[1] * cross[1]
    half = det / (2 * radius * radius * radius).clamp_min(torch.finfo(det.dtype).tiny)
    # The largest eigenvalue stands apart from the other two, or the smallest.
    apart = torch.copysign(2 * radius * (torch.acos(half.abs().clamp_max(1)) / 3).cos(), half)
    x = _null_vector(torch.addcmul(minors, apart, centred + apart), torch.addcmul(cross, apart, across), squares)
    u, w = _completed(x)
    rows = torch.stack(
        [diagonal[0], across[2], across[1], across[2], diagonal[1], across[0], across[1], across[0], diagonal[2]]
    )
    image = (rows.unflatten(0, (3, 3)) * u).sum(1)
    middle = (u * image).sum(0)
    cos, sin, low, high = _jacobi(middle, (w * image).sum(0), trace - (apart + mean) - middle)
    vectors = torch.stack([x, torch.addcmul(cos * u, sin, w, value=-1), torch.addcmul(sin * u, cos, w)], dim=1)
    return torch.stack([apart + mean, low, high], dim=-1), vectors.movedim((0, 1), (-2, -1))


def _following(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Of (3, *B), the next and the one after next of each, in a circle."""
    circle = torch.cat([entries, entries[:2]])
    return circle[1:4], circle[2:5]


def _completed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors (3, *B) orthogonal to x and to each other (Duff et al. 2017, Building an orthonormal basis)."""
    sign = torch.copysign(torch.ones_like(x[2]), x[2])
    scale = -1 / (sign + x[2])
    product, signed = x[0] * x[1] * scale, sign * x[0]
    u = torch.stack([torch.addcmul(torch.ones_like(sign), signed * x[0], scale), sign * product, -signed])
    return u, torch.stack([product, torch.addcmul(sign, x[1] * x[1], scale), -x[1]])


def _jacobi(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cos, sin and eigenvalues of [[a, b], [b, c]]: eigenvectors (cos, -sin) and (sin, cos)."""
    difference = c - a
    size = difference.abs() + torch.hypot(difference, 2 * b)
    tangent = 2 * b / torch.copysign(size.clamp_min(torch.finfo(b.dtype).tiny), difference)
    cosine = 1 / torch.sqrt(1 + tangent * tangent)
    shift = tangent * b
    return cosine, cosine * tangent, a - shift, c + shift


def _null_vector(minors: Tensor, cross: Tensor, squares: Tensor) -> Tensor:
    """Unit vectors (3, *B) that singular symmetric matrices send to zero, given their adjugates.

    An adjugate, diagonal `minors` and off it `cross`, is then a multiple of x x^T; its column of largest diagonal entry
    is taken. Where the matrix is zero, which `squares` tells the scale of, any vector will do.
    """
    size = minors.abs()
    zeroth, second = (size[0] >= size[1]) & (size[0] >= size[2]), size[2] > size[1]
    x = torch.stack(
        [
            torch.where(zeroth, minors[0], torch.where(second, cross[1], cross[2])),
            torch.where(zeroth, cross[2], torch.where(second, cross[0], minors[1])),
            torch.where(zeroth, cross[1], torch.where(second, minors[2], cross[0])),
        ]
    )
    length = x.square().sum(0)
    flat = (length <= (1e-30 * squares * squares).clamp_min(torch.finfo(length.dtype).tiny)).to(length.dtype)
    x = x * ((1 - flat) / (length + flat).sqrt())
    x[0] += flat
    return x


def sigma_points(g: Gaussians) -> Tensor:
    """The 2 d sigma points of every Gaussian (*B, J), as columns (*B, d, 2d J), those of one axis and sign together.

    The mean plus and minus sqrt(d) standard deviations along each principal axis: the mean and the covariance of these
    points are those of the Gaussian.
    """
    step = math.sqrt(g.dimension) * principal_root(g).movedim(-3, -1)  # (*B, d, d, J): coordinate, axis, component
    means = g.means.mT.contiguous().unsqueeze(-2)  # (*B, d, 1, J)
    return torch.cat([means + step, means - step], dim=-2).flatten(-2)


def component_means(values: Tensor, g: Gaussians) -> Tensor:
    """The mean (*B, J) over each Gaussian's own sigma points of values (*B, 2d J) at `sigma_points`."""
    return values.unflatten(-1, (2 * g.dimension, -1)).mean(-2)
