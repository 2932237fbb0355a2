"""Two mixtures read for comparison, and the density of one at many points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.divergence._kernels.checks import broadcast_batches, values_visible
from deepgmr.divergence._kernels.precision import Gaussians, factored
from deepgmr.divergence._kernels.triangular import vector_planes
from deepgmr.errors import InvalidMixture
from deepgmr.mixture import GaussianMixture

_BLOCK = 1 << 18  # numbers worked on at once where no gradient is asked for: they stay in cache


@dataclass(frozen=True, eq=False)
class Components:
    """A mixture whose components are factored. Made by `read_mixtures`."""

    weights: Tensor  # (*B, J)
    log_weights: Tensor  # (*B, J), -inf where the weight is zero
    gaussians: Gaussians  # (*B, J)

    def average(self, values: Tensor) -> Tensor:
        """sum_j weights_j values_j (*B): components of no weight count for nothing, whatever their value."""
        used = self.weights > 0
        return (self.weights * torch.where(used, values, 0)).sum(-1)

    def affine(self, centre: Tensor) -> list[Tensor]:
        """log(w_j / |2 pi S_j|^1/2) (*B, J, 1); the d rows of L_j^-1 (*B, J, i + 1); their products with the means taken
        from `centre` (*B, d, 1), negative, (*B, J, 1) each: what the density at x - centre is made of.
        """
        g = self.gaussians.full()
        means = vector_planes(g.means - centre.mT)
        rows, offsets = [], []
        for i, row in enumerate(_whitening_rows(g)):
            white = -row[0] * means[0]
            for k in range(1, i + 1):
                white = torch.addcmul(white, row[k], means[k], value=-1)
            rows.append(torch.stack(list(row), dim=-1))
            offsets.append(white.unsqueeze(-1))
        constant = self.log_weights - g.half_log_det - 0.5 * g.dimension * math.log(2 * math.pi)
        return [constant.unsqueeze(-1), *rows, *offsets]

    def log_density(self, points: Tensor) -> Tensor:
        """The log density (*B, N) at points given as columns (*B, d, N)."""
        return log_densities(points, self).squeeze(-2)


def log_densities(points: Tensor, *mixtures: Components) -> Tensor:
    """The log densities (*B, S, N) of S mixtures of equal numbers of components at the same points (*B, d, N).

    One product with a row of the whitening factors at a time, the centre of the points already taken out: the largest
    temporary is (*B, S J, N), and the squares are taken of differences, so float32 keeps its digits.
    """
    shapes = [mixture.weights.shape[:-1] for mixture in mixtures]
    batch, d = torch.broadcast_shapes(points.shape[:-2], *shapes), points.shape[-2]
    sides, j, n = len(mixtures), mixtures[0].weights.shape[-1], points.shape[-1]
    centre = points.detach().mean(-1, keepdim=True)  # (*B, d, 1)
    x = _flat(points - centre, batch, 2)  # (B, d, N)
    parts = [[_flat(part, batch, 2) for part in mixture.affine(centre)] for mixture in mixtures]
    joined = [torch.cat(part, dim=1) if sides > 1 else part[0] for part in zip(*parts, strict=True)]
    constant, rows, offsets = joined[0], joined[1 : d + 1], joined[d + 1 :]  # (B, S J, 1), (B, S J, i + 1), (B, S J, 1)
    differentiable = torch.is_grad_enabled() and any(part.requires_grad for part in (x, *joined))
    if differentiable or not values_visible():
        return _log_density(constant, x, rows, offsets, sides).reshape(*batch, sides, n)
    size = max(1, _BLOCK // max(1, sides * j * n))
    buffers = x.new_empty(2, min(size, len(x)), sides * j, n)
    out = x.new_empty(len(x), sides, n)
    for start in range(0, len(x), size):
        some = slice(start, start + size)
        blocks = [r[some] for r in rows], [o[some] for o in offsets]
        _log_density_into(out[some], buffers, constant[some], x[some], *blocks)
    return out.reshape(*batch, sides, n)


def _whitening_rows(g: Gaussians) -> Sequence[Sequence[Tensor]]:
    """Row i of L^-1, up to its diagonal, as entries (*B, J)."""
    if g.unrolled:
        return g.whitening_planes
    whitening = g.whitening.movedim((-2, -1), (0, 1))
    return [whitening[i, : i + 1].unbind(0) for i in range(g.dimension)]


def _log_density(constant: Tensor, x: Tensor, rows: Sequence[Tensor], offsets: Sequence[Tensor], sides: int) -> Tensor:
    """log sum_j exp(constant_j - 1/2 sum_i (row_ij x + offset_ij)^2) (B, S, N), row i of length i + 1."""
    total = constant  # (B, S J, 1), then (B, S J, N)
    for i, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        white = torch.baddbmm(offset, row, x[:, : i + 1])
        total = torch.addcmul(total, white, white, value=-0.5)
    total = total.unflatten(-2, (sides, -1))  # (B, S, J, N)
    largest = total.detach().amax(-2, keepdim=True)
    terms = (total - largest).clamp_min(_negligible(total.dtype)).exp()
    return terms.sum(-2).log() + largest.squeeze(-2)


def _log_density_into(
    out: Tensor, buffers: Tensor, constant: Tensor, x: Tensor, rows: Sequence[Tensor], offsets: Sequence[Tensor]
) -> None:
    """`_log_density` in two buffers, for when nobody will differentiate it: the same numbers in half the time."""
    white, total = buffers[0, : len(x)], buffers[1, : len(x)]  # (B, S J, N)
    torch.mul(rows[0], x[:, :1], out=white).add_(offsets[0])
    torch.addcmul(constant, white, white, value=-0.5, out=total)
    for i in range(1, len(rows)):
        torch.baddbmm(offsets[i], rows[i], x[:, : i + 1], out=white)
        total.addcmul_(white, white, value=-0.5)
    total = total.unflatten(-2, (out.shape[-2], -1))  # (B, S, J, N)
    largest = total.amax(-2, keepdim=True)
    total.sub_(largest).clamp_min_(_negligible(total.dtype)).exp_()
    torch.sum(total, dim=-2, out=out)
    out.log_().add_(largest.squeeze(-2))


def _negligible(dtype: torch.dtype) -> float:
    """The logarithm of a term that cannot be seen beside one.

    Terms smaller still are raised to it before their exponential is taken, because an exponential whose result is
    subnormal takes ten times as long as any other, and most components are far from most points.
    """
    return 2 * math.log(torch.finfo(dtype).eps)


def read_mixtures(*mixtures: GaussianMixture) -> tuple[Components, ...]:
    """Check and factor mixtures to be compared. Raises `InvalidMixture` or `NotPositiveDefinite`.

    Batches must broadcast; numbers of components may differ. Weights must be non-negative and sum to one.
    """
    for mixture in mixtures:
        _check_kind(mixtures[0], mixture)
    gaussians = factored(
        [(mixture.means, mixture.covariances) for mixture in mixtures],
        flags=[_weights_sound(mixture.weights.detach()) for mixture in mixtures],
        diagnose=lambda: _check_weights(*mixtures),
    )
    return tuple(
        Components(mixture.weights, safe_log(mixture.weights), g)
        for mixture, g in zip(mixtures, gaussians, strict=True)
    )


def _check_kind(first: GaussianMixture, mixture: GaussianMixture) -> None:
    for side in (first, mixture):
        if not isinstance(side, GaussianMixture):
            raise InvalidMixture(
                f"expected a GaussianMixture, got {type(side).__name__}; build one with GaussianMixture(weights, means, "
                "covariances)"
            )
    if mixture.weights.shape[-1] == 0:
        raise InvalidMixture(f"a mixture needs a component, got weights {tuple(mixture.weights.shape)}")
    broadcast_batches(first.batch_shape, mixture.batch_shape)
    if mixture.dimension != first.dimension:
        raise InvalidMixture(
            f"both mixtures must live in the same dimension, got means {tuple(first.means.shape)} and "
            f"{tuple(mixture.means.shape)}"
        )
    if mixture.dtype != first.dtype or mixture.device != first.device:
        raise InvalidMixture(
            f"both mixtures must share dtype and device, got {first.dtype} on {first.device} and {mixture.dtype} on "
            f"{mixture.device}; convert one with .to(...)"
        )


def safe_log(x: Tensor) -> Tensor:
    """log x, -inf where x is zero, with zero gradient there."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1).log(), -math.inf)


