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

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from deepgmr.errors import InvalidMixture
from deepgmr.geometry.procrustes import (
    CentredPair,
    determinacy_of,
    inner,
    inverse_3x3,
    trace_of,
    unskew,
    weighted_procrustes,
)
from deepgmr.geometry.transform import RigidTransform, hat, so3_exp
from deepgmr.mixture.gaussian_mixture import GaussianMixture

_RELATIVE = {torch.float64: 1e-12, torch.float32: 1e-6}  # damping of an information matrix, as a share of its largest


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
    uncertainty: Callable[[], Tensor] = field(repr=False)  # what computes the covariance when it is first asked for

    @cached_property
    def covariance(self) -> Tensor:
        """The inverse Hessian of the objective (*B, 6, 6) in (rotation vector, translation)."""
        return self.uncertainty()


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
    pair = CentredPair.of(source.means, target.means, weights)
    motion, values = pair.align()
    residual = pair.source @ motion.rotation.mT - pair.target  # (*B, J, 3)
    objective = 0.5 * inner(weights.unsqueeze(-1) * residual, residual)
    return Solution(
        motion,
        objective,
        determinacy_of(values, pair.noise),
        lambda: _isotropic_covariance(pair, motion.rotation, weights.sum(-1)),
    )


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
    return Solution(
        motion, value, determinacy, lambda: _anisotropic_model(source, target, precision, motion).covariance()
    )


# -- cost, curvature, covariance ------------------------------------------------------------------------------


def _isotropic_covariance(pair: CentredPair, rotation: Tensor, total: Tensor) -> Tensor:
    """The inverse Hessian (*B, 6, 6) of sum_j w_j ||R source_j + t - target_j||^2 / 2 at its minimum; total sum_j w_j.

    About the centroid rotation and translation separate: the rotation has curvature trace(A) I - A, with A the
    (symmetric) cross-covariance, whose eigenvalues are the sums s_i + s_j; the translation has that of the total
    weight. No 6x6 matrix is inverted. A free rotation gets a huge variance.
    """
    total = total[..., None, None].clamp_min(torch.finfo(total.dtype).tiny)  # (*B, 1, 1)
    polar = total * (pair.cross @ rotation.mT)
    polar = (polar + polar.mT) / 2
    trace = trace_of(polar)
    scale = 1 + trace.abs()  # the one is in 1 / rad^2
    eye = torch.eye(3, dtype=polar.dtype, device=polar.device)
    by_rotation = inverse_3x3((trace * eye - polar) / scale + _RELATIVE.get(polar.dtype, 1e-6) * eye) / scale
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
    by_rotation = torch.linalg.cross(arm, pulled, dim=-1) + unskew(product)
    by_translation = length[..., None, None] * pulled
    gradient = (weights * torch.cat([by_rotation, by_translation], dim=-1)).sum(-2)  # (*B, 6)

    eye = torch.eye(3, dtype=moved.dtype, device=moved.device)
    scaled = length[..., None, None, None] * eye.expand(*arm.shape, 3)
    jacobian = torch.cat([-hat(arm), scaled], dim=-1)  # (*B, J, 3, 6), of the moved means
    by_means = (weights.unsqueeze(-1) * (jacobian.mT @ precision @ jacobian)).sum(-3)
    # Second derivatives in w alone. The trace term: with c_k the columns of C^(1/2), sum_k hat(c_k)^T P hat(c_k)
    # is `positive`, written without the root; the rest is the curvature of exp itself, `bend`.
    p, c, pc = trace_of(precision), trace_of(turned), trace_of(product)
    symmetric = (product + product.mT) / 2
    positive = (p * c - pc) * eye - p * turned - c * precision + 2 * symmetric
    outer = pulled.unsqueeze(-1) * arm.unsqueeze(-2)
    bend = symmetric - pc * eye + (outer + outer.mT) / 2 - trace_of(outer) * eye
    by_shape, by_bend = ((weights.unsqueeze(-1) * part).sum(-3) for part in (positive, bend))
    gauss_newton = by_means + torch.nn.functional.pad(by_shape, (0, 3, 0, 3))
    hessian = gauss_newton + torch.nn.functional.pad(by_bend, (0, 3, 0, 3))
    return _LocalModel(gradient, hessian, gauss_newton, centre.squeeze(-2), length)


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
