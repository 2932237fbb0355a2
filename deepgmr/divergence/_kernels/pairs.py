"""What two Gaussians have in common: the kernels every closed form is made of, for any broadcastable pair.

All components against all, `(..., J, 1)` with `(..., 1, K)`, never build a matrix per pair in up to three
dimensions: entries are accumulated one by one and, where no gradient is asked for, in blocks that stay in cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from deepgmr.divergence._kernels.checks import values_visible
from deepgmr.divergence._kernels.precision import Gaussians
from deepgmr.divergence._kernels.triangular import cholesky_planes, solve_planes, vector_planes

BLOCK = 1 << 16  # pairs worked on at once


def kl(p: Gaussians, q: Gaussians) -> Tensor:
    """KL(p || q) (*B) of Gaussians already read.

    1/2 [ |L_q^-1 L_p|_F^2 + |L_q^-1 (m_p - m_q)|^2 - d + log |S_q| / |S_p| ]
    """
    if p.diagonal and q.diagonal:
        scale = q.whitening
        moments = (p.lower * scale).square().sum(-1) + ((p.means - q.means) * scale).square().sum(-1)
        return 0.5 * (moments - p.dimension) + (q.half_log_det - p.half_log_det)
    p, q = p.full(), q.full()
    if not p.unrolled:
        moments = (q.whitening @ p.lower).square().sum((-2, -1)) + squared_mahalanobis(p.means, q)
        return 0.5 * (moments - p.dimension) + (q.half_log_det - p.half_log_det)
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    if _plain(p, q, shape) and p.batch_shape[-1:] == (1,) and q.batch_shape[-2:-1] == (1,):
        return _kl_all_pairs(p, q, shape)
    return _in_blocks(_kl_unrolled, p, q)


def _in_blocks(kernel: Callable[[Gaussians, Gaussians], Tensor], p: Gaussians, q: Gaussians) -> Tensor:
    """kernel(p, q) over a broadcast batch; without gradients, block by block so that temporaries stay in cache."""
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    if not _plain(p, q, shape):
        return kernel(p, q)
    out = torch.empty(shape, dtype=p.dtype, device=p.means.device)
    step = max(1, BLOCK * shape[0] // math.prod(shape))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        out[start:stop] = kernel(p.block(start, stop, len(shape)), q.block(start, stop, len(shape)))
    return out


def _kl_unrolled(p: Gaussians, q: Gaussians) -> Tensor:
    lower, whitening = p.lower_planes, q.whitening_planes
    offset = [m - n for m, n in zip(p.mean_planes, q.mean_planes, strict=True)]
    total = q.half_log_det - p.half_log_det - 0.5 * p.dimension
    for i in range(p.dimension):
        for column in range(i + 1):  # entry (i, column) of the triangular product L_q^-1 L_p
            entry = whitening[i][column] * lower[column][column]
            for k in range(column + 1, i + 1):
                entry = torch.addcmul(entry, whitening[i][k], lower[k][column])
            total = torch.addcmul(total, entry, entry, value=0.5)
        entry = whitening[i][0] * offset[0]
        for k in range(1, i + 1):
            entry = torch.addcmul(entry, whitening[i][k], offset[k])
        total = torch.addcmul(total, entry, entry, value=0.5)
    return total


def _kl_all_pairs(p: Gaussians, q: Gaussians, shape: torch.Size) -> Tensor:
    """`_kl_unrolled` for (..., J, 1) with (..., 1, K), each entry of L_q^-1 [L_p, m_p - m_q] a small matrix product.

    Two buffers of one block, whatever the number of pairs. The means are centred first: their difference is taken after
    the product with L_q^-1, which costs no digits that the means had.
    """
    batch, (j, k), d = shape[:-2], shape[-2:], p.dimension

    def rows(planes: list[Tensor]) -> Tensor:
        """Planes (*B, J, 1) as (B, n, J), or (*B, 1, K) as (B, n, K)."""
        flat = [x.reshape(*x.shape[:-2], -1).expand(*batch, -1) for x in planes]
        return torch.stack(flat, dim=-2).reshape(-1, len(flat), flat[0].shape[-1])

    lower, whitening = p.lower_planes, q.whitening_planes
    centre = [n.mean(-1, keepdim=True) for n in q.mean_planes]
    means = [m - c for m, c in zip(p.mean_planes, centre, strict=True)]
    others = [n - c for n, c in zip(q.mean_planes, centre, strict=True)]
    left = [rows([lower[m][column] for m in range(column, d)]).mT for column in range(d)]
    left_means = rows(means).mT  # (B, J, d)
    terms: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for i in range(d):
        right = rows(whitening[i])  # (B, i + 1, K)
        for column in range(i + 1):
            terms.append((left[column][..., : i - column + 1], right[:, column:], None))
        white = sum(w * n for w, n in zip(whitening[i], others, strict=False))
        assert isinstance(white, Tensor)
        terms.append((left_means[..., : i + 1], right, rows([-white])))
    half_p, half_q = rows([p.half_log_det + 0.5 * d]).mT, rows([q.half_log_det])  # (B, J, 1) and (B, 1, K)
    out = torch.empty(len(half_q), j, k, dtype=p.dtype, device=p.means.device)
    wide, tall = max(1, BLOCK // (j * k)), min(j, max(1, BLOCK // k))
    buffer = torch.empty(min(wide, len(out)), tall, k, dtype=p.dtype, device=p.means.device)
    for start in range(0, len(out), wide):
        some = slice(start, start + wide)
        for top in range(0, j, tall):
            total = out[some, top : top + tall]
            entry = buffer[: total.shape[0], : total.shape[1]]
            torch.sub(half_q[some], half_p[some, top : top + tall], out=total)
            for one, other, offset in terms:
                left_block, right_block = one[some, top : top + tall], other[some]
                if other.shape[1] == 1:
                    torch.mul(left_block, right_block, out=entry)
                    entry = entry if offset is None else entry.add_(offset[some])
                elif offset is None:
                    torch.bmm(left_block, right_block, out=entry)
                else:
                    torch.baddbmm(offset[some], left_block, right_block, out=entry)
                total.addcmul_(entry, entry, value=0.5)
    return out.reshape(shape)


def _plain(p: Gaussians, q: Gaussians, shape: torch.Size) -> bool:
    """Whether the work is large enough to split and nobody will differentiate or transform it."""
    if math.prod(shape) <= BLOCK or len(shape) < 2 or not values_visible():
        return False
    differentiable = any(g.means.requires_grad or g.covariances.requires_grad for g in (p, q))
    return not (torch.is_grad_enabled() and differentiable)


def squared_mahalanobis(x: Tensor, q: Gaussians) -> Tensor:
    """Squared Mahalanobis distances (*B) of points x (*B, d) from the Gaussians q, by broadcasting."""
    if q.diagonal:
        return ((x - q.means) * q.whitening).square().sum(-1)
    return (q.whitening @ (x - q.means).unsqueeze(-1)).square().sum((-2, -1))


def blended(p: Gaussians, q: Gaussians, a: float, b: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the matrix a S_p + b S_q: its log determinant, the squared length of m_p - m_q under its inverse, and
    whether it is positive definite (where not, the other two are finite and mean nothing). All (*B), float64.
    """
    wide = p.log_det.dtype
    may_fail = a < 0 or b < 0
    if p.diagonal and q.diagonal:
        variances = a * p.wide + b * q.wide
        definite = (variances > 0).all(-1)
        if may_fail:
            variances = torch.where(definite.unsqueeze(-1), variances, torch.ones_like(variances))
        offset = p.means.to(wide) - q.means.to(wide)
        return variances.log().sum(-1), (offset.square() / variances).sum(-1), definite
    p, q = p.full(), q.full()
    d = p.dimension
    if not p.unrolled:
        matrix = a * p.wide + b * q.wide
        lower, failed = torch.linalg.cholesky_ex(matrix)
        definite = failed == 0
        if may_fail:
            eye = torch.eye(d, dtype=wide, device=matrix.device)
            lower = torch.linalg.cholesky(torch.where(definite[..., None, None], matrix, eye))
        offset = p.means.to(wide) - q.means.to(wide)
        shape = torch.broadcast_shapes(offset.shape[:-1], lower.shape[:-2])
        offset, lower = offset.expand(*shape, d), lower.expand(*shape, d, d)
        white = torch.linalg.solve_triangular(lower, offset.unsqueeze(-1), upper=False)
        log_det = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det, white.square().sum((-2, -1)), definite
    one, other = p.planes, q.planes
    assert one is not None and other is not None
    entries = [[a * one[i][k] + b * other[i][k] for k in range(i + 1)] for i in range(d)]
    rows, pivots = cholesky_planes(entries)
    definite = pivots[0] > 0
    for pivot in pivots[1:]:
        definite = definite & (pivot > 0)
    if may_fail:  # a second pass, on the identity where the first failed, keeps NaN out of the gradient
        safe = [
            [torch.where(definite, entry, float(i == k)) for k, entry in enumerate(row)]
            for i, row in enumerate(entries)
        ]
        rows, pivots = cholesky_planes(safe)
    m, n = vector_planes(p.means.to(wide)), vector_planes(q.means.to(wide))
    offsets = [x - y for x, y in zip(m, n, strict=True)]
    white_planes = solve_planes(rows, offsets)
    product, squared = pivots[0], white_planes[0].square()
    for i in range(1, d):
        product = product * pivots[i]
        squared = torch.addcmul(squared, white_planes[i], white_planes[i])
    return product.log(), squared, definite


def log_product_integral(p: Gaussians, q: Gaussians) -> Tensor:
    """log of the integral of p(x) q(x) dx = log N(m_p; m_q, S_p + S_q) (*B), in the input's type."""

    def kernel(p: Gaussians, q: Gaussians) -> Tensor:
        log_det, squared, _ = blended(p, q, 1.0, 1.0)
        return (-0.5 * (log_det + squared + p.dimension * math.log(2 * math.pi))).to(p.dtype)

    return _in_blocks(kernel, p, q)


def renyi(p: Gaussians, q: Gaussians, alpha: float) -> Tensor:
    """The Renyi divergence (*B) of order alpha, infinite where its integral diverges, in the input's type."""

    def kernel(p: Gaussians, q: Gaussians) -> Tensor:
        log_det, squared, definite = blended(p, q, 1 - alpha, alpha)
        spread = (log_det - (1 - alpha) * p.log_det - alpha * q.log_det) / (1 - alpha)
        value = 0.5 * (alpha * squared + spread)
        return torch.where(definite, value, torch.inf).to(p.dtype) if alpha > 1 else value.to(p.dtype)

    return _in_blocks(kernel, p, q)
