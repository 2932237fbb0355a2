"""The Kullback-Leibler divergence between zero-mean multivariate generalised Gaussians.

    f(x) = C(beta) |S|^(-1/2) exp(-1/2 (x^T S^-1 x)^beta),
    C(beta) = beta Gamma(d/2) / (pi^(d/2) Gamma(d/(2 beta)) 2^(d/(2 beta)))

beta = 1 is the Gaussian, beta = 1/2 a multivariate Laplacian, beta -> infinity uniform on an ellipsoid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.divergence._kernels.checks import values_visible, wide_type
from deepgmr.divergence._kernels.precision import read_gaussians
from deepgmr.errors import InvalidInput

_STEP = 0.4  # of the trapezoidal rule; its error exp(-2 pi^2 / step) is below the rounding of float64
_REACH = 76.0  # half the range: the integrand falls at least as exp(-|v| / 2)


def kl_generalized_gaussian(p_scatters: Tensor, p_betas: Tensor, q_scatters: Tensor, q_betas: Tensor) -> Tensor:
    """KL(p || q) (*B) of zero-mean generalised Gaussians with scatters (*B, d, d) and shapes beta (*B), exact.

    Bouhlel and Dziri 2019 (IEEE Signal Processing Letters 26(7)). Their closed form is

      log [ beta_p |S_p|^(-1/2) Gamma(d / 2 beta_q) / (beta_q |S_q|^(-1/2) Gamma(d / 2 beta_p)) ]
      + d/2 (1/beta_q - 1/beta_p) log 2 - d / (2 beta_p)
      + 2^(beta_q/beta_p - 1) Gamma(beta_q/beta_p + d / 2 beta_p) / Gamma(d / 2 beta_p) E[(u^T M u)^beta_q],

    u uniform on the sphere, M = L_p^T S_q^-1 L_p, where they write the expectation as a Lauricella F_D series in the
    eigenvalues of M. The series converges only for |1 - lambda_i / lambda_d| < 1 and ever more slowly towards that;
    we integrate instead: see `sphere_moment`. Scatters may also be diagonal (*B, d) or isotropic (*B, 1) when betas
    say so by their rank, as in `kl_gaussian`. Computed in float64, returned in the type of the input; once
    differentiable in every argument. Raises `InvalidMixture`, `NotPositiveDefinite`, and `InvalidInput` for a
    beta that is not positive.
    """
    d = p_scatters.shape[-1] if p_scatters.ndim else 0
    tensors = (p_scatters, p_betas, q_scatters, q_betas)
    if values_visible() and not all(bool((b > 0).all()) and bool(torch.isfinite(b).all()) for b in tensors[1::2]):
        worst = min(b.min().item() if b.numel() else 1.0 for b in tensors[1::2])
        raise InvalidInput(f"the shape beta must be positive and finite, the least is {worst:.3g}")
    d = max(p_scatters.shape[-1:] + q_scatters.shape[-1:], default=0)
    zeros = [beta.unsqueeze(-1).expand(*beta.shape, d).new_zeros(*beta.shape, d) for beta in (p_betas, q_betas)]
    p, q = (g.full() for g in read_gaussians((zeros[0], p_scatters), (zeros[1], q_scatters)))
    wide = wide_type(p_scatters)
    a, b = p_betas.to(wide), q_betas.to(wide)
    white = q.whitening.to(wide) @ p.lower.to(wide)
    spectrum = torch.linalg.eigvalsh(white @ white.mT)
    moment = sphere_moment(spectrum.clamp_min(torch.finfo(wide).tiny), b)
    half = 0.5 * d
    log_constant = _log_constant(a, d) - _log_constant(b, d) + 0.5 * (q.log_det - p.log_det)
    # r^(2 a) of p is Gamma(d / 2a, scale 2), so E r^(2b) = 2^(b/a) Gamma(d/2a + b/a) / Gamma(d/2a)
    radial = (b / a - 1) * math.log(2.0) + torch.lgamma((half + b) / a) - torch.lgamma(half / a)
    return (log_constant - half / a + radial.exp() * moment).to(p.dtype)


def sphere_moment(spectrum: Tensor, power: Tensor) -> Tensor:
    """E[(sum_i lambda_i u_i^2)^s] (*B) for u uniform on the unit sphere, lambda (*B, d) > 0 and s (*B) > 0.

    Equal to lambda_d^s F_D(-s; 1/2, ..., 1/2; d/2; 1 - lambda_1/lambda_d, ...), the Lauricella function of Bouhlel
    and Dziri. With z standard normal, Q = sum lambda_i z_i^2 and phi(t) = E exp(-t Q) = prod (1 + 2 lambda_i t)^-1/2,

      E Q^s = 1 / Gamma(n - s) * integral over t > 0 of t^(n-s-1) (-1)^n phi^(n)(t) dt     for any integer n > s,

    and the length of z divides out. All terms of (-1)^n phi^(n) are positive, so nothing cancels; after t = exp(v)
    the integrand is analytic in a strip and the trapezoidal rule converges to rounding in a few hundred nodes,
    whatever the spread of the eigenvalues.
    """
    d = spectrum.shape[-1]
    scale = spectrum.amax(-1, keepdim=True)
    shape = torch.broadcast_shapes(spectrum.shape[:-1], power.shape)
    ratio = (spectrum / scale).expand(*shape, d).unsqueeze(-2)  # (*B, 1, d)
    s = power.expand(shape)
    order = (s.detach() + 0.5).floor() + 1  # n - s in (1/2, 3/2]: the integrand falls at least as exp(-|v| / 2)
    count = int(_REACH / _STEP)
    nodes = _STEP * torch.arange(-count, count + 1, dtype=spectrum.dtype, device=spectrum.device)  # (V)
    t = nodes.exp()
    shrunk = 2 * ratio / (1 + 2 * ratio * t.unsqueeze(-1))  # (*B, V, d)
    log_phi = -0.5 * torch.log1p(2 * ratio * t.unsqueeze(-1)).sum(-1)  # (*B, V)
    # D_n = (-1)^n phi^(n) / phi by D_n = sum_k C(n-1, k) D_k c_(n-k), c_m = (m-1)!/2 sum_i shrunk_i^m
    highest = int(order.max().item()) if order.numel() else 1
    cumulants = [0.5 * math.factorial(m - 1) * shrunk.pow(m).sum(-1) for m in range(1, highest + 1)]
    derivative = [torch.ones_like(log_phi)]
    for n in range(1, highest + 1):
        terms = [math.comb(n - 1, k) * derivative[k] * cumulants[n - k - 1] for k in range(n)]
        derivative.append(torch.stack(terms).sum(0))
    stacked = torch.stack(derivative, dim=-1)  # (*B, V, n + 1)
    index = order.long()[..., None, None].expand(*stacked.shape[:-1], 1)
    chosen = stacked.gather(-1, index).squeeze(-1)
    gap = order - s
    log_terms = gap.unsqueeze(-1) * nodes + log_phi + chosen.log()
    log_moment = torch.logsumexp(log_terms, dim=-1) + math.log(_STEP) - torch.lgamma(gap)
    log_length = s * math.log(2.0) + torch.lgamma(0.5 * d + s) - math.lgamma(0.5 * d)  # log E |z|^(2s)
    return (log_moment - log_length).exp() * scale.squeeze(-1).pow(s)


def _log_constant(beta: Tensor, d: int) -> Tensor:
    half = 0.5 * d
    return (
        beta.log()
        + math.lgamma(half)
        - half * math.log(math.pi)
        - torch.lgamma(half / beta)
        - half / beta * math.log(2.0)
    )
