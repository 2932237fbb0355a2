"""The Kullback-Leibler divergence between Gaussian mixtures, which has no closed form: approximations and bounds.

Every function takes two `GaussianMixture`s p and q and returns a value of the broadcast batch shape, in nats, from
the divergences or overlaps of their components alone: no sampling, J x K work. Gradients flow to weights, means and
covariances. All raise `InvalidMixture` or `NotPositiveDefinite` for mixtures that are not.

What each is -- estimate, upper or lower bound -- is said at the function, because the literature's names do not
say it. Estimates from points (unscented, Monte Carlo) are in `sampling`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deepgmr.divergence._kernels import pairs
from deepgmr.divergence._kernels.components import Components, read_mixtures
from deepgmr.divergence.gaussian import kl_gaussian
from deepgmr.errors import InvalidInput, InvalidMixture
from deepgmr.mixture import GaussianMixture

_ORDERS = (0.5, 0.8)  # of the Renyi divergences that bound KL from below


class Interval(NamedTuple):
    """Bounds that hold: lower <= the true value <= upper."""

    lower: Tensor  # (*B)
    upper: Tensor  # (*B)


# -- estimates ---------------------------------------------------------------------------------------------------


def kl_moment_matched(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The exact KL (*B) of the two Gaussians that share the mixtures' means and covariances. An estimate, >= 0.

    Hershey and Olsen 2007, section 4 ("Gaussian approximations"). Blind to everything but two moments.
    """
    read_mixtures(p, q)
    return kl_gaussian(p.mean, p.covariance, q.mean, q.covariance)


