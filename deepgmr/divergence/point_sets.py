"""Distances between two samples of points, with no density in between.

x is (*B, N, d), y is (*B, M, d); N and M may differ; values are (*B). Work over all pairs goes chunk by chunk, and where
gradients are wanted each chunk is computed again in the backward pass, so memory grows with the samples and not with
their product. All raise `InvalidCloud` for shapes that do not fit, samples that are empty, and NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deepgmr.divergence._kernels.checks import values_visible
from deepgmr.divergence.gaussian import safe_sqrt
from deepgmr.errors import InvalidCloud, InvalidInput

CHUNK = 1 << 22  # distances held at once
_MEDIAN_POINTS = 1000  # of each sample, for the bandwidth heuristic


def mmd(
    x: Tensor, y: Tensor, *, bandwidths: Tensor | list[float] | float | None = None, biased: bool = False
) -> Tensor:
    """The squared maximum mean discrepancy (*B), kernel exp(-|x - y|^2 / 2 h^2) (Gretton et al. 2012).

    The unbiased U-statistic (their eq. 3) by default, which may be negative; with `biased` the V-statistic (eq. 5),
    never negative and zero for x = y. Several bandwidths h average their kernels. Without any, the median distance
    between points of the pooled sample (the median heuristic), treated as a constant by the gradient.
    """
    shape = _check(x, y, least=1 if biased else 2)
    if bandwidths is None:
        scales = [median_bandwidth(x, y)]
    else:
        values = torch.as_tensor(bandwidths, dtype=x.dtype, device=x.device).reshape(-1)
        if not bool((values > 0).all()) or not len(values):
            raise InvalidInput(f"bandwidths must be positive and at least one, got {values.tolist()}")
        scales = [h.expand(shape) for h in values]

    def kernel(a: Tensor, b: Tensor, *scales: Tensor) -> Tensor:
        squared = _squared_distances(a, b)
        terms = [torch.exp(-squared / (2 * h * h)[..., None, None]) for h in scales]
        return torch.stack(terms).mean(0) if len(terms) > 1 else terms[0]

    n, m = x.shape[-2], y.shape[-2]
    cross = _sum_pairs(kernel, x, y, *scales) / (n * m)
    self_x, self_y = _sum_pairs(kernel, x, x, *scales), _sum_pairs(kernel, y, y, *scales)
    if biased:
        return (self_x / n**2 + self_y / m**2 - 2 * cross).clamp_min(0)
    return (self_x - n) / (n * (n - 1)) + (self_y - m) / (m * (m - 1)) - 2 * cross  # the diagonals are all ones


def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """The median distance (*B) between distinct points of the pooled sample, from at most 1000 points of each."""
    shape = _check(x, y)
    pool = torch.cat(
        [s.detach()[..., :: max(1, -(-s.shape[-2] // _MEDIAN_POINTS)), :].expand(*shape, -1, -1) for s in (x, y)],
        dim=-2,
    )
    i, k = torch.triu_indices(pool.shape[-2], pool.shape[-2], offset=1, device=x.device)
    distances = _squared_distances(pool, pool).sqrt()[..., i, k]
    median = distances.median(-1).values
    return torch.where(median > 0, median, 1)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """The energy distance 2 E|x - y| - E|x - x'| - E|y - y'| (*B) of the two empirical distributions.

    Szekely and Rizzo 2013, eq. 5 for samples: non-negative, zero only for equal distributions. In one dimension it is
    the square of scipy.stats.energy_distance.
    """
    _check(x, y)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return safe_sqrt(_squared_distances(a, b))

    n, m = x.shape[-2], y.shape[-2]
    cross = 2 * _sum_pairs(distance, x, y) / (n * m)
    value = cross - _sum_pairs(distance, x, x) / n**2 - _sum_pairs(distance, y, y) / m**2
    return value.clamp_min(0)


def chamfer(x: Tensor, y: Tensor) -> Tensor:
    """The Chamfer distance (*B): mean squared distance to the nearest point, from x to y plus from y to x.

    Squared distances and both directions, as in Fan, Su and Guibas 2017 (there summed, here averaged). Not a metric.
    Gradients hold the nearest neighbours fixed, which is exact wherever they are unique.
    """
    shape = _check(x, y)
    total: Tensor | float = 0.0
    for one, other in ((x, y), (y, x)):
        one, other = one.expand(*shape, *one.shape[-2:]), other.expand(*shape, *other.shape[-2:])
        with torch.no_grad():
            pieces = [_squared_distances(part, other).argmin(-1) for part in _chunks(one, other)]
            nearest = torch.cat(pieces, dim=-1)  # (*B, N)
        chosen = other.gather(-2, nearest.unsqueeze(-1).expand(*nearest.shape, other.shape[-1]))
        total = total + (one - chosen).square().sum(-1).mean(-1)
    assert isinstance(total, Tensor)
    return total


def sliced_wasserstein(
    x: Tensor, y: Tensor, *, projections: int = 128, order: int = 2, generator: torch.Generator | None = None
) -> Tensor:
    """The sliced Wasserstein distance of order 1 or 2 (*B): exact one-dimensional transport, averaged over directions.

    ( mean over directions of int |F^-1(u) - G^-1(u)|^order du )^(1/order) (Bonneel et al. 2015). The quantile functions
    of N and M points are steps; the integral runs exactly over the common refinement of both, so counts may differ. The
    directions are drawn from the generator; without one they are the same at every call. A Monte Carlo estimate in the
    directions, never negative, zero for equal samples.
    """
    shape = _check(x, y)
    if projections < 1 or order not in (1, 2):
        raise InvalidInput(f"need at least one projection and order 1 or 2, got {projections} and {order}")
    random = generator or torch.Generator(x.device).manual_seed(0)
    d, n, m = x.shape[-1], x.shape[-2], y.shape[-2]
    directions = torch.randn(d, projections, generator=random, dtype=x.dtype, device=random.device).to(x.device)
    directions = directions / directions.norm(dim=0)
    index_x, index_y, widths = _refinement(n, m, x)

    def transport(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
        sorted_x = (x @ directions).sort(dim=-2).values  # (*B, N, P)
        sorted_y = (y @ directions).sort(dim=-2).values
        gap = (sorted_x.index_select(-2, index_x) - sorted_y.index_select(-2, index_y)).abs()
        return ((gap if order == 1 else gap * gap) * widths.unsqueeze(-1)).sum((-2, -1))

    size = max(1, CHUNK // (max(1, math.prod(shape)) * (n + m)))
    total: Tensor | float = 0.0
    for part in directions.split(size, dim=1):
        total = total + _maybe_checkpoint(transport, x, y, part)
    assert isinstance(total, Tensor)
    mean = total / projections
    return mean if order == 1 else safe_sqrt(mean)


def _refinement(n: int, m: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The common refinement of [0, 1] cut into n and into m equal parts: which part of each, and how wide. Integers of
    units 1/nm decide, so no boundary is misplaced by rounding.
    """
    cuts = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    starts = torch.cat([cuts.new_zeros(1), cuts[:-1]])
    widths = (cuts - starts).to(like.dtype) / (n * m)
    return (starts // m).to(like.device), (starts // n).to(like.device), widths.to(like.device)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_k|^2 (*B, N, M), by differences: the usual expansion of the square loses what is near."""
    if a.shape[-1] > 8:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    total: Tensor | None = None
    for i in range(a.shape[-1]):
        gap = a[..., :, None, i] - b[..., None, :, i]
        total = gap * gap if total is None else torch.addcmul(total, gap, gap)
    assert total is not None
    return total


def _chunks(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    batch = max(1, math.prod(torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])))
    yield from a.split(max(1, CHUNK // (batch * b.shape[-2])), dim=-2)


def _sum_pairs(function: Callable[..., Tensor], a: Tensor, b: Tensor, *rest: Tensor) -> Tensor:
    """The sum of function(a_i, b_k) over all pairs (*B), a chunk of rows at a time."""

    def partial(part: Tensor, b: Tensor, *rest: Tensor) -> Tensor:
        return function(part, b, *rest).sum((-2, -1))

    total: Tensor | float = 0.0
    for part in _chunks(a, b):
        total = total + _maybe_checkpoint(partial, part, b, *rest)
    assert isinstance(total, Tensor)
    return total


def _maybe_checkpoint(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Compute again in the backward pass rather than remember, where there will be one."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors) and values_visible():
        value: Tensor = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
        return value
    return function(*tensors)


def _check(x: Tensor, y: Tensor, least: int = 1) -> torch.Size:
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1] or x.shape[-1] == 0:
        raise InvalidCloud(f"samples must be (*B, N, d) and (*B, M, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    if min(x.shape[-2], y.shape[-2]) < least:
        raise InvalidCloud(
            f"each sample needs at least {least} point(s), got {tuple(x.shape)} and {tuple(y.shape)}; gather more points"
        )
    if x.dtype != y.dtype or x.device != y.device or not x.is_floating_point():
        raise InvalidCloud(
            f"samples must share a floating dtype and a device, got {x.dtype} on {x.device} and {y.dtype} on {y.device}"
        )
    try:
        shape = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except RuntimeError:
        raise InvalidCloud(
            f"the batches of samples {tuple(x.shape)} and {tuple(y.shape)} do not broadcast; give both the same batch"
        ) from None
    if values_visible() and not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
        raise InvalidCloud(
            f"samples {tuple(x.shape)} and {tuple(y.shape)} hold NaN or infinite numbers; drop them first"
        )
    return shape
