"""Divergences between Gaussian mixtures as expectations over points: sigma points, or samples with an error bar.

Two `GaussianMixture`s in, values of the broadcast batch shape out, in nats. Sampling is reparametrised, so gradients
flow to weights, means and covariances. All raise `InvalidMixture` or `NotPositiveDefinite` for mixtures that are not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deepgmr.divergence._kernels.axes import component_means, sigma_points
from deepgmr.divergence._kernels.components import Components, log_densities, read_mixtures
from deepgmr.divergence._kernels.precision import Gaussians
from deepgmr.divergence.mixtures import Interval, _interval, log_affinity_bound
from deepgmr.errors import InvalidInput
from deepgmr.mixture import GaussianMixture

CHUNK = 1 << 22  # numbers a temporary may hold: samples are drawn at once but evaluated in pieces


class Estimate(NamedTuple):
    """A Monte Carlo estimate and the standard deviation of its error."""

    value: Tensor  # (*B)
    standard_error: Tensor  # (*B)


# -- sigma points ------------------------------------------------------------------------------------------------


def kl_unscented(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The unscented estimate of KL(p || q) (*B): log p - log q averaged over the sigma points of p. May be negative.

    sum_a pi_a / 2d sum_k (log p - log q)(x_ak), x_ak = m_a +- sqrt(d lambda_k) e_k along the principal axes of each
    component (Goldberger, Gordon and Greenspan 2003, the unscented approximation). Exact for single Gaussians, zero
    for p = q, a few per cent off on mixtures: the best value for its cost here. Rigidly invariant as long as no
    component has two equal axes; then the axes found depend on the coordinates, and the estimate slightly with them.
    """
    one, other = read_mixtures(p, q)
    ratio = _log_ratio(one, other, sigma_points(one.gaussians))
    return one.average(component_means(ratio, one.gaussians))