def _check_weights(*mixtures: GaussianMixture) -> None:
    for mixture in mixtures:
        weights = mixture.weights.detach()
        if bool((~torch.isfinite(weights)).any()):
            raise InvalidMixture(f"weights {tuple(weights.shape)} hold NaN or infinite numbers; drop them first")
        if bool((weights < 0).any()):
            raise InvalidMixture(
                f"weights {tuple(weights.shape)} must not be negative, the least is {weights.min().item():.3g}"
            )
        if not bool(_weights_sound(weights)):
            error = (weights.sum(-1) - 1).abs().max().item()
            raise InvalidMixture(
                f"weights {tuple(weights.shape)} must sum to one, off by up to {error:.3g}; divide by their sum"
            )


def _weights_sound(weights: Tensor) -> Tensor:
    """One flag: non-negative, and summing to one as closely as a softmax in this type does."""
    tolerance = 1e-5 if weights.dtype == torch.float64 else 1e-4
    return (weights >= 0).all() & ((weights.sum(-1) - 1).abs() <= tolerance).all()


def _flat(tensor: Tensor, batch: torch.Size, inner: int) -> Tensor:
    """Leading dimensions broadcast to `batch` and merged into one."""
    tail = tensor.shape[tensor.ndim - inner :]
    return tensor.expand(*batch, *tail).reshape(-1, *tail)
