"""Sigma points and samples: errors that are what they say, unbiased gradients, Jensen-Shannon within its bounds."""

from __future__ import annotations

import math

import numpy as np
import oracles_divergence as oracle
import pytest
import torch
from problems_mixtures import mixture, pair, perturbed

from deepgmr import divergence
from deepgmr.divergence._kernels import axes
from deepgmr.divergence._kernels.precision import read_gaussians
from deepgmr.errors import InvalidInput
from deepgmr.mixture import GaussianMixture

F64 = torch.float64
SAMPLERS = [divergence.kl_monte_carlo, divergence.kl_stratified, divergence.jensen_shannon_monte_carlo]


def reference(function, p, q):
    """A value so precise that its own error does not matter."""
    return function(p, q, samples=1_000_000, generator=torch.Generator().manual_seed(99)).value


@pytest.mark.parametrize("function", SAMPLERS)
def test_within_four_standard_errors_in_99_9_per_cent_of_trials(function):
    """Two thousand independent trials at once; the spread of the errors is also the one that is claimed."""
    p, q = perturbed(0, (1,), 5)
    truth = reference(function, p, q)
    trials = GaussianMixture(*(x.expand(2000, *x.shape[1:]) for x in (p.weights, p.means, p.covariances)))
    value, error = function(trials, q, samples=1000, generator=torch.Generator().manual_seed(1))
    score = (value - truth) / error
    assert (score.abs() <= 4).double().mean() >= 0.999
    assert 0.93 < score.std() < 1.07 and score.mean().abs() < 0.1


def test_stratifying_helps():
    """Components that differ in their log ratio, and weights that differ: less variance for the same draws."""
    p, q = (mixture(a) for a in pair(1, (50,), 8, 8))
    plain, layered = (
        f(p, q, samples=4000).standard_error for f in (divergence.kl_monte_carlo, divergence.kl_stratified)
    )
    assert (layered < plain).all() and layered.median() < 0.8 * plain.median()


def test_strata_follow_the_weights():
    from deepgmr.divergence.monte_carlo import _allocation, _strata

    weights = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25]])
    counts = _allocation(weights, 108)
    assert torch.equal(counts, torch.tensor([[72, 22, 12, 2], [27, 27, 27, 27]]))
    index = _strata(counts, 108)
    assert torch.equal(torch.nn.functional.one_hot(index, 4).sum(1), counts)


@pytest.mark.parametrize("function", SAMPLERS)
def test_draws_come_from_the_generator_alone(function):
    p, q = (mixture(a) for a in pair(2, (3,)))
    state = torch.get_rng_state()
    first = function(p, q, samples=100, generator=torch.Generator().manual_seed(5))
    again = function(p, q, samples=100, generator=torch.Generator().manual_seed(5))
    other = function(p, q, samples=100, generator=torch.Generator().manual_seed(6))
    assert torch.equal(first.value, again.value) and not torch.equal(first.value, other.value)
    assert torch.equal(function(p, q, samples=100).value, function(p, q, samples=100).value)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("function", SAMPLERS)
def test_gradients_are_unbiased(function):
    """Against the gradient of quadrature on the line, for weights (through a softmax), means and variances."""
    grid = torch.linspace(-12, 12, 4001, dtype=F64)[:, None]
    rng = np.random.default_rng(3)
    leaves = [torch.as_tensor(rng.normal(size=s)).requires_grad_() for s in ((3,), (3, 1), (3,), (3,), (3, 1), (3,))]

    def build(w, m, v):
        return GaussianMixture(torch.softmax(w, -1), m, (0.3 + v * v)[:, None, None])

    p, q = build(*leaves[:3]), build(*leaves[3:])
    log_p, log_q = p.log_prob(grid), q.log_prob(grid)
    if function is divergence.jensen_shannon_monte_carlo:
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        integrand = 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m))
    else:
        integrand = log_p.exp() * (log_p - log_q)
    expected = torch.autograd.grad(torch.trapezoid(integrand, grid[:, 0]), leaves)
    wide = [leaf.expand(200, *leaf.shape).contiguous() for leaf in leaves]
    sides = [
        GaussianMixture(torch.softmax(w, -1), m, (0.3 + v * v)[..., None, None]) for w, m, v in (wide[:3], wide[3:])
    ]
    value = function(*sides, samples=2000).value
    for gradient, truth in zip(torch.autograd.grad(value.sum(), wide), expected, strict=True):
        error = gradient.std(0) / math.sqrt(len(gradient))
        assert ((gradient.mean(0) - truth).abs() <= 4 * error + 1e-3).all()
        assert (error < 0.05).all()


@pytest.mark.parametrize("estimator", [divergence.kl_monte_carlo, divergence.kl_stratified])
def test_chunks_change_nothing(estimator, monkeypatch):
    p, q = (mixture(a) for a in pair(4, (3,)))
    whole = estimator(p, q, samples=500)
    monkeypatch.setattr("deepgmr.divergence.monte_carlo.CHUNK", 64)
    torch.testing.assert_close(tuple(estimator(p, q, samples=500)), tuple(whole))


