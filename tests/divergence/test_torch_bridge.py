"""The bridge to torch.distributions: exact pairs always, mixtures only when asked for."""

from __future__ import annotations

import pytest
import torch
from problems_mixtures import mixture, pair
from torch.distributions import (
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from deepgmr import divergence

F64 = torch.float64


@pytest.fixture
def sides():
    return tuple(mixture(a) for a in pair(0, (4,), 3, 3))


@pytest.fixture(autouse=True)
def _disabled_again():
    yield
    divergence.disable_mixture_kl()


def gaussians():
    generator = torch.Generator().manual_seed(0)
    random = lambda *s: torch.randn(*s, generator=generator, dtype=F64)  # noqa: E731
    factor = random(4, 3, 2)
    return {
        "full": MultivariateNormal(random(4, 3), torch.eye(3, dtype=F64) + factor @ factor.mT),
        "low_rank": LowRankMultivariateNormal(random(4, 3), factor, random(4, 3).square() + 0.5),
        "diagonal": Independent(Normal(random(4, 3), random(4, 3).square() + 0.5), 1),
    }


@pytest.mark.parametrize("one", ["full", "low_rank", "diagonal"])
@pytest.mark.parametrize("other", ["full", "low_rank", "diagonal"])
def test_every_pair_of_gaussians_has_its_exact_divergence(one, other):
    p, q = gaussians()[one], gaussians()[other]
    covariances = [torch.diag_embed(g.variance) if isinstance(g, Independent) else g.covariance_matrix for g in (p, q)]
    expected = kl_divergence(*(MultivariateNormal(g.mean, c) for g, c in zip((p, q), covariances, strict=True)))
    torch.testing.assert_close(kl_divergence(p, q), expected)


def test_other_independents_stay_unknown():
    full, zero = gaussians()["full"], torch.zeros(4, 3, dtype=F64)
    for odd in (Independent(Laplace(zero, zero + 1), 1), Independent(Normal(zero, zero + 1), 2)):
        for p, q in ((odd, full), (full, odd)):
            with pytest.raises(NotImplementedError, match="Independent"):
                kl_divergence(p, q)


def test_mixtures_are_opt_in_and_can_be_left_again(sides):
    p, q = (m.to_distribution() for m in sides)
    with pytest.raises(NotImplementedError):
        kl_divergence(p, q)
    divergence.enable_mixture_kl()
    torch.testing.assert_close(kl_divergence(p, q), divergence.kl_unscented(*sides))
    divergence.enable_mixture_kl(estimator=divergence.kl_variational_upper)
    torch.testing.assert_close(kl_divergence(p, q), divergence.kl_variational_upper(*sides))
    divergence.enable_mixture_kl(estimator=divergence.kl_stratified)  # of an estimate, the value
    torch.testing.assert_close(kl_divergence(p, q), divergence.kl_stratified(*sides).value)
    divergence.disable_mixture_kl()
    with pytest.raises(NotImplementedError, match="enable_mixture_kl"):
        kl_divergence(p, q)


def test_a_single_gaussian_is_a_mixture_of_one(sides):
    p, single = sides[0].to_distribution(), gaussians()["full"]
    divergence.enable_mixture_kl(estimator=divergence.kl_moment_matched)
    moments = MultivariateNormal(sides[0].mean, sides[0].covariance)
    torch.testing.assert_close(kl_divergence(p, single), kl_divergence(moments, single))
    torch.testing.assert_close(kl_divergence(single, p), kl_divergence(single, moments))


def test_gradients_reach_torch_parameters(sides):
    means = sides[0].means.clone().requires_grad_()
    divergence.enable_mixture_kl()
    p = type(sides[0])(sides[0].weights, means, sides[0].covariances).to_distribution()
    kl_divergence(p, sides[1].to_distribution()).sum().backward()
    assert means.grad.abs().sum() > 0
