"""Generalised Gaussians: the Gaussian special case, quadrature, Monte Carlo, and what torch knows of one dimension."""

from __future__ import annotations

import math

import numpy as np
import oracles_divergence as oracle
import pytest
import torch
from torch.distributions import Laplace, kl_divergence

from deepgmr import divergence
from deepgmr.divergence.generalized import sphere_moment
from deepgmr.errors import InvalidInput, InvalidMixture, NotPositiveDefinite

F64 = torch.float64


def scatters(seed, d, condition=10.0, batch=()):
    rng = np.random.default_rng(seed)
    return [oracle.random_covariances(rng, batch, d, condition) for _ in range(2)]


@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_beta_one_is_the_gaussian(d):
    s, t = (torch.as_tensor(x) for x in scatters(d, d, batch=(5,)))
    one, zero = torch.ones(5, dtype=F64), torch.zeros(5, d, dtype=F64)
    value = divergence.kl_generalized_gaussian(s, one, t, one)
    torch.testing.assert_close(value, divergence.kl_gaussian(zero, s, zero, t), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("betas", [(0.5, 0.5), (1.0, 0.3), (0.4, 2.0), (2.0, 1.0), (3.0, 3.7), (1.0, 5.0)])
def test_agrees_with_quadrature(d, betas):
    s, t = scatters(7, d)
    value = divergence.kl_generalized_gaussian(
        torch.as_tensor(s), torch.tensor(betas[0], dtype=F64), torch.as_tensor(t), torch.tensor(betas[1], dtype=F64)
    )
    assert value.item() == pytest.approx(oracle.kl_generalized(s, betas[0], t, betas[1]), rel=1e-8)


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0, 1.49, 1.51, 2.0, 3.3, 8.0])
@pytest.mark.parametrize("spread", [1.0, 1e3, 1e8])
def test_sphere_moment(power, spread):
    """On the circle, where the moment is Legendre's function; eigenvalues far beyond the reach of the series."""
    spectrum = np.array([1.0, spread])
    exact = oracle.sphere_moment(spectrum, power)
    moment = sphere_moment(torch.as_tensor(spectrum), torch.tensor(power, dtype=F64))
    assert moment.item() == pytest.approx(exact, rel=1e-7)
    if power == int(power) and spread == 1.0:
        assert moment.item() == pytest.approx(1.0, rel=1e-13)


def test_integer_powers_are_polynomials():
    """E (u^T M u) = tr M / d and E (u^T M u)^2 = ((tr M)^2 + 2 tr M^2) / (d (d + 2)), in any dimension."""
    spectrum = torch.tensor([1e-3, 0.5, 2.0, 30.0, 31.0], dtype=F64)
    first = sphere_moment(spectrum, torch.tensor(1.0, dtype=F64))
    second = sphere_moment(spectrum, torch.tensor(2.0, dtype=F64))
    torch.testing.assert_close(first, spectrum.mean(), rtol=1e-13, atol=0)
    torch.testing.assert_close(second, (spectrum.sum() ** 2 + 2 * spectrum.square().sum()) / 35, rtol=1e-13, atol=0)


@pytest.mark.parametrize("betas", [(0.5, 1.5), (2.0, 0.7)])
def test_agrees_with_monte_carlo(betas):
    """Draws r^(1/2b) L u with r Gamma(d / 2b, scale 2), and the density written out."""
    rng, d, n = np.random.default_rng(11), 3, 400_000
    s, t = scatters(12, d)
    u = rng.normal(size=(n, d))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    radius = rng.gamma(d / (2 * betas[0]), 2.0, size=(n, 1)) ** (1 / (2 * betas[0]))
    x = radius * u @ np.linalg.cholesky(s).T

    def log_density(x, scatter, beta):
        log_constant = math.log(beta) + math.lgamma(d / 2) - d / 2 * math.log(math.pi)
        log_constant -= math.lgamma(d / (2 * beta)) + d / (2 * beta) * math.log(2)
        squared = np.einsum("ni,ni->n", x, np.linalg.solve(scatter, x.T).T)
        return log_constant - 0.5 * np.linalg.slogdet(scatter)[1] - 0.5 * squared**beta

    ratio = log_density(x, s, betas[0]) - log_density(x, t, betas[1])
    value = divergence.kl_generalized_gaussian(
        torch.as_tensor(s), torch.tensor(betas[0], dtype=F64), torch.as_tensor(t), torch.tensor(betas[1], dtype=F64)
    )
    assert abs(value.item() - ratio.mean()) < 4 * ratio.std() / math.sqrt(n)


