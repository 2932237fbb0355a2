"""The bridge to `torch.distributions.kl_divergence`.

Importing this module registers the exact Gaussian pairs that torch lacks: `Independent(Normal, 1)` with
`MultivariateNormal` and with `LowRankMultivariateNormal`, both ways round. Mixtures have no exact divergence, and nobody
is handed an approximation unasked: `kl_divergence` of two `MixtureSameFamily` raises `NotImplementedError` until
`enable_mixture_kl` is called.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    register_kl,
)

from deepgmr.divergence.gaussian import kl_gaussian
from deepgmr.divergence.monte_carlo import Estimate, kl_unscented
from deepgmr.mixture import GaussianMixture

Estimator = Callable[[GaussianMixture, GaussianMixture], "Tensor | Estimate"]

_estimator: Estimator | None = None
_registered = False


def enable_mixture_kl(estimator: Estimator = kl_unscented) -> None:
    """Let `torch.distributions.kl_divergence(p, q)` answer for Gaussian mixtures, with this estimator, until disabled.

    p and q may be `MixtureSameFamily` of multivariate normals (or independent normals); either may be a single
    `MultivariateNormal`. `estimator` is any function of two `GaussianMixture`s in this package, or your own; of a Monte
    Carlo `Estimate` the value is returned. Process-wide, like torch's registry itself. Call again to change the estimator.
    """
    global _estimator, _registered
    _estimator = estimator
    if not _registered:
        register_kl(MixtureSameFamily, MixtureSameFamily)(_kl_mixtures)
        register_kl(MixtureSameFamily, MultivariateNormal)(_kl_mixtures)
        register_kl(MultivariateNormal, MixtureSameFamily)(_kl_mixtures)
        _registered = True


def disable_mixture_kl() -> None:
    """Undo `enable_mixture_kl`: mixtures raise `NotImplementedError` again."""
    global _estimator
    _estimator = None


def _kl_mixtures(p: Distribution, q: Distribution) -> Tensor:
    if _estimator is None:
        raise NotImplementedError(
            f"no exact KL of {type(p).__name__} and {type(q).__name__} exists; deepgmr.divergence.enable_mixture_kl() "
            "opts in to an estimate"
        )
    value = _estimator(_as_mixture(p), _as_mixture(q))
    return value.value if isinstance(value, Estimate) else value


def _as_mixture(distribution: Distribution) -> GaussianMixture:
    if isinstance(distribution, MixtureSameFamily):
        return GaussianMixture.from_distribution(distribution)
    assert isinstance(distribution, MultivariateNormal)
    mean, covariance = distribution.mean.unsqueeze(-2), distribution.covariance_matrix.unsqueeze(-3)
    return GaussianMixture(torch.ones_like(mean[..., 0]), mean, covariance)


@register_kl(Independent, MultivariateNormal)
@register_kl(Independent, LowRankMultivariateNormal)
@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def _kl_gaussians(p: Distribution, q: Distribution) -> Tensor:
    for side in (p, q):
        if isinstance(side, Independent) and not (
            isinstance(side.base_dist, Normal) and side.reinterpreted_batch_ndims == 1
        ):
            raise NotImplementedError(
                f"KL of {type(p).__name__} and {type(q).__name__} is known for Independent(Normal, 1) only, got "
                f"Independent({type(side.base_dist).__name__}, {side.reinterpreted_batch_ndims})"
            )
    return kl_gaussian(p.mean, _covariance(p), q.mean, _covariance(q))


def _covariance(distribution: Distribution) -> Tensor:
    if isinstance(distribution, Independent):
        return distribution.variance
    covariance: Tensor = distribution.covariance_matrix  # type: ignore[attr-defined]
    return covariance
