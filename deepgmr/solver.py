"""The closed-form minimiser of the KL divergence between two mixtures over rigid motions.

With components matched by index, source p and target q, the same-index bound

    KL(T p || q)  <=  sum_j pi_j [ log(pi_j / omega_j) + KL(N(R mu_j + t, R S_j R^T) || N(nu_j, Q_j)) ]

depends on the motion, for isotropic targets Q_j = sigma_j^2 I, only through

    sum_j w_j || R mu_j + t - nu_j ||^2,     w_j = pi_j / sigma_j^2,     sigma_j^2 = trace(Q_j) / 3,

a weighted Procrustes problem (Kabsch 1976, Umeyama 1991). DeepGMR (Yuan et al., ECCV 2020, eq. 7-10) states the
same objective, but its released code weights the centroids by pi alone and the cross-covariance by pi / sigma^2,
so it misses its own minimum; here one weight serves both. Anisotropic targets are handled by
`refine_anisotropic`, Gauss-Newton on SE(3) from the closed-form start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.errors import InvalidMixture
from deepgmr.mixture import GaussianMixture
from deepgmr.transform import RigidTransform, hat

_SWEEPS = {torch.float64: 7, torch.float32: 5}  # Jacobi converges quadratically: these reach rounding
_NULL = 1e-3  # float32 and float64 alike: a rotation less determined than this gets no gradient along its free axis


@dataclass(frozen=True, eq=False)
class Procrustes:
    """The best rigid motion between matched points, and how well they determine it."""

    target_from_source: RigidTransform
    singular_values: Tensor  # (*B, 3) of the cross-covariance, descending; the last is negative for a reflection
    determinacy: Tensor  # (*B) (s2 + s3) / s1 with s3 signed: 0 = some rotation leaves the cost unchanged


@dataclass(frozen=True, eq=False)
class Solution:
    """The motion that minimises the same-index KL bound between two mixtures, with its uncertainty."""

    target_from_source: RigidTransform
    objective: Tensor  # (*B) the motion-dependent part of the bound at the answer, in nats
    determinacy: Tensor  # (*B) as in `Procrustes`; below 1e-3 the rotation is not to be trusted
    covariance: (
        Tensor  # (*B, 6, 6) inverse Hessian of the objective: (rotation vector, translation), left, target frame
    )


def solve_rigid(source: GaussianMixture, target: GaussianMixture) -> Solution:
    """The rigid motion minimising the same-index KL bound from the moved source to the target, in closed form.

    source, target   mixtures (*B, J) in three dimensions whose components correspond by index; batches broadcast

    Exact when the target covariances are isotropic; otherwise the minimiser for their isotropic projections, and
    the start for `refine_anisotropic`. Differentiable in every argument; values and gradients stay finite on
    planar, collinear, coincident and single-component inputs, where `determinacy` is zero and the motion is one
    of the many minimisers. Raises `InvalidMixture` if the numbers of components differ or d is not 3.
    """
    _check_pair(source, target)
    weights = source.weights / target.variances  # (*B, J)
    answer = weighted_procrustes(source.means, target.means, weights)
    motion = answer.target_from_source
    residual = motion.apply(source.means) - target.means
    objective = 0.5 * (weights * residual.square().sum(-1)).sum(-1)
    eye = torch.eye(3, dtype=source.dtype, device=source.device)
    information = _information(motion.apply(source.means), weights[..., None, None] * eye)
    return Solution(motion, objective, answer.determinacy, _covariance(information))


def weighted_procrustes(source: Tensor, target: Tensor, weights: Tensor) -> Procrustes:
    """The rigid motion minimising sum_j weights_j ||R source_j + t - target_j||^2.

    source, target (*B, J, 3); weights (*B, J), non-negative, any scale.

    The rotation is proper by construction: a reflection is avoided by flipping the least singular direction.
    It is unique iff `determinacy` > 0. All weights zero is the problem of equal weights.
    """
    total = weights.sum(-1, keepdim=True)
    empty = total <= 0
    share = torch.where(empty, torch.ones_like(weights) / weights.shape[-1], weights / torch.where(empty, 1, total))
    column = share.unsqueeze(-1)
    source_centre = (column * source).sum(-2, keepdim=True)  # (*B, 1, 3)
    target_centre = (column * target).sum(-2, keepdim=True)
    cross = (target - target_centre).mT @ (column * (source - source_centre))  # (*B, 3, 3)
    rotation, values = _NearestRotation.apply(cross)
    translation = target_centre.squeeze(-2) - (rotation @ source_centre.mT).squeeze(-1)
    return Procrustes(RigidTransform(rotation, translation), values, _determinacy(values))


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation (*B, 3, 3) nearest to `matrix` in the Frobenius norm: the maximiser of trace(R^T matrix).

    Differentiable; at a matrix whose nearest rotation is not unique the value is one of them and the gradient is
    taken along the determined directions only, so it stays finite.
    """
    return _NearestRotation.apply(matrix)[0]