def test_bad_counts_are_named():
    p, q = (mixture(a) for a in pair(5, (), 4))
    with pytest.raises(InvalidInput, match="at least 8"):
        divergence.kl_stratified(p, q, samples=7)
    with pytest.raises(InvalidInput, match="at least 2"):
        divergence.kl_monte_carlo(p, q, samples=1)


# -- sigma points ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_sigma_points_have_the_moments_of_their_gaussian(d):
    rng = np.random.default_rng(d)
    means, covariances = (
        torch.as_tensor(a) for a in (rng.normal(size=(5, 7, d)), oracle.random_covariances(rng, (5, 7), d, 1e4))
    )
    (g,) = read_gaussians((means, covariances))
    points = axes.sigma_points(g).unflatten(-1, (2 * d, 7)).permute(0, 3, 2, 1)  # (5, 7, 2 d, d)
    gap = points - means.unsqueeze(-2)
    torch.testing.assert_close(points.mean(-2), means)
    torch.testing.assert_close(gap.mT @ gap / (2 * d), covariances)
    squares = axes.sigma_points(g).square().sum(-2)
    expected = means.square().sum(-1) + covariances.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(axes.component_means(squares, g), expected)


@pytest.mark.parametrize("d", [2, 3])
def test_eigenvectors_of_difficult_matrices(d):
    """Equal, nearly equal and vanishing eigenvalues, diagonal and rotated; LAPACK is the reference."""
    rng = np.random.default_rng(0)
    spectra = [[1, 1, 1], [1, 1, 1e-6], [1, 1e-6, 1e-6], [1, 1 + 1e-9, 1 - 1e-9], [1, 2, 2], [3, 1, 1e-12], [0, 0, 1]]
    q = np.linalg.qr(rng.normal(size=(50, d, d)))[0]
    q[0] = np.eye(d)
    matrices = np.concatenate([q @ np.diag(s[:d]) @ np.swapaxes(q, -1, -2) for s in spectra])
    matrices = torch.as_tensor(np.concatenate([matrices, 1e12 * matrices, 1e-12 * matrices]))
    matrices = (matrices + matrices.mT) / 2
    values, vectors = axes.symmetric_eigen(matrices)
    size = matrices.abs().amax((-2, -1)).clamp_min(1e-300)  # one of them is zero
    assert ((vectors * values.unsqueeze(-2)) @ vectors.mT - matrices).abs().amax((-2, -1)).div(size).max() < 1e-14
    assert (vectors.mT @ vectors - torch.eye(d)).abs().max() < 1e-14
    assert (values.sort(-1).values - torch.linalg.eigvalsh(matrices)).abs().amax(-1).div(size).max() < 1e-14


def test_unscented_needs_no_gap_between_axes_for_its_gradient():
    """Round and nearly round components: finite gradients, of the size of those of round ones."""
    p, q = perturbed(6, (), 4)
    for gap in (0.0, 1e-12, 1e-7, 1e-4):
        covariances = 0.3 * torch.eye(3, dtype=F64) + gap * torch.randn(
            4, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0)
        )
        leaf = ((covariances + covariances.mT) / 2).requires_grad_()
        divergence.kl_unscented(GaussianMixture(p.weights, p.means, leaf), q).backward()
        assert leaf.grad.abs().max() < 100


# -- Jensen-Shannon ----------------------------------------------------------------------------------------------


def test_jensen_shannon_is_bounded_symmetric_and_near_the_truth():
    near, far = perturbed(7, (40,), 6), tuple(mixture(a) for a in pair(8, (40,), 6, 5))
    for p, q in (near, far):
        value = divergence.jensen_shannon(p, q)
        truth, error = divergence.jensen_shannon_monte_carlo(p, q, samples=20_000)
        assert (value >= 0).all() and (value <= math.log(2)).all()
        torch.testing.assert_close(value, divergence.jensen_shannon(q, p))
        relative = (value - truth).abs() / truth
        assert relative.median() < 0.05 and (relative < 0.2).all()
        lower, upper = divergence.jensen_shannon_interval(p, q)
        assert (lower <= truth + 4.5 * error).all() and (upper >= truth - 4.5 * error).all()
        assert (lower >= 0).all() and (upper <= math.log(2)).all()


def test_jensen_shannon_of_strangers_is_log_2():
    f, g = pair(9, (5,))
    p, q = mixture(f, torch.float32), mixture((g[0], g[1] + 1e3, g[2]), torch.float32)
    for value in (
        divergence.jensen_shannon(p, q),
        *divergence.jensen_shannon_interval(p, q),
        *divergence.jensen_shannon_monte_carlo(p, q)[:1],
    ):
        torch.testing.assert_close(value, torch.full((5,), math.log(2)), rtol=0, atol=1e-6)


def test_jensen_shannon_interval_of_equals_holds_zero():
    p = mixture(pair(10, (5,))[0])
    lower, upper = divergence.jensen_shannon_interval(p, p)
    assert (lower == 0).all() and upper.max() < 1e-3