def test_one_dimension_at_beta_one_half_is_laplace():
    """exp(-1/2 |x| / sqrt(s)) is a Laplace density of scale 2 sqrt(s)."""
    s, t = torch.tensor([0.3, 4.0], dtype=F64), torch.tensor([1.7, 0.2], dtype=F64)
    half, zero = torch.full((2,), 0.5, dtype=F64), torch.zeros(2, dtype=F64)
    value = divergence.kl_generalized_gaussian(s[:, None, None], half, t[:, None, None], half)
    expected = kl_divergence(Laplace(zero, 2 * s.sqrt()), Laplace(zero, 2 * t.sqrt()))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)


def test_zero_against_itself_and_positive_otherwise():
    s, t = (torch.as_tensor(x, dtype=torch.float32) for x in scatters(13, 3, 1e4, (200,)))
    beta = torch.linspace(0.2, 4, 200)
    assert divergence.kl_generalized_gaussian(s, beta, s, beta).abs().max() < 1e-6
    assert (divergence.kl_generalized_gaussian(s, beta, t, beta.flip(0)) > 0).all()


def test_batches_broadcast_and_every_kind_of_scatter_is_taken():
    s, t = (torch.as_tensor(x) for x in scatters(14, 3, batch=(4,)))
    beta = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=F64)
    pairs = divergence.kl_generalized_gaussian(s[:, None], beta[:, None], t[None], beta[None])
    assert pairs.shape == (4, 4)
    for i, k in ((0, 3), (2, 1)):
        torch.testing.assert_close(pairs[i, k], divergence.kl_generalized_gaussian(s[i], beta[i], t[k], beta[k]))
    variances = s.diagonal(dim1=-2, dim2=-1)
    full = divergence.kl_generalized_gaussian(torch.diag_embed(variances), beta, t, beta)
    torch.testing.assert_close(divergence.kl_generalized_gaussian(variances, beta, t, beta), full)


def test_gradients():
    rng = np.random.default_rng(15)
    a, b = (torch.as_tensor(rng.normal(size=(2, 3, 3)) * 0.2).requires_grad_() for _ in range(2))
    betas = [torch.tensor(v, dtype=F64).requires_grad_() for v in ((0.6, 1.4), (2.2, 0.9))]
    eye = torch.eye(3, dtype=F64)

    def value(a, p, b, q):
        return divergence.kl_generalized_gaussian(eye + a @ a.mT, p, eye + b @ b.mT, q)

    assert torch.autograd.gradcheck(value, (a, betas[0], b, betas[1]))


def test_bad_input_is_named():
    s, one = torch.eye(3), torch.tensor(1.0)
    with pytest.raises(InvalidInput, match="beta must be positive"):
        divergence.kl_generalized_gaussian(s, one, s, torch.tensor(0.0))
    with pytest.raises(InvalidInput, match="beta"):
        divergence.kl_generalized_gaussian(s, torch.tensor(math.nan), s, one)
    with pytest.raises(NotPositiveDefinite):
        divergence.kl_generalized_gaussian(-s, one, s, one)
    with pytest.raises(InvalidMixture, match=r"\(2, 2\)"):
        divergence.kl_generalized_gaussian(s, one, torch.eye(2), one)