def refine_anisotropic(
    source: GaussianMixture, target: GaussianMixture, initial: RigidTransform, *, iterations: int = 5
) -> Solution:
    """Gauss-Newton on SE(3) for full covariances, from a start such as the closed form.

    Minimises the motion-dependent part of the same-index bound,

        sum_j pi_j/2 [ r_j^T P_j r_j + trace(P_j R S_j R^T) ],    r_j = R mu_j + t - nu_j,   P_j = Q_j^-1,

    with left perturbations in the target frame. The trace term, which prefers the rotation that lines the
    covariances up, enters with its exact gradient and the curvature of its squared-residual form. A step that
    does not lower the objective is halved, so the answer is never worse than the start.
    """
    _check_pair(source, target)
    precision = torch.linalg.inv(target.covariances)  # (*B, J, 3, 3)
    weights = source.weights
    motion = initial
    value = _anisotropic_objective(source, precision, target.means, motion)
    for _ in range(iterations):
        gradient, information = _anisotropic_derivatives(source, precision, target.means, motion)
        step = -torch.linalg.solve(_damped(information), gradient.unsqueeze(-1)).squeeze(-1)  # (*B, 6)
        for halving in range(4):
            proposal = _perturb(motion, step * 0.5**halving)
            lower = _anisotropic_objective(source, precision, target.means, proposal)
            better = lower < value
            motion = _where(better, proposal, motion)
            value = torch.where(better, lower, value)
            step = torch.where(better.unsqueeze(-1), torch.zeros_like(step), step)
    moved = motion.apply(source.means)
    information = _information(moved, weights[..., None, None] * precision)
    determinacy = weighted_procrustes(source.means, target.means, weights / target.variances).determinacy
    return Solution(motion, value, determinacy, _covariance(information))


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
        axis = _solve_polar(rotation, matrix, _unskew(pull))
        return rotation @ hat(axis)

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        matrix, rotation = ctx.saved_tensors
        axis = _solve_polar(rotation, matrix, _unskew(rotation.mT @ tangent))
        return rotation @ hat(axis), None


def _unskew(matrix: Tensor) -> Tensor:
    """vee(M - M^T), (*B, 3)."""
    m = matrix
    return torch.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], dim=-1)


def _solve_polar(rotation: Tensor, matrix: Tensor, right_hand_side: Tensor) -> Tensor:
    """w of (trace(S) I - S) w = b with S = R^T H, along its determined directions (a pseudo-inverse)."""
    polar = rotation.mT @ matrix
    polar = (polar + polar.mT) / 2
    trace = polar.diagonal(dim1=-2, dim2=-1).sum(-1)
    eye = torch.eye(3, dtype=polar.dtype, device=polar.device)
    curvature = trace[..., None, None] * eye - polar  # eigenvalues s_i + s_j >= 0
    scale = curvature.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(polar.dtype).tiny)
    unit = curvature / scale[..., None, None]
    # A smooth pseudo-inverse: x / (x^2 + null^2) is 1/x to 1e-6 at a determinacy of one, and 0 at 0.
    null = _NULL**2
    normal = unit @ unit + null**2 * eye
    return (_inverse_3x3(normal) @ unit @ right_hand_side.unsqueeze(-1)).squeeze(-1) / scale.unsqueeze(-1)


def _inverse_3x3(matrix: Tensor) -> Tensor:
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
    for _ in range(_SWEEPS.get(flat.dtype, 5)):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            alpha, beta, gamma = (h[i] * h[i]).sum(0), (h[j] * h[j]).sum(0), (h[i] * h[j]).sum(0)
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
    squared = (columns * columns).sum(1)  # (3, B)
    order = squared.argsort(dim=0, descending=True).unsqueeze(1).expand_as(columns)
    columns, right = columns.gather(0, order), right.gather(0, order)
    first, s1 = _unit(columns[0], fallback=right[0])
    second = columns[1] - (first * columns[1]).sum(0) * first
    second, s2 = _unit(second, fallback=_perpendicular(first, towards=right[1]))
    third = torch.linalg.cross(first, second, dim=0)
    v1, v2 = right[0], right[1]
    v3 = torch.linalg.cross(v1, v2, dim=0)
    sign = (v3 * right[2]).sum(0)  # the cyclic product of Jacobi rotations is proper up to the sort
    s3 = (third * columns[2]).sum(0) * sign
    left = torch.stack([first, second, third], dim=-1).permute(1, 0, 2)  # (B, 3, 3), columns u1 u2 u3
    right = torch.stack([v1, v2, v3], dim=-1).permute(1, 0, 2)
    values = torch.stack([s1, s2, s3], dim=-1) * scale.reshape(-1, 1)
    shape = matrix.shape
    return left.reshape(shape), right.reshape(shape), values.reshape(shape[:-1])


