"""Matched points brought together: weighted Procrustes, its rotation, and how far the points determine it.

Kabsch (1976) and Umeyama (1991), batched and differentiable. The 3x3 algebra is written out over whole batches: a
LAPACK call for every matrix is what makes the usual route slow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepgmr.geometry.transform import RigidTransform, hat

_SWEEPS = 5  # Jacobi converges quadratically: on 3x3 matrices four reach rounding in float64, one more is margin
# A rotation less determined than this gets no gradient along its free axis. Its square must stay above the rounding
# of the solve, which is in float64, and 1e-7 / null^2 (float32 noise along that axis) must stay moderate.
_NULL = {torch.float64: 1e-6, torch.float32: 3e-4}
_NOISE = 16  # units of rounding below which a cross-covariance says nothing


@dataclass(frozen=True, eq=False)
class Procrustes:
    """The best rigid motion between matched points, and how well they determine it."""

    target_from_source: RigidTransform
    singular_values: Tensor  # (*B, 3) of the cross-covariance, descending; the last is negative for a reflection
    determinacy: Tensor  # (*B) (s2 + s3) / s1 with s3 signed: 0 = some rotation leaves the cost unchanged


def weighted_procrustes(source: Tensor, target: Tensor, weights: Tensor) -> Procrustes:
    """The rigid motion minimising sum_j weights_j ||R source_j + t - target_j||^2.

    source, target (*B, J, 3); weights (*B, J), non-negative, any scale.

    The rotation is proper by construction: a reflection is avoided by flipping the least singular direction.
    It is unique iff `determinacy` > 0; what rounding alone could have produced counts as zero. All weights zero is
    the problem of equal weights.
    """
    pair = CentredPair.of(source, target, weights)
    motion, values = pair.align()
    return Procrustes(motion, values, determinacy_of(values, pair.noise))


def align_few(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (*B, 3, 3) and translations (*B, 3) of `weighted_procrustes`, without gradients.

    source, target (*B, J, 3); weights (*B, J), non-negative, of positive sum. About an axis that only rounding tells
    anything of, the rotation is that of `start` (*B, 3, 3), by default none. LAPACK takes two microseconds a problem:
    below a thousand of them this is faster than `weighted_procrustes`.
    """
    share = (weights / weights.sum(-1, keepdims=True))[..., None]
    source_centre, target_centre = ((share * points).sum(-2) for points in (source, target))
    cross = (target - target_centre[..., None, :]).swapaxes(-1, -2) @ (share * (source - source_centre[..., None, :]))
    size = np.abs(cross).max((-1, -2), keepdims=True) + np.finfo(cross.dtype).tiny
    cross = cross / size + _NOISE * np.finfo(cross.dtype).eps * (
        np.eye(3, dtype=cross.dtype) if start is None else start
    )
    left, _, right = np.linalg.svd(cross)
    right[..., 2, :] *= np.sign(np.linalg.det(left @ right))[..., None]
    rotation = left @ right
    return rotation, target_centre - (rotation @ source_centre[..., None])[..., 0]


