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
from deepgmr.transform import RigidTransform, hat, so3_exp

_SWEEPS = 5  # Jacobi converges quadratically: on 3x3 matrices four reach rounding in float64, one more is margin
# A rotation less determined than this gets no gradient along its free axis. Its square must stay above the rounding
# of the solve, which is in float64, and 1e-7 / null^2 (float32 noise along that axis) must stay moderate.
_NULL = {torch.float64: 1e-6, torch.float32: 3e-4}
_RELATIVE = {torch.float64: 1e-12, torch.float32: 1e-6}  # damping of an information matrix, as a share of its largest
_NOISE = 16  # units of rounding below which a cross-covariance says nothing


@dataclass(frozen=True, eq=False)
class Procrustes:
    """The best rigid motion between matched points, and how well they determine it."""

    target_from_source: RigidTransform
    singular_values: Tensor  # (*B, 3) of the cross-covariance, descending; the last is negative for a reflection
    determinacy: Tensor  # (*B) (s2 + s3) / s1 with s3 signed: 0 = some rotation leaves the cost unchanged


@dataclass(frozen=True, eq=False)
class Solution:
    """The motion that minimises the same-index KL bound between two mixtures, with its uncertainty.

    `covariance` is for left perturbations in the target frame, and for one observation: the objective is a mean
    over points, so with N independent points behind the mixtures the answer has covariance / N. It is huge along
    a free direction.
    """

    target_from_source: RigidTransform
    objective: Tensor  # (*B) the motion-dependent part of the bound at the answer, in nats
    determinacy: Tensor  # (*B) as in `Procrustes`; below 1e-3 the rotation is not to be trusted
    covariance: Tensor  # (*B, 6, 6) inverse Hessian of the objective in (rotation vector, translation), see below


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
    pair = _CentredPair.of(source.means, target.means, weights)
    motion, values = pair.align()
    residual = pair.source @ motion.rotation.mT - pair.target  # (*B, J, 3)
    objective = 0.5 * _inner(weights.unsqueeze(-1) * residual, residual)
    covariance = _isotropic_covariance(pair, motion.rotation, weights.sum(-1))
    return Solution(motion, objective, _determinacy(values, pair.noise), covariance)