def jeffreys(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """Jeffreys' divergence KL(p || q) + KL(q || p) (*B), both terms unscented. An estimate; may be negative."""
    return kl_unscented(p, q) + kl_unscented(q, p)


def jensen_shannon(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """The Jensen-Shannon divergence of two mixtures (*B). An estimate, always within [0, log 2].

    1/2 KL(p || m) + 1/2 KL(q || m), m = (p + q) / 2, is log 2 less the expected entropy of which of the two a draw from
    m came from (Lin 1991). That entropy is averaged over the sigma points of both mixtures: every point's share lies in
    [0, log 2], hence the sum does. `jensen_shannon_interval` gives bounds, `jensen_shannon_monte_carlo` an error bar.
    """
    one, other = read_mixtures(p, q)
    total: Tensor | float = 0.0
    for side in (one, other):
        share = _shannon_share(_log_ratio(one, other, sigma_points(side.gaussians)))
        total = total + 0.5 * side.average(component_means(share, side.gaussians))
    assert isinstance(total, Tensor)
    return total.clamp(0, math.log(2))  # against rounding only


def jensen_shannon_interval(p: GaussianMixture, q: GaussianMixture, *, iterations: int = 30) -> Interval:
    """A guaranteed interval around the Jensen-Shannon divergence, each end (*B) and within [0, log 2].

    The mean of `kl_interval` from p and from q to their midpoint, a mixture of J + K components; from below also
    log 2 (1 - B), B an upper bound on the integral of sqrt(p q), because a coin's entropy is at most 2 log 2 sqrt(x (1 - x)).
    """
    if iterations < 1:
        raise InvalidInput(f"the bound needs at least one iteration, got {iterations}")
    one, other = read_mixtures(p, q)
    (middle,) = read_mixtures(_midpoint(p, q))
    to_p, to_q = (_interval(side, middle, iterations) for side in (one, other))
    upper = (0.5 * (to_p.upper + to_q.upper)).clamp_max(math.log(2))
    apart = -math.log(2) * torch.expm1(log_affinity_bound(one, other, 0.5))
    lower = torch.maximum(0.5 * (to_p.lower + to_q.lower), apart)
    return Interval(torch.minimum(lower, upper), upper)


# -- samples -----------------------------------------------------------------------------------------------------


def kl_monte_carlo(
    p: GaussianMixture, q: GaussianMixture, *, samples: int = 10_000, generator: torch.Generator | None = None
) -> Estimate:
    """The Monte Carlo estimate of KL(p || q) (*B) with its standard error. Unbiased; may be negative when KL is small.

    The mean of log p - log q over draws from p. Without a generator the draws are the same at every call. Gradients are
    unbiased too: means and covariances by reparametrising the draws, weights by the ratio pi / pi (one in value) that
    says how much likelier a draw becomes.
    """
    _check_samples(samples, 2)
    one, other = read_mixtures(p, q)
    random = generator or torch.Generator(p.device).manual_seed(0)
    ratio = _plain(one, other, samples, random, share=False)
    return Estimate(ratio.mean(-1), ratio.detach().std(-1) / math.sqrt(samples))


def jensen_shannon_monte_carlo(
    p: GaussianMixture, q: GaussianMixture, *, samples: int = 10_000, generator: torch.Generator | None = None
) -> Estimate:
    """The Monte Carlo estimate of the Jensen-Shannon divergence (*B), within [0, log 2], with its standard error.

    Half of the draws come from p, half from q, as in `jensen_shannon`.
    """
    _check_samples(samples, 4)
    one, other = read_mixtures(p, q)
    random = generator or torch.Generator(p.device).manual_seed(0)
    half = samples // 2
    from_p = _plain(one, other, half, random, share=True)
    from_q = _plain(other, one, half, random, share=True)  # the share is symmetric in p and q
    variance = from_p.detach().var(-1) + from_q.detach().var(-1)
    return Estimate(0.5 * (from_p.mean(-1) + from_q.mean(-1)), 0.5 * (variance / half).sqrt())


def kl_stratified(
    p: GaussianMixture, q: GaussianMixture, *, samples: int = 10_000, generator: torch.Generator | None = None
) -> Estimate:
    """Stratified Monte Carlo (*B): each component of p gets its share of the draws. Unbiased, never noisier to speak of.

    sum_a pi_a mean over n_a draws from p_a of (log p - log q), n_a proportional to pi_a but at least two, with the
    standard error of stratified sampling (Cochran 1977, eq. 5.10). The weights enter in the open, so that their
    gradient has no sampling noise of its own. Needs at least two samples a component.
    """
    _check_samples(samples, 2 * p.components)
    one, other = read_mixtures(p, q)
    random = generator or torch.Generator(p.device).manual_seed(0)
    batch = torch.broadcast_shapes(one.weights.shape[:-1], other.weights.shape[:-1])
    weights = one.weights.detach().expand(*batch, -1)
    counts = _allocation(weights, samples)  # (*B, J)
    index = _strata(counts, samples)  # (*B, N)
    ratio = _log_ratio_at(one, other, _draw(one.gaussians, index, random))
    tally = counts.to(ratio.dtype)
    mean = torch.zeros_like(tally).scatter_add(-1, index, ratio) / tally  # (*B, J)
    deviation = (ratio - mean.gather(-1, index)).detach()
    variance = torch.zeros_like(tally).scatter_add(-1, index, deviation.square()) / (tally - 1)
    error = (weights.square() * variance / tally).sum(-1).sqrt()
    return Estimate(one.average(mean), error)


# -- inside ------------------------------------------------------------------------------------------------------


def _log_ratio(one: Components, other: Components, points: Tensor) -> Tensor:
    """log p - log q (*B, N) at points given as columns (*B, d, N)."""
    if one.weights.shape[-1] == other.weights.shape[-1]:
        log_p, log_q = log_densities(points, one, other).unbind(-2)
        return log_p - log_q
    return one.log_density(points) - other.log_density(points)


def _shannon_share(ratio: Tensor) -> Tensor:
    """log 2 less the entropy of a coin of log odds `ratio`."""
    odds = ratio.abs()
    return math.log(2) - torch.nn.functional.softplus(-odds) - odds * torch.sigmoid(-odds)


def _midpoint(p: GaussianMixture, q: GaussianMixture) -> GaussianMixture:
    """(p + q) / 2 as a mixture of J + K components."""
    batch = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    parts = [
        torch.cat([x.expand(*batch, *x.shape[x.ndim - inner :]) for x in (one, other)], dim=len(batch))
        for one, other, inner in (
            (0.5 * p.weights, 0.5 * q.weights, 1),
            (p.means, q.means, 2),
            (p.covariances, q.covariances, 3),
        )
    ]
    return GaussianMixture(*parts)


def _check_samples(samples: int, least: int) -> None:
    if samples < least:
        raise InvalidInput(f"need at least {least} samples here, got {samples}")


def _plain(one: Components, other: Components, samples: int, random: torch.Generator, *, share: bool) -> Tensor:
    """log p - log q, or its Jensen-Shannon share, at draws from p: (*B, N), carrying every gradient."""
    batch = torch.broadcast_shapes(one.weights.shape[:-1], other.weights.shape[:-1])
    weights = one.weights.detach().expand(*batch, -1)
    flat = weights.reshape(-1, weights.shape[-1]).to(random.device)
    index = torch.multinomial(flat, samples, replacement=True, generator=random) if len(flat) else flat.new_zeros(0)
    index = index.long().reshape(*batch, samples).to(weights.device)
    values = _log_ratio_at(one, other, _draw(one.gaussians, index, random))
    values = _shannon_share(values) if share else values
    if one.weights.requires_grad:
        chosen = one.log_weights.expand(*batch, -1).gather(-1, index)
        values = values * (chosen - chosen.detach()).exp()
    return values


def _draw(g: Gaussians, index: Tensor, random: torch.Generator) -> Tensor:
    """One reparametrised draw from each indexed component, as columns: index (*B, N) to (*B, d, N)."""
    d, batch, n = g.dimension, index.shape[:-1], index.shape[-1]
    noise = torch.randn(*batch, n, d, generator=random, dtype=g.dtype, device=random.device).to(index.device)
    lower = g.lower.flatten(-2).expand(*batch, *g.lower.shape[-3:-2], d * d)
    chosen = lower.gather(-2, index.unsqueeze(-1).expand(*index.shape, d * d)).unflatten(-1, (d, d))
    means = g.means.expand(*batch, *g.means.shape[-2:])
    centres = means.gather(-2, index.unsqueeze(-1).expand(*index.shape, d))
    return (centres + (chosen * noise.unsqueeze(-2)).sum(-1)).mT


def _log_ratio_at(one: Components, other: Components, points: Tensor) -> Tensor:
    """`_log_ratio` in pieces along the points, so that memory stays bounded however many there are."""
    batch = max(1, math.prod(points.shape[:-2]))
    widest = max(one.weights.shape[-1], other.weights.shape[-1])
    size = max(1, CHUNK // (batch * widest))
    return torch.cat([_log_ratio(one, other, piece) for piece in points.split(size, dim=-1)], dim=-1)


def _allocation(weights: Tensor, samples: int) -> Tensor:
    """How many of the samples each component gets (*B, J): two each, the rest in proportion, summing exactly."""
    spare = samples - 2 * weights.shape[-1]
    share = weights.double() / weights.double().sum(-1, keepdim=True) * spare
    whole = share.floor()
    missing = (spare - whole.sum(-1, keepdim=True)).round()
    rank = (share - whole).argsort(-1, descending=True).argsort(-1)  # the largest remainders round up
    return (2 + whole + (rank < missing)).long()


def _strata(counts: Tensor, samples: int) -> Tensor:
    """The component of each sample (*B, N), in order, from the counts (*B, J)."""
    ends = counts.cumsum(-1)
    position = torch.arange(samples, device=counts.device).expand(*counts.shape[:-1], samples).contiguous()
    return torch.searchsorted(ends.contiguous(), position, right=True)