def align_similar(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The scale s, rotation (3, 3) and translation (3,) minimising sum_j weights_j ||s R source_j + t - target_j||^2.

    Umeyama (1991), eq. 40-42. source, target (J, 3); weights (J,), non-negative, of positive sum.
    """
    rotation, _ = align_few(source, target, weights)
    share = weights / weights.sum()
    source_centre, target_centre = share @ source, share @ target
    turned = (source - source_centre) @ rotation.T
    spread = float(share @ np.einsum("ij,ij->i", turned, turned))
    common = float(share @ np.einsum("ij,ij->i", turned, target - target_centre))
    scale = common / spread if spread > 0 else 1.0
    return scale, rotation, target_centre - scale * rotation @ source_centre


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation (*B, 3, 3) nearest to `matrix` in the Frobenius norm: the maximiser of trace(R^T matrix).

    Differentiable; at a matrix whose nearest rotation is not unique the value is one of them and the gradient is
    taken along the determined directions only, so it stays finite.
    """
    return _NearestRotation.apply(matrix)[0]


@dataclass(frozen=True, eq=False)
class CentredPair:
    """Two matched sets of points about their own weighted centroids, one weight for the centroids and the rest."""

    source: Tensor  # (*B, J, 3)
    target: Tensor  # (*B, J, 3)
    source_centre: Tensor  # (*B, 1, 3)
    target_centre: Tensor  # (*B, 1, 3)
    cross: Tensor  # (*B, 3, 3) the cross-covariance, target rows and source columns
    noise: Tensor  # (*B) the size of a cross-covariance that rounding alone could have produced

    @classmethod
    def of(cls, source: Tensor, target: Tensor, weights: Tensor) -> CentredPair:
        total = weights.sum(-1, keepdim=True)
        empty = total <= 0
        share = torch.where(empty, 1.0 / weights.shape[-1], weights / torch.where(empty, 1.0, total))
        column = share.unsqueeze(-1)  # (*B, J, 1)
        source_centre, target_centre = column.mT @ source, column.mT @ target
        source, target = source - source_centre, target - target_centre
        weighted = column * source
        cross = target.mT @ weighted
        # The centres were rounded too: deviations no longer than that are no shape at all.
        eps = torch.finfo(cross.dtype).eps
        with torch.no_grad():
            from_source = inner(weighted, source) + eps * inner(source_centre, source_centre)
            from_target = inner(column * target, target) + eps * inner(target_centre, target_centre)
            noise = _NOISE * eps * from_source.sqrt() * from_target.sqrt()
            silent = cross.abs().amax(dim=(-2, -1)) <= noise
        cross = torch.where(silent[..., None, None], torch.zeros_like(cross), cross)
        return cls(source, target, source_centre, target_centre, cross, noise)

    def align(self) -> tuple[RigidTransform, Tensor]:
        """The best motion, and the singular values (*B, 3) of the cross-covariance."""
        rotation, values = _NearestRotation.apply(self.cross)
        translation = self.target_centre.squeeze(-2) - (rotation @ self.source_centre.mT).squeeze(-1)
        return RigidTransform(rotation, translation), values


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The sum (*B) of the products of two (*B, J, 3), without the slow sum over the three."""
    return torch.linalg.vecdot(a.flatten(-2), b.flatten(-2))


# -- the 3x3 algebra ----------------------------------------------------------------------------------------


class _NearestRotation(torch.autograd.Function):
    """R = U V^T by one-sided Jacobi; the backward pass needs only the polar factor, not the decomposition.

    With S = R^T H symmetric, a change dH turns the rotation by dR = R hat(w), where
    (trace(S) I - S) w = vee(R^T dH - dH^T R). The matrix trace(S) I - S has eigenvalues s_i + s_j, the least of
    which is the determinacy of the rotation; directions where it vanishes are left out.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor]:
        left, right, values = _rotational_svd(matrix)
        return left @ right.mT, values

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[0])
        ctx.save_for_forward(inputs[0], output[0])

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        matrix, rotation = ctx.saved_tensors
        pull = rotation.mT @ gradient  # <G, R hat(w)> = <R^T G, hat(w)> = vee(R^T G - G^T R) . w
        axis = _solve_polar(rotation, matrix, unskew(pull))
        return rotation @ hat(axis)

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        matrix, rotation = ctx.saved_tensors
        axis = _solve_polar(rotation, matrix, unskew(rotation.mT @ tangent))
        return rotation @ hat(axis), None


def unskew(matrix: Tensor) -> Tensor:
    """vee(M - M^T), (*B, 3)."""
    m = matrix
    return torch.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], dim=-1)


def _solve_polar(rotation: Tensor, matrix: Tensor, right_hand_side: Tensor) -> Tensor:
    """w of (trace(S) I - S) w = b with S = R^T H, along its determined directions (a pseudo-inverse)."""
    polar = rotation.mT.double() @ matrix.double()  # squared below, which float32 does not survive
    polar = (polar + polar.mT) / 2
    trace = polar.diagonal(dim1=-2, dim2=-1).sum(-1)
    eye = torch.eye(3, dtype=polar.dtype, device=polar.device)
    curvature = trace[..., None, None] * eye - polar  # eigenvalues s_i + s_j >= 0
    scale = curvature.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(polar.dtype).tiny)
    unit = curvature / scale[..., None, None]
    # A smooth pseudo-inverse: x / (x^2 + null^2) is 1/x to (null/x)^2, and 0 at 0.
    normal = unit @ unit + _NULL.get(matrix.dtype, 3e-4) ** 2 * eye
    solved = (inverse_3x3(normal) @ unit @ right_hand_side.double().unsqueeze(-1)).squeeze(-1) / scale.unsqueeze(-1)
    return solved.to(right_hand_side.dtype)


def inverse_3x3(matrix: Tensor) -> Tensor:
    """The inverse by the adjugate: cross products of rows, no LAPACK call a matrix."""
    a, b, c = matrix.unbind(-2)
    ab, bc, ca = torch.linalg.cross(a, b), torch.linalg.cross(b, c), torch.linalg.cross(c, a)
    determinant = (a * bc).sum(-1)
    return torch.stack([bc, ca, ab], dim=-1) / determinant[..., None, None]


