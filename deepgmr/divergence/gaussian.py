"""Divergences and distances between Gaussians, in closed form.

Every function takes two batches of Gaussians as (means, covariances) and returns a value of the broadcast batch
shape. Means are (*B, d); covariances are full (*B, d, d), diagonal (*B, d) or isotropic (*B, 1), told apart by
their rank, and any two kinds pair up. The second Gaussian left out is the standard normal. All pairs of J against
K Gaussians come by broadcasting (..., J, 1) with (..., 1, K). Values are nats where the quantity is an
information, and gradients flow to every argument.

All raise `InvalidMixture` for shapes, types or batches that do not fit and for NaN, and `NotPositiveDefinite` for
covariances that are not. Their numbers are checked once a call, with one synchronisation, and not at all inside
`vmap` or `torch.compile`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.divergence._kernels import pairs
from deepgmr.divergence._kernels.precision import Gaussians, read_gaussians
from deepgmr.errors import InvalidInput, InvalidMixture


def kl_gaussian(
    p_means: Tensor, p_covariances: Tensor, q_means: Tensor | None = None, q_covariances: Tensor | None = None
) -> Tensor:
    """The Kullback-Leibler divergence KL(p || q) (*B). Exact, non-negative, zero only for equal Gaussians.

    1/2 [ tr(S_q^-1 S_p) + (m_p - m_q)^T S_q^-1 (m_p - m_q) - d + log |S_q| / |S_p| ]
    """
    p, q = _read(p_means, p_covariances, q_means, q_covariances)
    return pairs.kl(p, q)


def pairwise_kl_gaussian(p_means: Tensor, p_covariances: Tensor, q_means: Tensor, q_covariances: Tensor) -> Tensor:
    """KL(p_j || q_k) of every pair, (*B, J, K), from means (*B, J, d) and (*B, K, d).

    The same numbers as `kl_gaussian` on (..., J, 1) and (..., 1, K); a name for what is most often wanted.
    """
    inner_p, inner_q = p_covariances.ndim - p_means.ndim + 1, q_covariances.ndim - q_means.ndim + 1
    if min(p_means.ndim, q_means.ndim) < 2:
        raise InvalidMixture(
            f"all pairs need means (*B, J, d) and (*B, K, d), got {tuple(p_means.shape)} and {tuple(q_means.shape)}"
        )
    return kl_gaussian(
        p_means.unsqueeze(-2),
        p_covariances.unsqueeze(-inner_p - 1),
        q_means.unsqueeze(-3),
        q_covariances.unsqueeze(-inner_q - 2),
    )


def jeffreys_gaussian(
    p_means: Tensor, p_covariances: Tensor, q_means: Tensor | None = None, q_covariances: Tensor | None = None
) -> Tensor:
    """Jeffreys' divergence KL(p || q) + KL(q || p) (*B): the symmetric sum, not its half."""
    p, q = _read(p_means, p_covariances, q_means, q_covariances)
    return pairs.kl(p, q) + pairs.kl(q, p)


def renyi_gaussian(
    p_means: Tensor,
    p_covariances: Tensor,
    q_means: Tensor | None = None,
    q_covariances: Tensor | None = None,
    *,
    alpha: float,
) -> Tensor:
    """The Renyi divergence of order alpha > 0, alpha != 1 (*B): log of the integral of p^a q^(1-a), over a - 1.

    a/2 D^T S^-1 D + log(|S_p|^(1-a) |S_q|^a / |S|) / (2 (a - 1)),  S = (1 - a) S_p + a S_q, D = m_p - m_q
    (Gil, Alajaji and Linder 2013, table 2). Infinite where alpha > 1 and S is not positive definite. The limit
    alpha -> 1 is `kl_gaussian`.
    """
    if not alpha > 0 or alpha == 1:
        raise InvalidInput(f"the Renyi order must be positive and not one, got {alpha}; order one is kl_gaussian")
    p, q = _read(p_means, p_covariances, q_means, q_covariances)
    return pairs.renyi(p, q, alpha)


def bhattacharyya_gaussian(
    p_means: Tensor, p_covariances: Tensor, q_means: Tensor | None = None, q_covariances: Tensor | None = None
) -> Tensor:
    """The Bhattacharyya distance, minus the log of the integral of sqrt(p q) (*B).

    1/8 D^T S^-1 D + 1/2 log(|S| / sqrt(|S_p| |S_q|)),  S = (S_p + S_q) / 2: half the Renyi divergence of order
    1/2. Symmetric and non-negative, but no triangle inequality; `hellinger_gaussian` has one.
    """
    p, q = _read(p_means, p_covariances, q_means, q_covariances)
    return 0.5 * pairs.renyi(p, q, 0.5)


def hellinger_gaussian(
    p_means: Tensor, p_covariances: Tensor, q_means: Tensor | None = None, q_covariances: Tensor | None = None
) -> Tensor:
    """The Hellinger distance sqrt(1 - integral of sqrt(p q)) (*B), a metric with values in [0, 1].

    Like any distance it has a corner where p = q; the gradient there is given as zero.
    """
    p, q = _read(p_means, p_covariances, q_means, q_covariances)
    return safe_sqrt(-torch.expm1(-0.5 * pairs.renyi(p, q, 0.5)))


def geometric_jensen_shannon_gaussian(
    p_means: Tensor,
    p_covariances: Tensor,
    q_means: Tensor | None = None,
    q_covariances: Tensor | None = None,
    *,
    alpha: float = 0.5,
) -> Tensor:
    """The geometric Jensen-Shannon divergence (1 - a) KL(p || g) + a KL(q || g) (*B), 0 < alpha < 1.

    g is the normalised geometric mean p^(1-a) q^a, a Gaussian again, which is why this one has a closed form and the
    arithmetic one has not (Nielsen 2019, On the Jensen-Shannon symmetrization of distances). Expanding log g gives
    a (1 - a) Jeffreys(p, q) - a Renyi_(1-a)(p || q), which needs no explicit g. Not bounded by log 2.
    """
    if not 0 < alpha < 1:
        raise InvalidInput(f"the weight alpha must lie strictly between zero and one, got {alpha}")
    p, q = _read(p_means, p_covariances, q_means, q_covariances)
    return alpha * (1 - alpha) * (pairs.kl(p, q) + pairs.kl(q, p)) - alpha * pairs.renyi(p, q, 1 - alpha)


def log_product_integral_gaussian(
    p_means: Tensor, p_covariances: Tensor, q_means: Tensor | None = None, q_covariances: Tensor | None = None
) -> Tensor:
    """log of the integral of p(x) q(x) dx = log N(m_p; m_q, S_p + S_q) (*B): the overlap of two Gaussians."""
    p, q = _read(p_means, p_covariances, q_means, q_covariances)
    return pairs.log_product_integral(p, q)


def _read(
    p_means: Tensor, p_covariances: Tensor, q_means: Tensor | None, q_covariances: Tensor | None
) -> tuple[Gaussians, Gaussians]:
    if (q_means is None) != (q_covariances is None):
        raise InvalidInput("give both q_means and q_covariances, or neither for the standard normal")
    if q_means is None or q_covariances is None:
        q_means = p_means.new_zeros(p_means.shape[-1:])
        q_covariances = p_means.new_ones(1)
    p, q = read_gaussians((p_means, p_covariances), (q_means, q_covariances))
    return p, q


def safe_sqrt(value: Tensor) -> Tensor:
    """The square root, zero (with zero gradient) where the argument is zero or rounded below it."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1).sqrt(), 0)
