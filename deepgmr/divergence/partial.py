"""Divergences of mixtures that share a part: what only one of them has costs its share and no more.

Each component p_j of p = sum_j pi_j p_j is explained by its counterpart in q, the nearest component c(j), or by a
background that fits perfectly but is believed only beta times as much:

    D(p || q) = - sum_j pi_j log [ (exp(-KL_j) + beta) / (1 + beta) ],    KL_j = KL(p_j || q_c(j)).              (1)

Every term grows with its KL_j and saturates, so a share f of p that is far from all of q costs f log((1 + beta) / beta):

    0 <= D <= log((1 + beta) / beta)    and    D <= sum_j pi_j KL_j / (1 + beta).                                (2)

D bounds a divergence of densities. With r = sum_j pi_j q_c(j), the counterparts under the weights of p,

    KL(p || (r + beta p) / (1 + beta)) <= D(p || q),                                                             (3)

the skew divergence of Lee (ACL 1999) from r, for beta = 1 the K divergence of Lin (IEEE Trans. IT 37(1), 1991). Term by
term it is the variational bound of Hershey and Olsen (ICASSP 2007, section 7), exact in its first half because p_j is a
single Gaussian; the sum follows because KL is jointly convex. D bounds nothing about q itself: the weights of q, and what
q has beyond p, do not enter. A piece of surface is explained no worse where the other sensor looked less often.

As beta falls to zero D rises to sum_j pi_j KL_j, the matching approximation of Goldberger, Gordon and Greenspan (ICCV
2003) without its ratio of weights: where q's K components weigh the same, it is `kl_matched` less log K plus the entropy
of the weights of p.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.divergence._kernels import pairs
from deepgmr.divergence._kernels.checks import broadcast_batches, values_visible
from deepgmr.divergence._kernels.components import read_mixtures
from deepgmr.errors import InvalidInput
from deepgmr.mixture import GaussianMixture

_ROUNDING = 0.01  # nats: what rounding may leave of a divergence below zero, of narrow components in float32 too


def kl_partial(p: GaussianMixture, q: GaussianMixture, *, background: float = 1.0) -> Tensor:
    """D(p || q) (*B), eq. 1, from every component of p to its nearest in q. Within [0, log((1 + beta) / beta)].

    An upper bound on the skew divergence of eq. 3. Zero iff every component of p that has weight is one of q's; add the
    other direction where q must lie within p too. Continuous, with corners where the nearest component changes. Raises
    `InvalidInput` for a background that is not positive.
    """
    one, other = read_mixtures(p, q)
    nearest = pairs.kl(one.gaussians.unsqueeze(-1), other.gaussians.unsqueeze(-2)).amin(-1)  # (*B, J)
    return partial_divergence(nearest.clamp_min(0), one.weights, background=background)  # below zero by rounding only


def partial_divergence(kl: Tensor, weights: Tensor | None = None, *, background: float = 1.0) -> Tensor:
    """D (*B), eq. 1, from the divergences (*B, J) of components from their counterparts, infinite where there is none.

    weights (*B, J) sum to one; None: all the same. The gradient is zero where there is no counterpart. Raises
    `InvalidInput` for NaN, divergences below zero by more than rounding, weights that do not fit, and a background
    that is not positive.
    """
    _check(kl, weights, background)
    # Likenesses that vanish beside the background are zero: an exp that underflows to subnormals takes ten times as long.
    reach = -2 * math.log(torch.finfo(kl.dtype).eps) - min(0.0, math.log(background))
    reach = min(reach, -math.log(torch.finfo(kl.dtype).tiny))
    likeness = torch.where(kl < reach, torch.exp(-kl.clamp_max(reach)), 0.0)
    cost = -torch.log((likeness + background) / (1 + background))
    return cost.mean(-1) if weights is None else (weights * cost).sum(-1)


def largest_partial_divergence(background: float = 1.0) -> float:
    """log((1 + beta) / beta): what `partial_divergence` is where nothing has a counterpart."""
    _check_background(background, torch.float64)
    return math.log1p(1 / background)


def kl_oriented(square: Tensor, cosine: Tensor, *, sigma: float | Tensor, sigma_normal: float | Tensor) -> Tensor:
    """KL (*B) of Gaussians over places and normals, R^6, that differ in their means alone. Exact.

        |x - y|^2 / (2 sigma^2) + (1 - |cos(m, n)|) / sigma_normal^2,

    for means (x, m) and (y, n) and covariance diag(sigma^2 I, sigma_normal^2 I): unit vectors are |m - n|^2 = 2 - 2 cos
    apart, and of the two signs a normal may have the nearer one counts. Given as the square (*B) of the distance and the
    cosine (*B) of the normals. A sigma of zero is the limit: places are equal or infinitely unlike. Below zero by the
    rounding of the cosine only. Raises `InvalidInput` for standard deviations that cannot be.
    """
    for name, value, sound in (
        ("sigma", sigma, sigma >= 0),
        ("sigma_normal", sigma_normal, sigma_normal > 0),
    ):
        if (not isinstance(value, Tensor) or values_visible()) and not bool(torch.as_tensor(sound).all()):
            raise InvalidInput(f"{name} is a standard deviation and cannot be {value}; give a positive number")
    place = torch.where((square == 0) & (sigma == 0), 0.0, square / (2 * sigma**2))
    return place + (1 - cosine.abs()) / sigma_normal**2


def _check(kl: Tensor, weights: Tensor | None, background: float) -> None:
    if not kl.is_floating_point() or kl.ndim < 1 or kl.shape[-1] == 0:
        raise InvalidInput(
            f"divergences of components must be floating point (*B, J), J at least one, got {kl.dtype} {tuple(kl.shape)}"
        )
    _check_background(background, kl.dtype)
    if weights is not None:
        if weights.dtype != kl.dtype or weights.ndim < 1 or weights.shape[-1] != kl.shape[-1]:
            raise InvalidInput(
                f"weights must be one a component, {kl.dtype} (*B, {kl.shape[-1]}), got {weights.dtype} "
                f"{tuple(weights.shape)}"
            )
        broadcast_batches(weights.shape[:-1], kl.shape[:-1])
    if not values_visible():
        return
    if not bool((kl.detach() >= -_ROUNDING).all()):
        if bool(torch.isnan(kl).any()):
            raise InvalidInput(
                f"divergences {tuple(kl.shape)} hold NaN; make them infinite where there is no counterpart"
            )
        raise InvalidInput(f"divergences {tuple(kl.shape)} must not be negative, the least is {kl.min().item():.3g}")
    if weights is not None:
        error = (weights.detach().sum(-1) - 1).abs()
        tolerance = 1e-5 if kl.dtype == torch.float64 else 1e-4
        if not bool((weights >= 0).all() & (error <= tolerance).all()):
            raise InvalidInput(
                f"weights {tuple(weights.shape)} must be non-negative and sum to one; divide them by their sum"
            )


def _check_background(background: float, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    least = info.tiny / info.eps
    if not least <= background < math.inf:
        raise InvalidInput(
            f"the background is a positive likelihood ratio, at least {least:.0e} in {dtype}, got {background}"
        )
