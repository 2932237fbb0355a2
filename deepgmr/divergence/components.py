"""Two mixtures read for comparison, and the density of one at many points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.divergence.checks import broadcast_batches, values_visible
from deepgmr.divergence.precision import Gaussians, factor, factored
from deepgmr.divergence.triangular import vector_planes
from deepgmr.errors import InvalidMixture
from deepgmr.mixture import GaussianMixture

_BLOCK = 1 << 17  # numbers worked on at once where no gradient is asked for: they stay in cache


@dataclass(frozen=True, eq=False)
class Components:
    """A mixture whose components are factored. Made by `read_mixtures`."""

    weights: Tensor  # (*B, J)
    log_weights: Tensor  # (*B, J), -inf where the weight is zero
    gaussians: Gaussians  # (*B, J)

    def __getitem__(self, index: int) -> Components:
        """Index the first batch dimension."""
        return Components(self.weights[index], self.log_weights[index], self.gaussians[index])

    def average(self, values: Tensor) -> Tensor:
        """sum_j weights_j values_j (*B): components of no weight count for nothing, whatever their value."""
        used = self.weights > 0
        return (self.weights * torch.where(used, values, 0)).sum(-1)

    def log_density(self, points: Tensor) -> Tensor:
        """The log density (*B, N) at points given as columns (*B, d, N).

        One product with a row of the whitening factors at a time, the mean already taken out: the largest
        temporary is (*B, J, N), and the squares are taken of differences, so float32 keeps its digits.
        """
        g = self.gaussians.full()
        d, batch = g.dimension, torch.broadcast_shapes(self.weights.shape[:-1], points.shape[:-2])
        centre = points.detach().mean(-1, keepdim=True)  # (*B, d, 1)
        means = vector_planes(g.means - centre.mT)
        constant = self.log_weights - g.half_log_det - 0.5 * d * math.log(2 * math.pi)
        rows, offsets = [], []
        for i, row in enumerate(_whitening_rows(g)):
            white = row[0] * means[0]
            for k in range(1, i + 1):
                white = torch.addcmul(white, row[k], means[k])
            rows.append(_flat(torch.stack(row, dim=-1) if isinstance(row, list) else row.movedim(0, -1), batch, 2))
            offsets.append(_flat(-white, batch, 1).unsqueeze(-1))
        x = _flat(points - centre, batch, 2)  # (B, d, N)
        constant = _flat(constant, batch, 1).unsqueeze(-1)
        parts = [constant, x, *rows, *offsets]
        if (torch.is_grad_enabled() and any(part.requires_grad for part in parts)) or not values_visible():
            return _log_density(constant, x, rows, offsets).reshape(*batch, points.shape[-1])
        size = max(1, _BLOCK // max(1, self.weights.shape[-1] * points.shape[-1]))
        blocks = zip(*(part.split(size) for part in parts), strict=True)
        values = [_log_density_in_place(block[0], block[1], block[2 : 2 + d], block[2 + d :]) for block in blocks]
        return torch.cat(values).reshape(*batch, points.shape[-1])


def _whitening_rows(g: Gaussians) -> list[list[Tensor]] | list[Tensor]:
    """Row i of L^-1, up to its diagonal, as entries (*B, J)."""
    if g.unrolled:
        return g.whitening_planes
    whitening = g.whitening.movedim((-2, -1), (0, 1))
    return [whitening[i, : i + 1] for i in range(g.dimension)]


def _log_density(constant: Tensor, x: Tensor, rows: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    """log sum_j exp(constant_j - 1/2 sum_i (row_ij x + offset_ij)^2) (B, N), row i of length i + 1."""
    total = constant  # (B, J, 1), then (B, J, N)
    for i, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        white = torch.baddbmm(offset, row, x[:, : i + 1])
        total = torch.addcmul(total, white, white, value=-0.5)
    return torch.logsumexp(total, dim=-2)


def _log_density_in_place(constant: Tensor, x: Tensor, rows: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    """`_log_density` in two buffers, for when nobody will differentiate it: the same numbers in half the time.

    The exponential of a number whose result is subnormal takes ten times as long as any other, so terms too small to be
    seen beside the largest are raised to just that, where they still cannot be seen.
    """
    white = torch.addcmul(offsets[0], rows[0], x[:, :1])  # (B, J, N)
    total = torch.addcmul(constant, white, white, value=-0.5)
    for i in range(1, len(rows)):
        torch.baddbmm(offsets[i], rows[i], x[:, : i + 1], out=white)
        total.addcmul_(white, white, value=-0.5)
    largest = total.amax(-2, keepdim=True)
    terms = total.sub_(largest).clamp_min_(2 * math.log(torch.finfo(total.dtype).eps)).exp_()
    return terms.sum(-2).log_().add_(largest.squeeze(-2))


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


def read_pair(p: GaussianMixture, q: GaussianMixture) -> tuple[Components, Components, Components | None]:
    """`read_mixtures`, and both mixtures as one batch (2, *B) if their shapes are the same: half the operations."""
    if isinstance(p, GaussianMixture) and isinstance(q, GaussianMixture) and p.means.shape == q.means.shape:
        _check_kind(p, q)
        parts = [torch.stack(pair) for pair in ((p.weights, q.weights), (p.means, q.means), (p.covariances, q.covariances))]
        gaussians, sound = factor(parts[1], parts[2])
        if not values_visible() or bool(sound & _weights_sound(parts[0].detach())):
            both = Components(parts[0], safe_log(parts[0]), gaussians)
            return both[0], both[1], both
    one, other = read_mixtures(p, q)  # shapes differ, or something is to be said about the numbers
    return one, other, None


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
