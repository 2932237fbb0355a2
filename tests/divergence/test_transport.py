"""Transport between mixtures and between samples of features (the Gaussian case is in test_divergence_gaussian)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import oracles_divergence as oracle
import pytest
import torch
from problems_mixtures import mixture, pair
from scipy.optimize import linear_sum_assignment

from deepgmr import divergence
from deepgmr.errors import InvalidInput
from deepgmr.mixture import GaussianMixture

F64 = torch.float64


def test_agrees_with_the_dual_programme():
    f, g = pair(0, (4,), 4, 6)
    value = divergence.mixture_wasserstein2(mixture(f), mixture(g))
    expected = [oracle.mixture_wasserstein2([a[i] for a in f], [a[i] for a in g]) for i in range(4)]
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_uniform_weights_are_an_assignment_problem():
    f, g = pair(1, (), 8, 8)
    uniform = np.full(8, 1 / 8)
    p, q = mixture((uniform, *f[1:])), mixture((uniform, *g[1:]))
    cost = divergence.wasserstein2_squared_gaussian(p.means[:, None], p.covariances[:, None], q.means, q.covariances)
    rows, columns = linear_sum_assignment(cost)
    assert divergence.mixture_wasserstein2(p, q).item() == pytest.approx(
        math.sqrt(cost[rows, columns].mean()), rel=1e-9
    )
    plan = divergence.mixture_transport_plan(p, q)
    expected = torch.zeros(8, 8, dtype=F64)
    expected[rows, columns] = 1 / 8
    torch.testing.assert_close(plan, expected, rtol=0, atol=1e-9)


def test_plan_has_the_weights_as_marginals():
    p, q = (mixture(a) for a in pair(2, (3,), 5, 7))
    plan = divergence.mixture_transport_plan(p, q)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(-1), p.weights, rtol=0, atol=1e-7)
    torch.testing.assert_close(plan.sum(-2), q.weights, rtol=0, atol=1e-7)


def test_metric_axioms_and_bounds():
    p, q, r = (mixture(pair(seed, (20,), 4, 4)[0]) for seed in (3, 4, 5))
    one_two, two_three, one_three = (divergence.mixture_wasserstein2(a, b) for a, b in ((p, q), (q, r), (p, r)))
    assert (one_three <= one_two + two_three + 1e-9).all()
    torch.testing.assert_close(one_two, divergence.mixture_wasserstein2(q, p))
    assert divergence.mixture_wasserstein2(p, p).max() < 1e-6
    moments = divergence.wasserstein2_gaussian(p.mean, p.covariance, q.mean, q.covariance)
    assert (moments <= one_two + 1e-9).all()  # Gelbrich's bound: no coupling beats the one of the moments


def test_entropic_plan_approaches_the_exact_one_from_above():
    p, q = (mixture(a) for a in pair(6, (5,), 4, 5))
    exact = divergence.mixture_wasserstein2(p, q)
    values = [
        divergence.mixture_wasserstein2_entropic(p, q, regularization=r, iterations=n)
        for r, n in ((0.5, 200), (0.05, 500), (0.005, 3000))
    ]
    assert (values[0] > values[1]).all() and (values[1] >= values[2] - 1e-9).all() and (values[2] >= exact - 1e-6).all()
    torch.testing.assert_close(values[2], exact, rtol=1e-3, atol=0)


def test_exact_gradients_include_the_weights():
    """Through a softmax, against differences, where the optimal plan is a vertex that does not change."""
    p, q = (mixture(a) for a in pair(7, (), 3, 4))
    logits = p.weights.log().requires_grad_()
    means = p.means.clone().requires_grad_()

    def value(logits, means):
        return divergence.mixture_wasserstein2(GaussianMixture(torch.softmax(logits, -1), means, p.covariances), q)

    assert torch.autograd.gradcheck(value, (logits, means), eps=1e-5, atol=1e-4)


# -- Frechet distance between features ---------------------------------------------------------------------------


def test_frechet_agrees_with_the_matrix_square_root():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(3, 60, 5)) * [1, 2, 3, 0.5, 1], rng.normal(size=(3, 40, 5)) + 1
    value = divergence.frechet_distance(torch.as_tensor(x), torch.as_tensor(y))
    np.testing.assert_allclose(value, [oracle.frechet(a, b) for a, b in zip(x, y, strict=True)], rtol=1e-9)


def test_frechet_with_fewer_samples_than_features():
    """Singular covariances: the same as in the space both samples span."""
    rng = np.random.default_rng(9)
    low = [rng.normal(size=(7, 3)), rng.normal(size=(9, 3)) + 2]
    basis = np.linalg.qr(rng.normal(size=(50, 3)))[0]
    value = divergence.frechet_distance(*(torch.as_tensor(x @ basis.T) for x in low))
    assert value.item() == pytest.approx(oracle.frechet(*low), rel=1e-9)
    x = torch.as_tensor(low[0] @ basis.T, dtype=torch.float32)
    assert divergence.frechet_distance(x, x) < 1e-5


@pytest.mark.parametrize("sizes", [(12, 9, 4), (4, 5, 6)])
def test_frechet_gradients(sizes):
    n, m, d = sizes
    rng = np.random.default_rng(10)
    x, y = (torch.as_tensor(rng.normal(size=(k, d))).requires_grad_() for k in (n, m))
    assert torch.autograd.gradcheck(divergence.frechet_distance, (x, y))


def test_bad_input_is_named():
    good = torch.zeros(4, 3)
    for bad in (torch.zeros(1, 3), torch.zeros(4, 2), torch.zeros(3)):
        with pytest.raises(InvalidInput, match="features must be"):
            divergence.frechet_distance(good, bad)
    with pytest.raises(InvalidInput, match="NaN"):
        divergence.frechet_distance(good, good + math.nan)
    p = mixture(pair(11)[0])
    for options in ({"regularization": 0.0}, {"iterations": 0}):
        with pytest.raises(InvalidInput, match="regularization"):
            divergence.mixture_wasserstein2_entropic(p, p, **options)


def test_pairs_of_gaussians_in_every_dimension_and_type():
    for d, dtype in itertools.product((1, 2, 3, 7), (torch.float32, F64)):
        rng = np.random.default_rng(d)
        m, s = rng.normal(size=(2, d)), oracle.random_covariances(rng, (2,), d)
        args = [torch.as_tensor(a, dtype=dtype) for a in (m[0], s[0], m[1], s[1])]
        expected = oracle.wasserstein2_squared(m[0], s[0], m[1], s[1])
        value = divergence.wasserstein2_squared_gaussian(*args)
        assert value.dtype == dtype and value.item() == pytest.approx(
            expected, rel=1e-5 if dtype == torch.float32 else 1e-9
        )
