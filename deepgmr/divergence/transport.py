"""Optimal transport between Gaussians, between samples of features, and between mixtures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepgmr.divergence._kernels.checks import broadcast_batches, values_visible, wide_type
from deepgmr.divergence._kernels.components import Components, read_mixtures
from deepgmr.divergence._kernels.precision import Gaussians
from deepgmr.divergence.gaussian import _read, safe_sqrt
from deepgmr.errors import InvalidInput
from deepgmr.mixture import GaussianMixture


def wasserstein2_gaussian(
    p_means: Tensor, p_covariances: Tensor, q_means: Tensor | None = None, q_covariances: Tensor | None = None
) -> Tensor:
    """The Wasserstein-2 distance of two Gaussians (*B): a metric, also called the Frechet or Bures distance.

    W^2 = |m_p - m_q|^2 + tr(S_p + S_q - 2 (S_p^1/2 S_q S_p^1/2)^1/2)   (Dowson and Landau 1982, eq. 4)

    Arguments as in `kl_gaussian`. It has a corner where p = q; the gradient there is given as zero. Use
    `wasserstein2_squared_gaussian` where a smooth loss is wanted.
    """
    return safe_sqrt(wasserstein2_squared_gaussian(p_means, p_covariances, q_means, q_covariances))


def wasserstein2_squared_gaussian(
    p_means: Tensor, p_covariances: Tensor, q_means: Tensor | None = None, q_covariances: Tensor | None = None
) -> Tensor:
    """The square of `wasserstein2_gaussian` (*B), smooth everywhere and once differentiable by autograd."""
    p, q = _read(p_means, p_covariances, q_means, q_covariances)
    return squared_distance(p, q)


def squared_distance(p: Gaussians, q: Gaussians) -> Tensor:
    """W^2 of Gaussians already read.

    The trace term is the orthogonal Procrustes problem min_U |L_p - L_q U|_F^2 in disguise. Written so, it is a sum
    of squares (no cancellation, never negative), and by the envelope theorem its gradient is that with U held fixed
    (no derivative of a singular vector, so nothing breaks at equal singular values).
    """
    shift = (p.means - q.means).square().sum(-1)
    if p.diagonal and q.diagonal:
        return shift + (p.lower - q.lower).square().sum(-1)
    p, q = p.full(), q.full()
    wide = wide_type(p.means)
    lower_p, lower_q = p.lower.to(wide), q.lower.to(wide)
    left, _, right = torch.linalg.svd((lower_q.mT @ lower_p).detach())
    return shift + (lower_p - lower_q @ (left @ right)).square().sum((-2, -1)).to(p.dtype)


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """The Frechet distance (*B) between two samples of features x (*B, N, d) and y (*B, M, d): the FID formula.

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^1/2) with the unbiased covariances C (Heusel et al. 2017, eq. 6). As
    everywhere this quantity is reported it is the *squared* Wasserstein-2 distance of the two Gaussians.

    The covariances are never formed: the trace of the root is the nuclear norm of X Y^T, so there is no matrix square
    root, no jitter, and fewer samples than features are no problem. Differentiable once. Raises `InvalidInput`.
    """
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1] or min(x.shape[-2], y.shape[-2]) < 2:
        raise InvalidInput(
            "features must be (*B, N, d) and (*B, M, d) with at least two rows each, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    broadcast_batches(x.shape[:-2], y.shape[:-2])
    if values_visible() and not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
        raise InvalidInput(f"features {tuple(x.shape)} and {tuple(y.shape)} hold NaN or infinite numbers; drop them")
    wide = wide_type(x)
    means, factors = [], []
    for features in (x.to(wide), y.to(wide)):
        means.append(features.mean(-2))
        factors.append((features - means[-1].unsqueeze(-2)) / (features.shape[-2] - 1) ** 0.5)  # C = F^T F
    orthonormal = [torch.linalg.qr(factor.detach()).Q for factor in factors]
    one, other = (q.mT @ f for q, f in zip(orthonormal, factors, strict=True))  # F = Q R with Q held fixed
    left, _, right = torch.linalg.svd((one @ other.mT).detach(), full_matrices=False)
    nuclear = ((left @ right) * (one @ other.mT)).sum((-2, -1))
    total = sum(factor.square().sum((-2, -1)) for factor in factors)
    return ((means[0] - means[1]).square().sum(-1) + total - 2 * nuclear).clamp_min(0).to(x.dtype)


def mixture_wasserstein2(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """MW2 (*B): the Wasserstein-2 distance when plans are restricted to Gaussian mixtures. A metric, exact.

    MW2^2 = min over w of sum_jk w_jk W2^2(p_j, q_k), w with marginals the weights (Delon and Desolneux 2020,
    eq. 4.4 and prop. 4): at least W2, and at most W2 plus twice the spread of the components. The linear programme
    is solved by HiGHS in scipy, on the CPU, one batch element after the other. Gradients are exact by the envelope
    theorem: through the costs with the plan held fixed, and to the weights through the dual potentials.
    """
    one, other = read_mixtures(p, q)
    cost = _costs(one, other)
    plan, rows, columns = _solve_plans(cost, one.weights, other.weights)
    value = (plan * cost).sum((-2, -1))
    for potential, weights in ((rows, one.weights), (columns, other.weights)):
        value = value + (potential * (weights - weights.detach())).sum(-1)
    return safe_sqrt(value)


def mixture_transport_plan(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The optimal plan (*B, J, K) of `mixture_wasserstein2`: how much of component j goes to component k."""
    one, other = read_mixtures(p, q)
    return _solve_plans(_costs(one, other), one.weights, other.weights)[0]


