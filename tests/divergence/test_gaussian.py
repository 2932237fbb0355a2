"""Closed forms between Gaussians: against NumPy, torch, their own identities, and bad input."""

from __future__ import annotations

import functools
import itertools
import math
import warnings

import numpy as np
import oracles_divergence as oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems_mixtures import peak_bytes
from torch.distributions import MultivariateNormal, kl_divergence

from deepgmr import divergence
from deepgmr.errors import DeepGMRError, InvalidInput, InvalidMixture, NotPositiveDefinite, NumericalWarning
from deepgmr.geometry.transform import RigidTransform

F64 = torch.float64
SYMMETRIC = {
    "jeffreys": divergence.jeffreys_gaussian,
    "bhattacharyya": divergence.bhattacharyya_gaussian,
    "hellinger": divergence.hellinger_gaussian,
    "geometric_js": divergence.geometric_jensen_shannon_gaussian,
    "wasserstein2": divergence.wasserstein2_gaussian,
    "wasserstein2_squared": divergence.wasserstein2_squared_gaussian,
}
ALL = SYMMETRIC | {
    "kl": divergence.kl_gaussian,
    "renyi_half": functools.partial(divergence.renyi_gaussian, alpha=0.5),
    "renyi_1.2": functools.partial(divergence.renyi_gaussian, alpha=1.2),
}
ORACLES = {
    "kl": oracle.kl,
    "jeffreys": lambda m, s, n, t: oracle.kl(m, s, n, t) + oracle.kl(n, t, m, s),
    "bhattacharyya": oracle.bhattacharyya,
    "hellinger": lambda *a: math.sqrt(1 - math.exp(-oracle.bhattacharyya(*a))),
    "geometric_js": lambda *a: oracle.geometric_jensen_shannon(*a, 0.5),
    "wasserstein2": lambda *a: math.sqrt(oracle.wasserstein2_squared(*a)),
    "wasserstein2_squared": oracle.wasserstein2_squared,
    "renyi_half": lambda *a: oracle.renyi(*a, 0.5),
    "renyi_1.2": lambda *a: oracle.renyi(*a, 1.2),
}


def pair(seed, batch=(), d=3, condition=30.0):
    rng = np.random.default_rng(seed)
    make = lambda: (rng.normal(size=(*batch, d)), oracle.random_covariances(rng, batch, d, condition))  # noqa: E731
    return (*make(), *make())


