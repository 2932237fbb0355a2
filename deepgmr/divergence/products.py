"""Divergences between Gaussian mixtures that have a closed form: those made of integrals of products.

The integral of p q is a sum over pairs of components, so anything built from int p q, int p^2 and int q^2 is exact.
Two `GaussianMixture`s in, a value (*B) out, gradients to everything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.divergence._kernels import pairs
from deepgmr.divergence._kernels.components import Components, read_mixtures
from deepgmr.mixture import GaussianMixture


def cauchy_schwarz(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The Cauchy-Schwarz divergence -log( int p q / sqrt(int p^2 int q^2) ) (*B). Exact, symmetric, >= 0.

    Kampa, Hasanbelliu and Principe 2011. Invariant under any common affine motion of the space; zero only for
    p = q; not a metric.
    """
    one, other = read_mixtures(p, q)
    cross, self_p, self_q = _log_integrals(one, other)
    return 0.5 * (self_p + self_q) - cross


def l2_squared(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The squared L2 distance int (p - q)^2 (*B). Exact, symmetric, >= 0; in units of one over volume.

    The objective of Jian and Vemuri's GMMReg (2011). Its root is a metric.
    """
    one, other = read_mixtures(p, q)
    cross, self_p, self_q = _log_integrals(one, other)
    scale = torch.maximum(self_p, self_q).detach()  # the density units may be any power of ten
    value = (self_p - scale).exp() + (self_q - scale).exp() - 2 * (cross - scale).exp()
    return value.clamp_min(0) * scale.exp()


def _log_integrals(one: Components, other: Components) -> tuple[Tensor, Tensor, Tensor]:
    """log of int p q, int p^2 and int q^2, each (*B)."""
    return _log_integral(one, other), _log_integral(one, one), _log_integral(other, other)


def _log_integral(one: Components, other: Components) -> Tensor:
    overlap = pairs.log_product_integral(one.gaussians.unsqueeze(-1), other.gaussians.unsqueeze(-2))
    weighted = one.log_weights.unsqueeze(-1) + other.log_weights.unsqueeze(-2) + overlap
    return torch.logsumexp(weighted.flatten(-2), dim=-1)