def _rotational_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H = U diag(s) V^T with U and V both proper rotations and s3 signed; one-sided Jacobi (Hestenes 1958).

    Works on whole batches as a handful of elementwise operations, struct-of-arrays, so that 10,000 problems cost
    about as much as one: a LAPACK call for every 3x3 matrix is what makes the usual route slow.
    """
    flat = matrix.reshape(-1, 3, 3)
    scale = flat.abs().amax(dim=(-2, -1), keepdim=True)
    flat = flat / torch.where(scale > 0, scale, torch.ones_like(scale))
    h = list(flat.permute(2, 1, 0).unbind(0))  # three columns, each (3, B)
    eye = torch.eye(3, dtype=flat.dtype, device=flat.device).unsqueeze(-1).expand(3, 3, flat.shape[0])
    v = list(eye.unbind(0))
    tiny = torch.finfo(flat.dtype).tiny
    for _ in range(_SWEEPS):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            alpha, beta, gamma = _dot(h[i], h[i]), _dot(h[j], h[j]), _dot(h[i], h[j])
            # The rotation that makes columns i and j orthogonal (Golub and Van Loan, section 8.6.3).
            difference, twice = beta - alpha, 2 * gamma
            hypotenuse = (difference * difference + twice * twice).sqrt()
            tangent = twice / (difference.abs() + hypotenuse).clamp_min(tiny)
            tangent = torch.where(difference < 0, -tangent, tangent)
            cosine = torch.rsqrt(1 + tangent * tangent)
            sine = cosine * tangent
            h[i], h[j] = cosine * h[i] - sine * h[j], sine * h[i] + cosine * h[j]
            v[i], v[j] = cosine * v[i] - sine * v[j], sine * v[i] + cosine * v[j]
    columns, right = torch.stack(h), torch.stack(v)  # (3 columns, 3, B)
    squared = columns.square().sum(1)  # (3, B)
    order = squared.argsort(dim=0, descending=True).unsqueeze(1).expand_as(columns)
    columns, right = columns.gather(0, order), right.gather(0, order)
    first, s1 = _unit(columns[0], fallback=right[0])
    second = columns[1] - _dot(first, columns[1]) * first
    second, s2 = _unit(second, fallback=_perpendicular(first, towards=right[1]))
    second = second - _dot(first, second) * first  # twice is enough: a short second column is mostly rounding
    second = second / _dot(second, second).sqrt()
    third = torch.linalg.cross(first, second, dim=0)
    v1, v2 = right[0], right[1]
    v3 = torch.linalg.cross(v1, v2, dim=0)
    sign = _dot(v3, right[2])  # the cyclic product of Jacobi rotations is proper up to the sort
    s3 = _dot(third, columns[2]) * sign
    left = torch.stack([first, second, third], dim=-1).permute(1, 0, 2)  # (B, 3, 3), columns u1 u2 u3
    right = torch.stack([v1, v2, v3], dim=-1).permute(1, 0, 2)
    values = torch.stack([s1, s2, s3], dim=-1) * scale.reshape(-1, 1)
    shape = matrix.shape
    return left.reshape(shape), right.reshape(shape), values.reshape(shape[:-1])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar products (B) of vectors (3, B); a sum over the short leading dimension is several times slower."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vector: Tensor, *, fallback: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (3, B) and lengths (B); where a vector vanishes, the fallback (already of unit length)."""
    length = _dot(vector, vector).sqrt()
    vanishes = length <= 8 * torch.finfo(vector.dtype).eps  # the matrix was scaled to largest entry one
    safe = torch.where(vanishes, torch.ones_like(length), length)
    return torch.where(vanishes, fallback, vector / safe), length


def _perpendicular(unit: Tensor, *, towards: Tensor) -> Tensor:
    """The unit vector (3, B) perpendicular to `unit` nearest to `towards`: turns no further than it must."""
    leaning = towards - (unit * towards).sum(0) * unit
    x, y, z = unit
    zero = torch.zeros_like(x)
    along_x, along_y = torch.stack([zero, z, -y]), torch.stack([-z, zero, x])  # unit x e_x, unit x e_y
    other = torch.where(x.abs() < 0.6, along_x, along_y)
    chosen = torch.where(leaning.square().sum(0) > 1e-6, leaning, other)
    return chosen / chosen.square().sum(0).sqrt()


def determinacy_of(values: Tensor, noise: Tensor) -> Tensor:
    least = values[..., 1] + values[..., 2] - noise
    return (least / values[..., 0].clamp_min(torch.finfo(values.dtype).tiny)).clamp_min(0)


def trace_of(matrix: Tensor) -> Tensor:
    """The trace (*B, 1, 1), kept broadcastable against the matrix."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