def weighted_procrustes(source: Tensor, target: Tensor, weights: Tensor) -> Procrustes:
    """The rigid motion minimising sum_j weights_j ||R source_j + t - target_j||^2.

    source, target (*B, J, 3); weights (*B, J), non-negative, any scale.

    The rotation is proper by construction: a reflection is avoided by flipping the least singular direction.
    It is unique iff `determinacy` > 0; what rounding alone could have produced counts as zero. All weights zero is
    the problem of equal weights.
    """
    pair = _CentredPair.of(source, target, weights)
    motion, values = pair.align()
    return Procrustes(motion, values, _determinacy(values, pair.noise))


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation (*B, 3, 3) nearest to `matrix` in the Frobenius norm: the maximiser of trace(R^T matrix).

    Differentiable; at a matrix whose nearest rotation is not unique the value is one of them and the gradient is
    taken along the determined directions only, so it stays finite.
    """
    return _NearestRotation.apply(matrix)[0]


def refine_anisotropic(
    source: GaussianMixture, target: GaussianMixture, initial: RigidTransform, *, iterations: int = 5
) -> Solution:
    """Gauss-Newton on SE(3) for full covariances, with the exact curvature where it can be had.

    Minimises the motion-dependent part of the same-index bound,

        sum_j pi_j/2 [ r_j^T P_j r_j + trace(P_j R S_j R^T) ],    r_j = R mu_j + t - nu_j,   P_j = Q_j^-1,

    with left perturbations in the target frame, from a start such as the closed form. The trace term prefers the
    rotation that lines the covariances up. Where the Hessian is positive definite the step is Newton's; elsewhere
    it is that of Gauss and Newton, the trace read as the squared length of the columns of S^(1/2). A step that does
    not lower the objective is halved, so the answer is never worse than the start.
    """
    _check_pair(source, target)
    precision = torch.linalg.inv(target.covariances)  # (*B, J, 3, 3)
    motion = initial
    value = _anisotropic_objective(source, target, precision, motion)
    for _ in range(iterations):
        local = _anisotropic_model(source, target, precision, motion)
        definite = torch.linalg.cholesky_ex(local.hessian.detach()).info == 0  # (*B)
        curvature = torch.where(definite[..., None, None], local.hessian, local.positive)
        step = -torch.linalg.solve(_damped(curvature), local.gradient.unsqueeze(-1)).squeeze(-1)  # (*B, 6)
        for halving in range(4):
            proposal = local.perturb(motion, step * 0.5**halving)
            lower = _anisotropic_objective(source, target, precision, proposal)
            better = lower < value
            motion = _where(better, proposal, motion)
            value = torch.where(better, lower, value)
            step = torch.where(better.unsqueeze(-1), torch.zeros_like(step), step)
    determinacy = weighted_procrustes(source.means, target.means, source.weights / target.variances).determinacy
    covariance = _anisotropic_model(source, target, precision, motion).covariance()
    return Solution(motion, value, determinacy, covariance)


@dataclass(frozen=True, eq=False)
class _CentredPair:
    """Two matched sets of points about their own weighted centroids, one weight for the centroids and the rest."""

    source: Tensor  # (*B, J, 3)
    target: Tensor  # (*B, J, 3)
    source_centre: Tensor  # (*B, 1, 3)
    target_centre: Tensor  # (*B, 1, 3)
    cross: Tensor  # (*B, 3, 3) the cross-covariance, target rows and source columns
    noise: Tensor  # (*B) the size of a cross-covariance that rounding alone could have produced

    @classmethod
    def of(cls, source: Tensor, target: Tensor, weights: Tensor) -> _CentredPair:
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
            from_source = _inner(weighted, source) + eps * _inner(source_centre, source_centre)
            from_target = _inner(column * target, target) + eps * _inner(target_centre, target_centre)
            noise = _NOISE * eps * from_source.sqrt() * from_target.sqrt()
            silent = cross.abs().amax(dim=(-2, -1)) <= noise
        cross = torch.where(silent[..., None, None], torch.zeros_like(cross), cross)
        return cls(source, target, source_centre, target_centre, cross, noise)

    def align(self) -> tuple[RigidTransform, Tensor]:
        """The best motion, and the singular values (*B, 3) of the cross-covariance."""
        rotation, values = _NearestRotation.apply(self.cross)
        translation = self.target_centre.squeeze(-2) - (rotation @ self.source_centre.mT).squeeze(-1)
        return RigidTransform(rotation, translation), values


def _inner(a: Tensor, b: Tensor) -> Tensor:
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
    polar = rotation.mT.double() @ matrix.double()  # squared below, which float32 does not survive
    polar = (polar + polar.mT) / 2
    trace = polar.diagonal(dim1=-2, dim2=-1).sum(-1)
    eye = torch.eye(3, dtype=polar.dtype, device=polar.device)
    curvature = trace[..., None, None] * eye - polar  # eigenvalues s_i + s_j >= 0
    scale = curvature.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(polar.dtype).tiny)
    unit = curvature / scale[..., None, None]
    # A smooth pseudo-inverse: x / (x^2 + null^2) is 1/x to (null/x)^2, and 0 at 0.
    normal = unit @ unit + _NULL.get(matrix.dtype, 3e-4) ** 2 * eye
    solved = (_inverse_3x3(normal) @ unit @ right_hand_side.double().unsqueeze(-1)).squeeze(-1) / scale.unsqueeze(-1)
    return solved.to(right_hand_side.dtype)


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


def _determinacy(values: Tensor, noise: Tensor) -> Tensor:
    least = values[..., 1] + values[..., 2] - noise
    return (least / values[..., 0].clamp_min(torch.finfo(values.dtype).tiny)).clamp_min(0)


# -- cost, curvature, covariance ------------------------------------------------------------------------------


def _isotropic_covariance(pair: _CentredPair, rotation: Tensor, total: Tensor) -> Tensor:
    """The inverse Hessian (*B, 6, 6) of sum_j w_j ||R source_j + t - target_j||^2 / 2 at its minimum; total sum_j w_j.

    About the centroid rotation and translation separate: the rotation has curvature trace(A) I - A, with A the
    (symmetric) cross-covariance, whose eigenvalues are the sums s_i + s_j; the translation has that of the total
    weight. No 6x6 matrix is inverted. A free rotation gets a huge variance.
    """
    total = total[..., None, None].clamp_min(torch.finfo(total.dtype).tiny)  # (*B, 1, 1)
    polar = total * (pair.cross @ rotation.mT)
    polar = (polar + polar.mT) / 2
    trace = _trace(polar)
    scale = 1 + trace.abs()  # the one is in 1 / rad^2
    eye = torch.eye(3, dtype=polar.dtype, device=polar.device)
    by_rotation = _inverse_3x3((trace * eye - polar) / scale + _RELATIVE.get(polar.dtype, 1e-6) * eye) / scale
    return _about_origin(by_rotation, torch.zeros_like(by_rotation), eye / total, pair.target_centre.squeeze(-2))


def _about_origin(rotation: Tensor, mixed: Tensor, translation: Tensor, centre: Tensor) -> Tensor:
    """Carry the blocks of a covariance of (w, v_c), turning about `centre`, to (w, v) with v = v_c + centre x w."""
    lever = hat(centre)
    below = lever @ rotation + mixed.mT
    last = lever @ rotation @ lever.mT + lever @ mixed + (lever @ mixed).mT + translation
    return torch.cat([torch.cat([rotation, below.mT], dim=-1), torch.cat([below, last], dim=-1)], dim=-2)


@dataclass(frozen=True, eq=False)
class _LocalModel:
    """The anisotropic objective to second order about a motion.

    In (w, u): a moved point y goes to exp(w) (y - centre) + centre + length u. About their own centroid and in
    their own size the numbers have no unit, and neither a far origin nor millimetres spoil their conditioning.
    """

    gradient: Tensor  # (*B, 6)
    hessian: Tensor  # (*B, 6, 6) exact
    positive: Tensor  # (*B, 6, 6) its positive semi-definite approximation after Gauss and Newton
    centre: Tensor  # (*B, 3)
    length: Tensor  # (*B)

    def perturb(self, motion: RigidTransform, step: Tensor) -> RigidTransform:
        turn = so3_exp(step[..., :3])
        arm = motion.translation - self.centre
        shift = self.centre + self.length.unsqueeze(-1) * step[..., 3:]
        return RigidTransform(turn @ motion.rotation, (turn @ arm.unsqueeze(-1)).squeeze(-1) + shift)

    def covariance(self) -> Tensor:
        """The inverse Hessian (*B, 6, 6) in (rotation vector, translation) about the origin."""
        lowest = torch.linalg.eigvalsh(self.hessian.detach())[..., 0]  # negative only away from a minimum
        eye = torch.eye(6, dtype=self.hessian.dtype, device=self.hessian.device)
        inverse = torch.linalg.inv(_damped(self.hessian + (-lowest).clamp_min(0)[..., None, None] * eye))
        length = self.length[..., None, None]
        blocks = inverse[..., :3, :3], length * inverse[..., :3, 3:], length * length * inverse[..., 3:, 3:]
        return _about_origin(*blocks, self.centre)


def _damped(information: Tensor) -> Tensor:
    """Kept invertible at degenerate problems: a free direction gets a huge variance, not NaN."""
    scale = information.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(torch.finfo(information.dtype).tiny ** 0.5)
    eye = torch.eye(6, dtype=information.dtype, device=information.device)
    return information + (_RELATIVE.get(information.dtype, 1e-6) * scale)[..., None, None] * eye


def _anisotropic_objective(
    source: GaussianMixture, target: GaussianMixture, precision: Tensor, motion: RigidTransform
) -> Tensor:
    residual = motion.apply(source.means) - target.means  # (*B, J, 3)
    rotation = motion.rotation.unsqueeze(-3)
    turned = rotation @ source.covariances @ rotation.mT
    mahalanobis = torch.einsum("...ji,...jik,...jk->...j", residual, precision, residual)
    alignment = (precision * turned).sum((-2, -1))
    return 0.5 * (source.weights * (mahalanobis + alignment)).sum(-1)


def _anisotropic_model(
    source: GaussianMixture, target: GaussianMixture, precision: Tensor, motion: RigidTransform
) -> _LocalModel:
    weights = source.weights.unsqueeze(-1)  # (*B, J, 1)
    moved = motion.apply(source.means)
    centre = (weights * moved).sum(-2, keepdim=True)  # (*B, 1, 3)
    arm = moved - centre
    length = (weights.squeeze(-1) * (arm.square().sum(-1) + target.variances)).sum(-1).sqrt()  # (*B)
    rotation = motion.rotation.unsqueeze(-3)
    turned = rotation @ source.covariances @ rotation.mT  # C = R S R^T, (*B, J, 3, 3)
    pulled = (precision @ (moved - target.means).unsqueeze(-1)).squeeze(-1)  # P r, (*B, J, 3)
    product = precision @ turned  # P C
    # d/dw trace(P exp(w) C exp(w)^T) / 2 = vee(P C - C P): the torque between the two ellipsoids.
    by_rotation = torch.linalg.cross(arm, pulled, dim=-1) + _unskew(product)
    by_translation = length[..., None, None] * pulled
    gradient = (weights * torch.cat([by_rotation, by_translation], dim=-1)).sum(-2)  # (*B, 6)

    eye = torch.eye(3, dtype=moved.dtype, device=moved.device)
    scaled = length[..., None, None, None] * eye.expand(*arm.shape, 3)
    jacobian = torch.cat([-hat(arm), scaled], dim=-1)  # (*B, J, 3, 6), of the moved means
    by_means = (weights.unsqueeze(-1) * (jacobian.mT @ precision @ jacobian)).sum(-3)
    # Second derivatives in w alone. The trace term: with c_k the columns of C^(1/2), sum_k hat(c_k)^T P hat(c_k)
    # is `positive`, written without the root; the rest is the curvature of exp itself, `bend`.
    p, c, pc = _trace(precision), _trace(turned), _trace(product)
    symmetric = (product + product.mT) / 2
    positive = (p * c - pc) * eye - p * turned - c * precision + 2 * symmetric
    outer = pulled.unsqueeze(-1) * arm.unsqueeze(-2)
    bend = symmetric - pc * eye + (outer + outer.mT) / 2 - _trace(outer) * eye
    by_shape, by_bend = ((weights.unsqueeze(-1) * part).sum(-3) for part in (positive, bend))
    gauss_newton = by_means + torch.nn.functional.pad(by_shape, (0, 3, 0, 3))
    hessian = gauss_newton + torch.nn.functional.pad(by_bend, (0, 3, 0, 3))
    return _LocalModel(gradient, hessian, gauss_newton, centre.squeeze(-2), length)


def _trace(matrix: Tensor) -> Tensor:
    """The trace (*B, 1, 1), kept broadcastable against the matrix."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


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
