"""Two mixtures read for comparison, and the density of one at many points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.divergence.checks import broadcast_batches
from deepgmr.divergence.precision import Gaussians, factored
from deepgmr.errors import InvalidMixture
from deepgmr.mixture import GaussianMixture

_BLOCK = 1 << 30  # numbers worked on at once where no gradient is asked for: they stay in cache


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

    def log_density(self, points: Tensor) -> Tensor:
        """The log density (*B, N) at points given as columns (*B, d, N).

        One product with a row of the whitening factors at a time, the mean already taken out: the largest
        temporary is (*B, J, N), and the squares are taken of differences, so float32 keeps its digits.
        """
        g = self.gaussians
        d, batch = g.dimension, torch.broadcast_shapes(self.weights.shape[:-1], points.shape[:-2])
        whitening = g.whitening * math.sqrt(0.5)  # (*B, J, d, d): a square is then half a squared distance
        centre = (self.weights.detach().unsqueeze(-1) * g.means.detach()).sum(-2, keepdim=True)  # (*B, 1, d)
        offset = (whitening @ (g.means - centre).unsqueeze(-1)).neg()  # (*B, J, d, 1)
        x = _flat(points - centre.mT, batch, 2)  # (B, d, N)
        rows = _flat(whitening.transpose(-3, -2), batch, 3)  # (B, d, J, d): row i of every factor together
        offsets = _flat(offset.transpose(-3, -2), batch, 3)  # (B, d, J, 1)
        constant = self.log_weights - g.half_log_det - 0.5 * d * math.log(2 * math.pi)
        parts = (_flat(constant, batch, 1).unsqueeze(-1), rows, offsets, x)
        size = max(1, _BLOCK // max(1, self.weights.shape[-1] * points.shape[-1]))
        if size >= len(x) or (torch.is_grad_enabled() and any(part.requires_grad for part in parts)):
            return _log_density(*parts).reshape(*batch, points.shape[-1])
        blocks = zip(*(part.split(size) for part in parts), strict=True)
        return torch.cat([_log_density(*block) for block in blocks]).reshape(*batch, points.shape[-1])


def _log_density(constant: Tensor, rows: Tensor, offsets: Tensor, x: Tensor) -> Tensor:
    """log sum_j exp(constant_j - |rows_j x + offsets_j|^2) (B, N)."""
    total = constant  # (B, J, 1), then (B, J, N)
    for i in range(rows.shape[1]):
        white = torch.baddbmm(offsets[:, i], rows[:, i, :, : i + 1], x[:, : i + 1])  # (B, J, N)
        total = torch.addcmul(total, white, white, value=-1)
    return torch.logsumexp(total, dim=-2)


def read_mixtures(*mixtures: GaussianMixture) -> tuple[Components, ...]:
    """Check and factor mixtures to be compared. Raises `InvalidMixture` or `NotPositiveDefinite`.

    Batches must broadcast; numbers of components may differ. Weights must be non-negative and sum to one.
    """
    for mixture in mixtures:
        if not isinstance(mixture, GaussianMixture):
            raise InvalidMixture(
                f"expected a GaussianMixture, got {type(mixture).__name__}; build one with GaussianMixture(weights, "
                "means, covariances)"
            )
        if mixture.weights.shape[-1] == 0:
            raise InvalidMixture(f"a mixture needs a component, got weights {tuple(mixture.weights.shape)}")
        broadcast_batches(mixtures[0].batch_shape, mixture.batch_shape)
        if mixture.dimension != mixtures[0].dimension:
            raise InvalidMixture(
                f"both mixtures must live in the same dimension, got means {tuple(mixtures[0].means.shape)} and "
                f"{tuple(mixture.means.shape)}"
            )
        if mixture.dtype != mixtures[0].dtype or mixture.device != mixtures[0].device:
            raise InvalidMixture(
                f"both mixtures must share dtype and device, got {mixtures[0].dtype} on {mixtures[0].device} and "
                f"{mixture.dtype} on {mixture.device}; convert one with .to(...)"
            )
    gaussians = factored(
        [(mixture.means, mixture.covariances) for mixture in mixtures],
        flags=[_weights_sound(mixture.weights.detach()) for mixture in mixtures],
        diagnose=lambda: _check_weights(*mixtures),
    )
    return tuple(
        Components(mixture.weights, safe_log(mixture.weights), g)
        for mixture, g in zip(mixtures, gaussians, strict=True)
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
