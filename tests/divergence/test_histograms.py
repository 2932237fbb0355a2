"""Histograms and coins: the support rule, torch's two functions of the name, the pairwise matrix, bad input."""

from __future__ import annotations

import math

import numpy as np
import oracles_divergence as oracle
import pytest
import torch
from problems_mixtures import peak_bytes
from scipy.spatial.distance import jensenshannon
from torch.distributions import Bernoulli, Categorical, kl_divergence

from deepgmr.divergence import js_histograms, kl_bernoulli, kl_histograms, pairwise_kl_histograms
from deepgmr.errors import InvalidInput

F64 = torch.float64


def histograms(seed, shape, *, holes=0.0, dtype=F64):
    rng = np.random.default_rng(seed)
    h = rng.dirichlet(np.full(shape[-1], 0.5), size=shape[:-1])
    h = np.where(rng.uniform(size=h.shape) < holes, 0, h) + 1e-12 * (holes == 0)
    h[..., 0] += 1e-3
    return torch.as_tensor(h / h.sum(-1, keepdims=True), dtype=dtype)


def test_agrees_with_numpy_and_scipy():
    p, q = histograms(0, (7, 12)), histograms(1, (7, 12))
    np.testing.assert_allclose(kl_histograms(p, q), [oracle.kl_histogram(a, b) for a, b in zip(p, q, strict=True)])
    np.testing.assert_allclose(js_histograms(p, q), jensenshannon(p, q, axis=-1) ** 2)


def test_the_docstring_settles_the_three_spellings():
    """Each statement about torch in the docstring of kl_histograms, executed."""
    p, q = histograms(2, (5, 8)), histograms(3, (5, 8))
    value = kl_histograms(p, q)
    torch.testing.assert_close(kl_divergence(Categorical(probs=p), Categorical(probs=q)), value)
    loss = torch.nn.functional.kl_div
    torch.testing.assert_close(loss(q.log(), p, reduction="none").sum(-1), value)  # q first, as a logarithm
    torch.testing.assert_close(loss(q.log(), p.log(), reduction="none", log_target=True).sum(-1), value)
    torch.testing.assert_close(loss(q.log(), p, reduction="batchmean"), value.mean())
    with pytest.warns(UserWarning, match="batchmean"):
        torch.testing.assert_close(loss(q.log(), p, reduction="mean"), value.mean() / 8)  # elements, not the batch
    assert not torch.allclose(loss(p.log(), q, reduction="none").sum(-1), value)  # the order matters
    empty = torch.tensor([0.0, 1.0])
    assert loss(empty.log(), empty, reduction="none").sum().isnan() and kl_histograms(empty, empty) == 0
    documentation = kl_histograms.__doc__
    for word in ("kl_div(input, target)", "kl_divergence(p, q)", "argument order", "logs", "reduction", "batchmean"):
        assert word in documentation


def test_support_rule():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    q = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [0.5, 0.5, 0.0]])
    expected = torch.tensor([0.0, math.log(2), math.inf])
    torch.testing.assert_close(kl_histograms(p, q), expected)
    torch.testing.assert_close(pairwise_kl_histograms(p, q).diagonal(), expected)
    assert (js_histograms(p, q) <= math.log(2)).all()
    assert js_histograms(torch.tensor([1.0, 0]), torch.tensor([0, 1.0])).item() == pytest.approx(math.log(2))
    p = p[:2].double().requires_grad_()
    kl_histograms(p, q[:2].double()).sum().backward()
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_pairwise_equals_one_by_one(dtype, holes):
    p, q = histograms(4, (40, 33), holes=holes, dtype=dtype), histograms(5, (30, 33), holes=holes / 10, dtype=dtype)
    value = pairwise_kl_histograms(p, q)
    expected = kl_histograms(p[:, None], q[None])
    assert torch.equal(value.isinf(), expected.isinf()) and (holes == 0 or value.isinf().any())
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    assert pairwise_kl_histograms(p[:0], q).shape == (0, 30)