def kl_product(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The product-of-Gaussians approximation (*B). An estimate; may be negative.

    sum_a pi_a log [ sum_a' pi_a' int p_a p_a' / sum_b w_b int p_a q_b ]: Jensen's inequality taken inside both
    expectations (Hershey and Olsen 2007, section 5). Zero for p = q.
    """
    one, other = read_mixtures(p, q)
    return one.average(_log_overlap(one, one) - _log_overlap(one, other))


def kl_vasconcelos(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """Vasconcelos' nearest-component approximation (*B). An estimate; may be negative.

    sum_a pi_a [ log pi_a / w_m(a) + KL(p_a || q_m(a)) ], where m(a) is the component of q nearest to the mean of p_a:
    the least |m_a - m_b|^2_{S_b} - log w_b (Vasconcelos 2001, the asymptotic likelihood approximation, here for both
    expectations). `kl_matched` chooses m by the divergence itself, and is never larger. Continuous only where the
    nearest component does not change.
    """
    one, other = read_mixtures(p, q)
    means = one.gaussians.means.unsqueeze(-2)
    distance = pairs.squared_mahalanobis(means, other.gaussians.full().unsqueeze(-2))  # (*B, J, K)
    nearest = (distance - other.log_weights.unsqueeze(-2)).argmin(-1, keepdim=True)
    cost = pairs.kl(one.gaussians.unsqueeze(-1), other.gaussians.unsqueeze(-2)) - other.log_weights.unsqueeze(-2)
    return one.average(one.log_weights + cost.gather(-1, nearest.expand(*cost.shape[:-1], 1)).squeeze(-1))


def kl_matched(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """Goldberger's matching approximation (*B). An estimate; may be negative (several a may claim one b).

    sum_a pi_a min_b [ KL(p_a || q_b) + log pi_a / w_b ] (Goldberger, Gordon and Greenspan 2003, the matching
    approximation). Good when components barely overlap. Continuous, with corners where the best match changes.
    """
    one, other = read_mixtures(p, q)
    cost = _component_kl(one, other) - other.log_weights.unsqueeze(-2)
    return one.average(one.log_weights + cost.amin(-1))


def kl_matched_soft(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """`kl_matched` with the minimum softened (*B): smooth, never larger than it. An estimate; may be negative.

    sum_a pi_a [ log pi_a - log sum_b w_b exp(-KL(p_a || q_b)) ]: a sum over b where `kl_matched` takes the largest
    term, and `kl_variational` with each component of p taken to be alone. Never larger than that either.
    """
    one, other = read_mixtures(p, q)
    return one.average(one.log_weights - _log_affinity(one, other))


def kl_variational(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The variational approximation (*B). An estimate, *not* a bound; may be negative; smooth; zero for p = q.

    sum_a pi_a log [ sum_a' pi_a' exp(-KL(p_a || p_a')) / sum_b w_b exp(-KL(p_a || q_b)) ] (Hershey and Olsen 2007,
    eq. 20): the difference of two lower bounds on expected log likelihoods, hence no bound itself.
    """
    one, other = read_mixtures(p, q)
    return one.average(_log_affinity(one, one) - _log_affinity(one, other))


# -- bounds ------------------------------------------------------------------------------------------------------


def kl_same_index(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The same-index upper bound (*B): what the closed-form solver minimises. >= KL >= 0; zero for p = q.

    KL(p || q) <= sum_j pi_j [ log pi_j / w_j + KL(p_j || q_j) ], by the chain rule or the log-sum inequality. Both
    mixtures must have the same number of components, in corresponding order. Infinite where a component of p has
    weight and its namesake in q has none.
    """
    one, other = read_mixtures(p, q)
    if p.components != q.components:
        raise InvalidMixture(
            f"the same-index bound pairs components by index but got {p.components} and {q.components}; use "
            "kl_variational_upper for mixtures of different sizes"
        )
    return one.average(one.log_weights - other.log_weights + pairs.kl(one.gaussians, other.gaussians))


def kl_variational_upper(p: GaussianMixture, q: GaussianMixture, *, iterations: int = 30) -> Tensor:
    """The variational upper bound (*B). >= KL >= 0, whatever the number of iterations; zero for p = q at the limit.

    Both mixtures are split into J x K shares, phi of p_a and psi of q_b, and KL <= KL(phi || psi) + sum phi KL(p_a ||
    q_b). Alternating the two minimisations in closed form lowers the bound at every step (Hershey and Olsen 2007,
    section 8). The start phi = psi = pi_a w_b is the convexity bound; for J = K = 1 it is exact.
    """
    if iterations < 1:
        raise InvalidInput(f"the bound needs at least one iteration, got {iterations}")
    one, other = read_mixtures(p, q)
    return _variational_upper(one, other, iterations)


def kl_durrieu_lower(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """Durrieu, Thiran and Kelly's lower bound (*B). <= KL; often negative.

    sum_a pi_a log [ sum_a' pi_a' exp(-KL(p_a || p_a')) / sum_b w_b int p_a q_b ] - sum_a pi_a H(p_a) (Durrieu et al.
    2012, the lower bound of section 3): a variational lower bound on E_p log p less Jensen's upper bound on E_p log q.
    """
    one, other = read_mixtures(p, q)
    return one.average(_log_affinity(one, one) - one.gaussians.entropy - _log_overlap(one, other))


def kl_durrieu_upper(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """Durrieu, Thiran and Kelly's upper bound (*B). >= KL; not exact for single Gaussians.

    sum_a pi_a log [ sum_a' pi_a' int p_a p_a' / sum_b w_b exp(-KL(p_a || q_b)) ] + sum_a pi_a H(p_a) (Durrieu et al.
    2012, the upper bound of section 3).
    """
    one, other = read_mixtures(p, q)
    return one.average(_log_overlap(one, one) + one.gaussians.entropy - _log_affinity(one, other))


def kl_durrieu(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The mean of Durrieu's two bounds (*B): an estimate, also the mean of `kl_variational` and `kl_product`."""
    one, other = read_mixtures(p, q)
    variational = _log_affinity(one, one) - _log_affinity(one, other)
    return 0.5 * one.average(variational + _log_overlap(one, one) - _log_overlap(one, other))


def kl_interval(p: GaussianMixture, q: GaussianMixture, *, iterations: int = 30) -> Interval:
    """A guaranteed interval: lower <= KL(p || q) <= upper, each (*B).

    lower is the largest of zero, `kl_durrieu_lower`, and Renyi divergences of the mixtures bounded from below: KL is at
    least Renyi's of any order a < 1, and the integral of p^a q^(1-a) at most sum_jk pi_j^a w_k^(1-a) int p_j^a q_k^(1-a),
    because t^a is subadditive. upper is the least of `kl_durrieu_upper`, `kl_variational_upper` and, for equal numbers of
    components, `kl_same_index`; for single Gaussians it is exact.
    """
    if iterations < 1:
        raise InvalidInput(f"the bound needs at least one iteration, got {iterations}")
    one, other = read_mixtures(p, q)
    return _interval(one, other, iterations)


def _interval(one: Components, other: Components, iterations: int) -> Interval:
    entropy = one.gaussians.entropy
    lower = one.average(_log_affinity(one, one) - entropy - _log_overlap(one, other)).clamp_min(0)
    for order in _ORDERS:
        lower = torch.maximum(lower, log_affinity_bound(one, other, order) / (order - 1))
    upper = one.average(_log_overlap(one, one) + entropy - _log_affinity(one, other))
    upper = torch.minimum(upper, _variational_upper(one, other, iterations))
    if one.weights.shape[-1] == other.weights.shape[-1]:
        matched = one.log_weights - other.log_weights + pairs.kl(one.gaussians, other.gaussians)
        upper = torch.minimum(upper, one.average(matched))
    upper = upper.clamp_min(0)  # it is below zero, or below the lower bound, only by rounding
    return Interval(torch.minimum(lower, upper), upper)


def log_affinity_bound(one: Components, other: Components, order: float) -> Tensor:
    """An upper bound on log int p^a q^(1-a) (*B), a = `order` in (0, 1)."""
    affinity = (order - 1) * pairs.renyi(one.gaussians.unsqueeze(-1), other.gaussians.unsqueeze(-2), order)
    weights = order * one.log_weights.unsqueeze(-1) + (1 - order) * other.log_weights.unsqueeze(-2)
    return torch.logsumexp((weights + affinity).flatten(-2), dim=-1)


def _variational_upper(one: Components, other: Components, iterations: int) -> Tensor:
    """With psi_ab = w_b s_ab, sum_a s_ab = 1, the best phi leaves sum_a pi_a [ log pi_a - log sum_b psi_ab e^-KL_ab ];
    with phi_ab = pi_a r_ab, sum_b r_ab = 1, the best psi is s_ab = phi_ab / sum_a' phi_a'b. Both in logs.
    """
    affinity = -_component_kl(one, other)  # (*B, J, K)
    log_pi, log_w = one.log_weights.unsqueeze(-1), other.log_weights.unsqueeze(-2)
    score = log_pi + log_w + affinity  # log psi_ab e^-KL_ab
    for _ in range(iterations - 1):
        phi = log_pi + torch.log_softmax(_finite(score), dim=-1)
        psi = log_w + torch.log_softmax(_finite(phi), dim=-2)
        score = psi + affinity
    return one.average(one.log_weights - torch.logsumexp(score, dim=-1))


def _finite(score: Tensor) -> Tensor:
    """Scores with -inf (no weight) raised to a number that is as good as it, so that no softmax sees only -inf."""
    return score.clamp_min(torch.finfo(score.dtype).min / 16)


def _component_kl(one: Components, other: Components) -> Tensor:
    """KL(p_a || q_b) of all pairs of components (*B, J, K)."""
    return pairs.kl(one.gaussians.unsqueeze(-1), other.gaussians.unsqueeze(-2))


def _log_affinity(one: Components, other: Components) -> Tensor:
    """log sum_b w_b exp(-KL(p_a || q_b)) (*B, J)."""
    return torch.logsumexp(other.log_weights.unsqueeze(-2) - _component_kl(one, other), dim=-1)


def _log_overlap(one: Components, other: Components) -> Tensor:
    """log sum_b w_b int p_a q_b (*B, J)."""
    overlap = pairs.log_product_integral(one.gaussians.unsqueeze(-1), other.gaussians.unsqueeze(-2))
    return torch.logsumexp(other.log_weights.unsqueeze(-2) + overlap, dim=-1)