def tensors(arrays, dtype=F64):
    return [torch.as_tensor(a, dtype=dtype) for a in arrays]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_agrees_with_numpy(name, d):
    arrays = pair(d, (6,), d, condition=4.0)
    value = ALL[name](*tensors(arrays))
    expected = [ORACLES[name](*(a[i] for a in arrays)) for i in range(6)]
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kinds", list(itertools.product(["full", "diagonal", "isotropic"], repeat=2)))
def test_every_kind_of_covariance_pairs_with_every_other(name, kinds):
    rng = np.random.default_rng(3)
    means = tensors([rng.normal(size=(5, 3)), rng.normal(size=(5, 3))])
    given_, full = [], []
    for kind in kinds:
        variances = torch.as_tensor(rng.uniform(0.5, 1.0, size=(5, 1 if kind == "isotropic" else 3)))
        matrix = torch.diag_embed(variances.expand(5, 3))
        if kind == "full":
            matrix = torch.as_tensor(oracle.random_covariances(rng, (5,), 3, 3.0)) * 5
        given_.append(matrix if kind == "full" else variances)
        full.append(matrix)
    value = ALL[name](means[0], given_[0], means[1], given_[1])
    torch.testing.assert_close(value, ALL[name](means[0], full[0], means[1], full[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_pairs_by_broadcasting_and_batch_is_loop(name):
    m, s, n, t = tensors(pair(5, (2, 4), 3, condition=4.0))
    wide = ALL[name](m[:, :, None], s[:, :, None], n[:, None], t[:, None])
    assert wide.shape == (2, 4, 4)
    for b, j, k in itertools.product(range(2), range(4), range(4)):
        torch.testing.assert_close(wide[b, j, k], ALL[name](m[b, j], s[b, j], n[b, k], t[b, k]), rtol=1e-9, atol=1e-12)
    assert ALL[name](m[:0], s[:0], n[:0], t[:0]).shape == (0, 4)


def test_pairwise_kl_in_blocks_equals_torch(monkeypatch):
    """Blocks that divide the pairs and blocks that do not, in one and in two batch dimensions."""
    monkeypatch.setattr("deepgmr.divergence._kernels.pairs.BLOCK", 500)
    for batch, j, k in (((5,), 13, 14), ((), 30, 70)):
        rng = np.random.default_rng(0)
        p = tensors([rng.normal(size=(*batch, j, 3)), oracle.random_covariances(rng, (*batch, j), 3)])
        q = tensors([rng.normal(size=(*batch, k, 3)), oracle.random_covariances(rng, (*batch, k), 3)])
        value = divergence.pairwise_kl_gaussian(*p, *q)
        one = MultivariateNormal(p[0].unsqueeze(-2), p[1].unsqueeze(-3))
        other = MultivariateNormal(q[0].unsqueeze(-3), q[1].unsqueeze(-4))
        torch.testing.assert_close(value, kl_divergence(one, other), rtol=1e-9, atol=1e-10)
        leaf = p[0].clone().requires_grad_()  # the differentiable path does not go in blocks
        torch.testing.assert_close(divergence.pairwise_kl_gaussian(leaf, p[1], *q).detach(), value)


def test_second_gaussian_left_out_is_the_standard_normal():
    m, s, _, _ = tensors(pair(1, (4,)))
    normal = MultivariateNormal(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
    torch.testing.assert_close(divergence.kl_gaussian(m, s), kl_divergence(MultivariateNormal(m, s), normal))
    expected = [
        oracle.wasserstein2_squared(a, b, np.zeros(3), np.eye(3)) for a, b in zip(m.numpy(), s.numpy(), strict=True)
    ]
    np.testing.assert_allclose(divergence.wasserstein2_squared_gaussian(m, s), expected)
    variances = s.diagonal(dim1=-2, dim2=-1)
    closed = 0.5 * (variances + m**2 - 1 - variances.log()).sum(-1)  # the term of every variational autoencoder
    torch.testing.assert_close(divergence.kl_gaussian(m, variances), closed)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_properties_of_divergences(seed, d):
    arrays = tensors(pair(seed, (3,), d, condition=100.0))
    m, s, n, t = arrays
    swapped = (n, t, m, s)
    for name, function in ALL.items():
        value = function(*arrays)
        assert (value >= 0).all(), name
        if name in SYMMETRIC:
            torch.testing.assert_close(value, function(*swapped), rtol=1e-8, atol=1e-10)
    hellinger = divergence.hellinger_gaussian(*arrays)
    assert (hellinger <= 1).all()
    # Renyi's divergence does not decrease with its order, and KL is its limit at one.
    orders = [divergence.renyi_gaussian(*arrays, alpha=a) for a in (0.2, 0.5, 0.9)]
    assert (orders[0] <= orders[1] + 1e-9).all() and (orders[1] <= orders[2] + 1e-9).all()
    assert (orders[2] <= divergence.kl_gaussian(*arrays) + 1e-9).all()
    near = divergence.renyi_gaussian(*arrays, alpha=1 - 1e-6)
    torch.testing.assert_close(near, divergence.kl_gaussian(*arrays), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["hellinger", "wasserstein2"])
def test_metrics_satisfy_the_triangle_inequality(name):
    p, q = tensors(pair(2, (500,)))[:2], tensors(pair(3, (500,)))[:2]
    r = tensors(pair(4, (500,)))[:2]
    assert (ALL[name](*p, *r) <= ALL[name](*p, *q) + ALL[name](*q, *r) + 1e-12).all()


@pytest.mark.parametrize("name", ALL)
def test_rigid_invariance(name, generator):
    m, s, n, t = tensors(pair(6, (40,)))
    motion = RigidTransform.random((40,), generator=generator, max_translation=5.0, dtype=F64)
    r = motion.rotation
    moved = [motion.apply(m[:, None])[:, 0], r @ s @ r.mT, motion.apply(n[:, None])[:, 0], r @ t @ r.mT]
    torch.testing.assert_close(ALL[name](*moved), ALL[name](m, s, n, t), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("name", [n for n in ALL if n not in ("hellinger", "wasserstein2")])
def test_zero_against_itself_in_float32(name, condition):
    m, s, _, _ = tensors(pair(7, (1000,), 3, condition), torch.float32)
    assert ALL[name](m, s, m, s).abs().max() <= 1e-6


@pytest.mark.parametrize("name", ALL)
def test_float32_keeps_its_digits_at_condition_1e6(name):
    arrays = tensors(pair(8, (1000,), 3, 1e6), torch.float32)
    value, exact = ALL[name](*arrays), ALL[name](*(a.double() for a in arrays))
    finite = torch.isfinite(exact)
    assert torch.equal(torch.isfinite(value), finite)
    error = (value.double() - exact).abs()[finite] / (exact.abs()[finite] + 1e-2)
    assert error.max() < 1e-3


def test_renyi_is_infinite_where_the_integral_diverges():
    m = torch.zeros(2, 3, dtype=F64)
    s, t = torch.eye(3, dtype=F64) * 4, torch.eye(3, dtype=F64)
    narrow = torch.stack(
        [t, 8 * t]
    ).requires_grad_()  # 3 S_q - 2 S_p is negative for the first, positive for the second
    value = divergence.renyi_gaussian(m, s.expand(2, 3, 3), m, narrow, alpha=3.0)
    assert value[0] == math.inf and torch.isfinite(value[1])
    value[1].backward()
    assert torch.isfinite(narrow.grad).all()


def test_log_product_integral_is_the_density_of_the_difference():
    m, s, n, t = tensors(pair(9, (5,)))
    expected = MultivariateNormal(n, s + t).log_prob(m)
    torch.testing.assert_close(divergence.log_product_integral_gaussian(m, s, n, t), expected)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("d", [2, 4])
def test_gradients(name, d):
    rng = np.random.default_rng(10)
    m, n = (torch.as_tensor(rng.normal(size=(2, d))).requires_grad_() for _ in range(2))
    a, b = (torch.as_tensor(rng.normal(size=(2, d, d)) * 0.15).requires_grad_() for _ in range(2))
    eye = torch.eye(d, dtype=F64)

    def value(m, a, n, b):
        return ALL[name](m, eye + a + a.mT, n, eye + b + b.mT)

    assert torch.autograd.gradcheck(value, (m, a, n, b))


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_finite_where_both_are_equal(name):
    m = torch.zeros(3, dtype=F64, requires_grad=True)
    s = torch.eye(3, dtype=F64).requires_grad_()  # equal eigenvalues besides
    ALL[name](m, s, m.detach(), s.detach()).backward()
    assert torch.isfinite(m.grad).all() and torch.isfinite(s.grad).all()
    torch.testing.assert_close(s.grad, s.grad.mT)


def test_inside_vmap_and_compile_free_of_data_dependent_control_flow():
    m, s, n, t = tensors(pair(11, (6,)))
    expected = divergence.kl_gaussian(m, s, n, t)
    torch.testing.assert_close(torch.vmap(divergence.kl_gaussian)(m, s, n, t), expected)
    per_item = torch.vmap(torch.func.grad(lambda m, s, n, t: divergence.kl_gaussian(m, s, n, t)))(m, s, n, t)
    torch.testing.assert_close(per_item, torch.linalg.solve(t, (m - n).unsqueeze(-1)).squeeze(-1))
    traced = torch.compile(divergence.kl_gaussian, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(m, s, n, t), expected)


def test_ten_times_leaner_than_torch():
    """Peak memory of the pairwise matrix, inputs aside, against torch's broadcast; the script measures speed too."""
    rng = np.random.default_rng(0)
    m, s = tensors([rng.normal(size=(64, 64, 3)), oracle.random_covariances(rng, (64, 64), 3)], torch.float32)

    def theirs():
        one = MultivariateNormal(m[:, :, None], s[:, :, None], validate_args=False)
        return kl_divergence(one, MultivariateNormal(m[:, None], s[:, None], validate_args=False))

    def ours():
        return divergence.kl_gaussian(m[:, :, None], s[:, :, None], m[:, None], s[:, None])

    assert peak_bytes(theirs) > 10 * peak_bytes(ours)


# -- bad input ---------------------------------------------------------------------------------------------------

GOOD = (torch.zeros(4, 3), torch.eye(3).expand(4, 3, 3))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("means", "covariances", "error", "words"),
    [
        (torch.zeros(4, 3), torch.eye(2).expand(4, 2, 2), InvalidMixture, r"\(4, 2, 2\)"),
        (torch.zeros(4, 3), torch.ones(4, 2), InvalidMixture, r"\(4, 2\)"),
        (torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2), InvalidMixture, r"\(4, 2\)"),
        (torch.zeros(5, 3), torch.eye(3).expand(5, 3, 3), InvalidMixture, r"\(5,\)"),
        (torch.zeros(4, 0), torch.ones(4, 0), InvalidMixture, r"\(4, 0\)"),
        (torch.zeros(4, 3).double(), torch.eye(3).expand(4, 3, 3).double(), InvalidMixture, "float64"),
        (torch.zeros(4, 3).int(), torch.ones(4, 3).int(), InvalidMixture, "int32"),
        (torch.full((4, 3), math.nan), GOOD[1], InvalidMixture, "NaN"),
        (GOOD[0], torch.full((4, 3, 3), math.nan), InvalidMixture, "NaN"),
        (GOOD[0], torch.full((4, 3), math.inf), InvalidMixture, "NaN or infinite"),
        (GOOD[0], -torch.ones(4, 1), NotPositiveDefinite, "-1"),
        (GOOD[0], torch.diag(torch.tensor([1.0, 1.0, -0.01])).expand(4, 3, 3), NotPositiveDefinite, "-0.01"),
        (GOOD[0], torch.zeros(4, 3, 3), NotPositiveDefinite, "floor"),
        (GOOD[0], torch.eye(3).add(torch.tensor([[0, 0.1, 0]] * 3)).expand(4, 3, 3), InvalidMixture, "symmetric"),
    ],
)
def test_bad_input_is_named(name, means, covariances, error, words):
    for arguments in ((*GOOD, means, covariances), (means, covariances, *GOOD)):
        with pytest.raises(error, match=words):
            ALL[name](*arguments)
    assert issubclass(error, ValueError) and issubclass(error, DeepGMRError)


def test_bad_options_are_named():
    for alpha in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(InvalidInput, match="Renyi order"):
            divergence.renyi_gaussian(*GOOD, *GOOD, alpha=alpha)
        with pytest.raises(InvalidInput, match="between zero and one"):
            divergence.geometric_jensen_shannon_gaussian(*GOOD, *GOOD, alpha=alpha)
    with pytest.raises(InvalidInput, match="neither"):
        divergence.kl_gaussian(*GOOD, GOOD[0])


def test_singular_covariances_get_an_announced_jitter():
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    flat = rotation @ torch.diag(torch.tensor([1.0, 0.5, 0.0])) @ rotation.mT
    flat = (flat + flat.mT) / 2
    with pytest.warns(NumericalWarning, match=r"1 of 4 covariances .* added up to [\d.]+e-0"):
        value = divergence.kl_gaussian(GOOD[0], torch.stack([torch.eye(3), torch.eye(3), torch.eye(3), flat]), *GOOD)
    assert torch.isfinite(value).all() and (value[:3] == 0).all() and value[3] > 1
    with warnings.catch_warnings():  # none for a sound one of condition 1e6
        warnings.simplefilter("error")
        spread = torch.diag(torch.tensor([1.0, 1e-3, 1e-6]))
        divergence.kl_gaussian(GOOD[0], (rotation @ spread @ rotation.mT).expand(4, 3, 3), *GOOD)