def test_pairwise_is_zero_on_the_diagonal_in_float32():
    for n in (2, 128, 1000):
        p = histograms(6, (300, n), dtype=torch.float32)
        assert pairwise_kl_histograms(p, p).diagonal().abs().max() <= 1e-6
        assert kl_histograms(p, p).abs().max() <= 1e-6


def test_pairwise_holds_nothing_of_the_size_of_its_output():
    for holes in (0.0, 0.2):
        p, q = (
            histograms(7, (1500, 32), dtype=torch.float32),
            histograms(8, (2500, 32), holes=holes, dtype=torch.float32),
        )
        beyond = peak_bytes(lambda p=p, q=q: pairwise_kl_histograms(p, q)) - 4 * 1500 * 2500
        assert beyond < 0.35 * 4 * 1500 * 2500


def test_gradients():
    p, q = torch.randn(2, 3, 5, dtype=F64, generator=torch.Generator().manual_seed(9)).unbind(0)
    for leaf in (p, q):
        leaf.requires_grad_()
    for function in (kl_histograms, js_histograms, pairwise_kl_histograms):
        assert torch.autograd.gradcheck(lambda p, q, f=function: f(p.softmax(-1), q.softmax(-1)), (p, q))
    assert torch.autograd.gradcheck(lambda p, q: kl_bernoulli(p.sigmoid(), q.sigmoid()), (p, q))


def test_bernoulli_agrees_with_torch_and_keeps_its_digits_near_one():
    grid = torch.linspace(0, 1, 21, dtype=F64)
    p, q = torch.meshgrid(grid, grid, indexing="ij")
    value, expected = kl_bernoulli(p, q), kl_histograms(torch.stack([p, 1 - p], -1), torch.stack([q, 1 - q], -1))
    torch.testing.assert_close(value, expected, atol=1e-15, rtol=1e-12)
    assert value[0, -1] == math.inf and value[-1, 0] == math.inf and (value.diagonal() == 0).all()
    inner = slice(1, -1)
    torch.testing.assert_close(value[inner, inner], kl_divergence(Bernoulli(p), Bernoulli(q))[inner, inner])
    rare_p, rare_q = torch.tensor(1e-12, dtype=F64), torch.tensor(3e-12, dtype=F64)
    exact = 1e-12 * math.log(1 / 3) + 2e-12  # to first order in the small probabilities
    assert kl_bernoulli(rare_p, rare_q).item() == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.full((2, 4), 0.3), "sum to one"),
        (torch.tensor([[1.5, -0.5, 0, 0]] * 2), "negative, the least is -0.5"),
        (torch.full((2, 4), math.nan), "NaN"),
        (torch.full((2, 3), 1 / 3), r"\(2, 3\)"),
        (torch.zeros(2, 0), r"\(2, 0\)"),
        (torch.full((3, 4), 0.25), r"\(3, 4\)"),
        (torch.full((2, 4), 0.25, dtype=F64), "float64"),
        (torch.ones(2, 4).int(), "int32"),
    ],
)
def test_bad_histograms_are_named(bad, words):
    good = torch.full((2, 4), 0.25)
    for function in (kl_histograms, js_histograms, pairwise_kl_histograms):
        if bad.shape == (3, 4) and function is pairwise_kl_histograms:
            continue  # pairs need no common batch
        for sides in ((good, bad), (bad, good)):
            with pytest.raises(InvalidInput, match=words):
                function(*sides)
    with pytest.raises(InvalidInput, match=r"\(4,\)"):
        pairwise_kl_histograms(good, good[0])


def test_bad_coins_are_named():
    for bad in (torch.tensor(1.1), torch.tensor(-0.1), torch.tensor(math.nan)):
        with pytest.raises(InvalidInput, match=r"\[0, 1\]"):
            kl_bernoulli(torch.tensor(0.5), bad)
    with pytest.raises(InvalidInput, match="broadcast"):
        kl_bernoulli(torch.full((2,), 0.5), torch.full((3,), 0.5))
