"""Divergences of mixtures that share a part: what only one of them has costs its share and no more.

Each component p_j of p = sum_j pi_j p_j is explained either by a counterpart in q or by a background of constant
likelihood ratio beta, the chance, relative to a perfect counterpart, of seeing something that q does not have:

    D(p || q) = - sum_j pi_j log [ (exp(-KL(p_j || q_c(j))) + beta) / (1 + beta) ].

With the nearest component as the counterpart c(j) this is the matched bound of Goldberger, Gordon and Greenspan (ICCV
2003, eq. 7) in the form of Hershey and Olsen (ICASSP 2007, eq. 18), its largest term kept, with a background. We differ
from both by the background, which bounds the divergence, and by leaving out the ratio of the weights: a piece of surface
is explained no worse where the other sensor saw it more often.

    0 <= D <= log((1 + beta) / beta), and a share f of p without any counterpart costs f log((1 + beta) / beta).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.divergence._kernels import pairs
from deepgmr.divergence._kernels.components import read_mixtures
from deepgmr.errors import InvalidInput
from deepgmr.mixture import GaussianMixture

_NEGLIGIBLE = 30.0  # nats; beyond it exp would underflow to subnormal numbers, ten times slower


def kl_partial(p: GaussianMixture, q: GaussianMixture, *, background: float = 1.0) -> Tensor:
    """D(p || q) (*B) in nats, of mixtures over places, from every component of p to its nearest in q.

    Zero iff every component of p is one of q's. Differentiable almost everywhere: where the nearest counterpart changes
    it has a kink. Unlike a divergence of densities it does not ask q to lie within p: add the other direction for that.
    Raises `InvalidInput` for a background that is not positive.
    """
    one, other = read_mixtures(p, q)
    nearest = pairs.kl(one.gaussians.unsqueeze(-1), other.gaussians.unsqueeze(-2)).amin(-1)  # (*B, J)
    return partial_divergence(nearest, one.log_weights.exp(), background=background)


def partial_divergence(kl: Tensor, weights: Tensor | None = None, *, background: float = 1.0) -> Tensor:
    """D (*B) in nats from the divergences (*B, J) of components from their counterparts, infinite where there is none.

    weights (*B, J) add up to one; None: all the same. Raises `InvalidInput` for a background that is not positive.
    """
    if not background > 0:
        raise InvalidInput(f"the background must be a positive likelihood ratio, got {background}")
    likeness = torch.where(kl < _NEGLIGIBLE, torch.exp(-kl.clamp_max(_NEGLIGIBLE)), 0.0)
    cost = -torch.log((likeness + background) / (1 + background))
    return cost.mean(-1) if weights is None else (weights * cost).sum(-1)


def largest_partial_divergence(background: float) -> float:
    """What `partial_divergence` is where nothing has a counterpart."""
    return math.log((1 + background) / background)


def kl_oriented(square: Tensor, cosine: Tensor, *, sigma: float | Tensor, sigma_normal: float) -> Tensor:
    """KL (*B) between Gaussians over places and normals that are equal but for their means; a normal has no sign.

    square (*B) of the distance of the places, with standard deviation `sigma`; cosine (*B) of the normals: the squared
    distance of two unit vectors is twice one minus their cosine.
    """
    return square / (2 * sigma**2) + (1 - cosine.abs()) / sigma_normal**2