def _unit(vector: Tensor, *, fallback: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (3, B) and lengths (B); where a vector vanishes, the fallback (already of unit length)."""
    length = vector.square().sum(0).sqrt()
    vanishes = length <= 8 * torch.finfo(vector.dtype).eps  # the matrix was scaled to largest entry one
    safe = torch.where(vanishes, torch.ones_like(length), length)
    return torch.where(vanishes, fallback, vector / safe), length


def _perpendicular(unit: Tensor, *, towards: Tensor) -> Tensor:
    """The unit vector (3, B) perpendicular to `unit` nearest to `towards`: turns no further than it must."""
    leaning = towards - (unit * towards).sum(0) * unit
    axis = torch.nn.functional.one_hot(unit.abs().argmin(0), 3).to(unit.dtype).T
    other = torch.linalg.cross(unit, axis, dim=0)
    chosen = torch.where(leaning.square().sum(0) > 1e-6, leaning, other)
    return chosen / chosen.square().sum(0).sqrt()


def _determinacy(values: Tensor) -> Tensor:
    least = values[..., 1] + values[..., 2]
    return (least / values[..., 0].clamp_min(torch.finfo(values.dtype).tiny)).clamp_min(0)


# -- cost, curvature, covariance ------------------------------------------------------------------------------


def _information(moved: Tensor, precision: Tensor) -> Tensor:
    """The Gauss-Newton Hessian (*B, 6, 6) of sum_j r_j^T precision_j r_j / 2 in a left perturbation.

    A perturbation (w, v) moves a point y to y + w x y + v, so its Jacobian is [-hat(y), I].
    """
    eye = torch.eye(3, dtype=moved.dtype, device=moved.device).expand(*moved.shape, 3)
    jacobian = torch.cat([-hat(moved), eye], dim=-1)  # (*B, J, 3, 6)
    return (jacobian.mT @ precision @ jacobian).sum(-3)


def _covariance(information: Tensor) -> Tensor:
    """The inverse Hessian, finite at degenerate problems: a free direction gets a huge variance, not NaN."""
    return torch.linalg.inv(_damped(information))


def _damped(information: Tensor) -> Tensor:
    scale = information.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(torch.finfo(information.dtype).tiny)
    relative = 1e-12 if information.dtype == torch.float64 else 1e-6
    eye = torch.eye(6, dtype=information.dtype, device=information.device)
    return information + (relative * scale)[..., None, None] * eye


def _anisotropic_objective(
    source: GaussianMixture, precision: Tensor, target_means: Tensor, motion: RigidTransform
) -> Tensor:
    residual = motion.apply(source.means) - target_means  # (*B, J, 3)
    rotation = motion.rotation.unsqueeze(-3)
    turned = rotation @ source.covariances @ rotation.mT
    mahalanobis = torch.einsum("...ji,...jik,...jk->...j", residual, precision, residual)
    alignment = (precision * turned).sum((-2, -1))
    return 0.5 * (source.weights * (mahalanobis + alignment)).sum(-1)


def _anisotropic_derivatives(
    source: GaussianMixture, precision: Tensor, target_means: Tensor, motion: RigidTransform
) -> tuple[Tensor, Tensor]:
    """The gradient (*B, 6) and a positive semi-definite curvature (*B, 6, 6) of the objective."""
    weights = source.weights
    moved = motion.apply(source.means)
    pulled = (precision @ (moved - target_means).unsqueeze(-1)).squeeze(-1)  # P r, (*B, J, 3)
    rotation = motion.rotation.unsqueeze(-3)
    turned = rotation @ source.covariances @ rotation.mT  # C = R S R^T
    # d/dw trace(P exp(w) C exp(w)^T) / 2 = vee(C P - P C) up to sign: the torque between the two ellipsoids.
    torque = _unskew(precision @ turned)
    by_rotation = torch.linalg.cross(moved, pulled, dim=-1) + torque
    gradient = torch.cat([(weights.unsqueeze(-1) * g).sum(-2) for g in (by_rotation, pulled)], dim=-1)
    curvature = _information(moved, weights[..., None, None] * precision)
    # The same cost written as squared residuals of the columns c_k of C^(1/2): each adds hat(c_k)^T P hat(c_k).
    columns = _psd_root(turned)  # (*B, J, 3, 3)
    skew = hat(columns.mT)  # (*B, J, 3 columns, 3, 3)
    twist = (skew.mT @ precision.unsqueeze(-3) @ skew).sum(-3)  # (*B, J, 3, 3)
    extra = (weights[..., None, None] * twist).sum(-3)
    return gradient, curvature + torch.nn.functional.pad(extra, (0, 3, 0, 3))


def _psd_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt().unsqueeze(-2)


def _perturb(motion: RigidTransform, step: Tensor) -> RigidTransform:
    return RigidTransform.exp(step).compose(motion)


def _where(condition: Tensor, yes: RigidTransform, no: RigidTransform) -> RigidTransform:
    return RigidTransform(
        torch.where(condition[..., None, None], yes.rotation, no.rotation),
        torch.where(condition.unsqueeze(-1), yes.translation, no.translation),
    )


def _check_pair(source: GaussianMixture, target: GaussianMixture) -> None:
    if source.components != target.components:
        raise InvalidMixture(
            f"components are matched by index, so both mixtures need as many: got {source.components} and "
            f"{target.components}"
        )
    if source.dimension != 3 or target.dimension != 3:
        raise InvalidMixture(f"rigid motions live in 3 dimensions, got {source.dimension} and {target.dimension}")