def mixture_wasserstein2_entropic(
    p: GaussianMixture, q: GaussianMixture, *, regularization: float = 0.01, iterations: int = 200
) -> Tensor:
    """MW2 with an entropic plan (*B): on any device, differentiable throughout by plain autograd.

    Sinkhorn's iterations in the log domain (Peyre and Cuturi 2019, eq. 4.43), `regularization` times the mean cost
    as temperature. Returns the root of the transport cost of the plan, without the entropy term: as the temperature
    falls it approaches `mixture_wasserstein2` from above, and it is not zero for p = q.
    """
    if not regularization > 0 or iterations < 1:
        raise InvalidInput(
            f"regularization must be positive and iterations at least one, got {regularization} and {iterations}"
        )
    one, other = read_mixtures(p, q)
    cost = _costs(one, other)
    temperature = regularization * cost.mean((-2, -1), keepdim=True) + torch.finfo(cost.dtype).tiny
    scaled = cost / temperature
    log_rows, log_columns = one.log_weights.unsqueeze(-1), other.log_weights.unsqueeze(-2)
    potential = torch.zeros_like(cost[..., :1, :])
    other_potential = torch.zeros_like(cost[..., :, :1])
    for _ in range(iterations):
        other_potential = -torch.logsumexp(log_columns + potential - scaled, dim=-1, keepdim=True)
        potential = -torch.logsumexp(log_rows + other_potential - scaled, dim=-2, keepdim=True)
    plan = (log_rows + log_columns + potential + other_potential - scaled).exp()
    return safe_sqrt((plan * cost).sum((-2, -1)))


def _costs(p: Components, q: Components) -> Tensor:
    """Squared Wasserstein-2 distances (*B, J, K) of all pairs of components."""
    return squared_distance(p.gaussians.unsqueeze(-1), q.gaussians.unsqueeze(-2))


def _solve_plans(cost: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Optimal plans and dual potentials of a batch of transport problems, as constants."""
    from scipy import sparse
    from scipy.optimize import linprog

    batch, (j, k) = cost.shape[:-2], cost.shape[-2:]
    flat = cost.detach().double().cpu().reshape(-1, j * k).numpy()
    supplies = rows.detach().double().cpu().expand(*batch, j).reshape(-1, j).numpy()
    demands = columns.detach().double().cpu().expand(*batch, k).reshape(-1, k).numpy()
    marginals = sparse.vstack(
        [sparse.kron(sparse.eye(j), np.ones((1, k))), sparse.kron(np.ones((1, j)), sparse.eye(k))]
    ).tocsc()
    plans, duals = np.zeros((len(flat), j * k)), np.zeros((len(flat), j + k))
    for index, (c, supply, demand) in enumerate(zip(flat, supplies, demands, strict=True)):
        scale = c.max() or 1.0
        limits = np.concatenate([supply / supply.sum(), demand / demand.sum()])
        found = linprog(c / scale, A_eq=marginals, b_eq=limits, bounds=(0, None), method="highs")
        if found.x is None:
            raise InvalidInput(f"the transport problem of batch element {index} was not solved: {found.message}")
        plans[index], duals[index] = found.x, found.eqlin.marginals * scale
    potentials = torch.as_tensor(duals).to(cost).reshape(*batch, j + k)
    return torch.as_tensor(plans).to(cost).reshape(cost.shape), potentials[..., :j], potentials[..., j:]
