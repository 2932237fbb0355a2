"""Approximations and bounds between mixtures: regression constants, papers in NumPy, order, invariance, bad input."""

from __future__ import annotations

import math

import numpy as np
import oracles_divergence as oracle
import pytest
import torch
from problems_mixtures import mixture, pair, perturbed
from scipy import integrate
from torch.distributions import MultivariateNormal, kl_divergence

from deepgmr import divergence
from deepgmr.errors import DeepGMRError, InvalidInput, InvalidMixture, NotPositiveDefinite
from deepgmr.geometry.transform import RigidTransform
from deepgmr.mixture import GaussianMixture

F64 = torch.float64
DETERMINISTIC = {
    "kl_unscented": oracle.unscented,
    "kl_moment_matched": oracle.moment_matched,
    "kl_product": oracle.product,
    "kl_vasconcelos": oracle.vasconcelos,
    "kl_matched": oracle.matched,
    "kl_matched_soft": oracle.matched_soft,
    "kl_variational": oracle.variational,
    "kl_variational_upper": lambda f, g: oracle.variational_upper(f, g, 30),  # both have converged by then
    "kl_durrieu_lower": oracle.durrieu_lower,
    "kl_durrieu_upper": oracle.durrieu_upper,
    "kl_durrieu": oracle.durrieu,
    "kl_same_index": oracle.same_index,
    "cauchy_schwarz": oracle.cauchy_schwarz,
    "l2_squared": oracle.l2_squared,
}
ESTIMATES = [*DETERMINISTIC, "jensen_shannon", "jeffreys", "mixture_wasserstein2", "mixture_wasserstein2_entropic"]
SMOOTH = [name for name in ESTIMATES if name not in ("kl_vasconcelos", "kl_matched")]
ZERO_FOR_EQUAL = [
    "kl_unscented",
    "kl_moment_matched",
    "kl_product",
    "kl_variational",
    "kl_durrieu",
    "kl_same_index",
    "cauchy_schwarz",
    "l2_squared",
    "jensen_shannon",
    "jeffreys",
]


# -- regression constants ----------------------------------------------------------------------------------------


@pytest.fixture
def textbook():
    """f = 1/2 N((-1, 0), I) + 1/2 N((1, 0), I) and g = N(0, 2 I)."""
    eye = torch.eye(2, dtype=F64)
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    f = GaussianMixture(torch.full((2,), 0.5, dtype=F64), means, torch.stack([eye, eye]))
    return f, GaussianMixture(torch.ones(1, dtype=F64), means.new_zeros(1, 2), 2 * eye[None])


@pytest.mark.parametrize(
    ("name", "value", "digits"),
    [
        ("kl_unscented", 0.11316, 5),
        ("kl_moment_matched", 0.0966, 4),
        ("kl_variational", -0.12307, 5),
        ("kl_durrieu_lower", -0.301, 3),
        ("kl_durrieu_upper", 0.370, 3),
        ("kl_durrieu", 0.0346, 4),
        ("kl_variational_upper", 0.4431, 4),
    ],
)
def test_textbook_pair(textbook, name, value, digits):
    assert abs(getattr(divergence, name)(*textbook).item() - value) <= 0.5 * 10.0**-digits


def test_textbook_true_value_by_quadrature(textbook):
    """x and y are independent under both densities, so the divergence is a sum of two integrals on the line."""

    def normal(x, mean, variance):
        return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    def mixed(x):
        return 0.5 * (normal(x, -1, 1) + normal(x, 1, 1))

    total = sum(
        integrate.quad(lambda x, f=f: f(x) * np.log(f(x) / normal(x, 0, 2)), -15, 15, epsabs=1e-12)[0]
        for f in (mixed, lambda x: normal(x, 0, 1))
    )
    assert abs(total - 0.106316) < 5e-7
    for estimator in (divergence.kl_monte_carlo, divergence.kl_stratified):
        value, error = estimator(*textbook, samples=400_000)
        assert error < 1e-3 and abs(value - total) < 4 * error
    lower, upper = divergence.kl_interval(*textbook)
    assert lower <= total <= upper


# -- against the papers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_agrees_with_the_paper(name, d):
    f, g = pair(d, (3,), 3, 3 if name == "kl_same_index" else 4, d)
    value = getattr(divergence, name)(mixture(f), mixture(g))
    expected = [DETERMINISTIC[name]([a[i] for a in f], [a[i] for a in g]) for i in range(3)]
    np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ESTIMATES)
def test_batch_is_loop_and_batches_broadcast(name):
    p, q = (mixture(a) for a in pair(2, (2, 3)))
    function = getattr(divergence, name)
    value = function(p, q)
    assert value.shape == (2, 3)
    one_by_one = torch.stack([torch.stack([function(p[b, c], q[b, c]) for c in range(3)]) for b in range(2)])
    torch.testing.assert_close(value, one_by_one, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        function(p[:, :1], q[0])[:, 1], torch.stack([function(p[b, 0], q[0, 1]) for b in range(2)])
    )
    assert function(p[:0], q[:0]).shape == (0, 3)


def test_single_gaussians_are_exact():
    """J = 1 equals torch's KL for everything that is exact there."""
    p, q = (mixture(a) for a in pair(3, (50,), 1, 1))
    one, other = (MultivariateNormal(m.means[:, 0], m.covariances[:, 0]) for m in (p, q))
    exact = kl_divergence(one, other)
    for name in ("unscented", "moment_matched", "vasconcelos", "matched", "matched_soft", "variational", "same_index"):
        torch.testing.assert_close(getattr(divergence, f"kl_{name}")(p, q), exact, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(divergence.kl_variational_upper(p, q), exact, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(divergence.kl_interval(p, q).upper, exact, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(divergence.jeffreys(p, q), exact + kl_divergence(other, one))


@pytest.mark.parametrize("name", ZERO_FOR_EQUAL)
@pytest.mark.parametrize("condition", [10.0, 1e6])
def test_zero_against_itself_in_float32(name, condition):
    p = mixture(pair(4, (50,), 8, 8, 3, condition)[0], torch.float32)
    assert getattr(divergence, name)(p, p).abs().max() <= 1e-6


def test_upper_bounds_reach_zero_against_themselves():
    p = mixture(pair(4, (50,), 8)[0], torch.float32)
    lower, upper = divergence.kl_interval(p, p)
    assert (lower == 0).all() and upper.max() <= 1e-6


@pytest.mark.parametrize("name", [n for n in ESTIMATES if "wasserstein" not in n])
def test_float32_keeps_its_digits_at_condition_1e6(name):
    p, q = (mixture(a, torch.float32) for a in pair(5, (100,), 4, 4, 3, 1e6))
    value = getattr(divergence, name)(p, q).double()
    exact = getattr(divergence, name)(p.to(F64), q.to(F64))
    assert ((value - exact).abs() / (exact.abs() + 1e-2)).max() < 2e-3


# -- order and invariance ----------------------------------------------------------------------------------------


def test_bounds_are_ordered_on_a_thousand_pairs():
    """Every bound on its side of the truth (stratified sampling, four standard errors), and estimates between them."""
    generator = torch.Generator().manual_seed(1)
    for p, q in (perturbed(6, (500,), 4), tuple(mixture(a) for a in pair(7, (500,), 4, 4))):
        truth, error = divergence.kl_stratified(p, q, samples=2000, generator=generator)
        low, high = truth - 4.5 * error, truth + 4.5 * error
        lower, upper = divergence.kl_durrieu_lower(p, q), divergence.kl_durrieu_upper(p, q)
        variational_upper, same_index = divergence.kl_variational_upper(p, q), divergence.kl_same_index(p, q)
        assert (lower <= high).all()
        for bound in (upper, variational_upper, same_index):
            assert (bound >= low).all()
        interval = divergence.kl_interval(p, q)
        assert (interval.lower <= high).all() and (interval.upper >= low).all()
        assert (interval.lower >= 0).all() and (interval.lower <= interval.upper).all()
        assert (lower <= interval.lower).all()
        for bound in (upper, variational_upper, same_index):
            assert (interval.upper <= bound + 1e-12).all()
        mean = 0.5 * (divergence.kl_variational(p, q) + divergence.kl_product(p, q))
        torch.testing.assert_close(divergence.kl_durrieu(p, q), mean)
        torch.testing.assert_close(divergence.kl_durrieu(p, q), 0.5 * (lower + upper))
        assert (divergence.kl_matched(p, q) <= divergence.kl_vasconcelos(p, q) + 1e-12).all()
        assert (divergence.kl_matched_soft(p, q) <= divergence.kl_matched(p, q) + 1e-12).all()
        assert (divergence.kl_matched_soft(p, q) <= divergence.kl_variational(p, q) + 1e-12).all()


def test_variational_upper_bound_falls_with_every_iteration():
    p, q = perturbed(8, (50,), 6)
    bounds = torch.stack([divergence.kl_variational_upper(p, q, iterations=n) for n in (1, 2, 3, 5, 10, 30, 100)])
    assert (bounds.diff(dim=0) <= 1e-12).all() and (bounds[0] - bounds[-1] > 1e-3).all()
    convexity = -(
        p.weights
        * torch.log(
            (
                q.weights[:, None]
                * torch.exp(-divergence.pairwise_kl_gaussian(p.means, p.covariances, q.means, q.covariances))
            ).sum(-1)
        )
    ).sum(-1)
    torch.testing.assert_close(bounds[0], convexity)


def test_the_variational_approximation_is_no_bound(textbook):
    """Below the truth, and below zero, on the textbook pair; far above it on random ones."""
    p, q = perturbed(6, (500,), 4)
    truth, error = divergence.kl_stratified(p, q, samples=2000)
    assert ((divergence.kl_variational(p, q) - truth) / error > 10).any()
    assert divergence.kl_variational(*textbook) < 0


@pytest.mark.parametrize("name", ESTIMATES)
def test_rigid_invariance(name, generator):
    p, q = (mixture(a) for a in pair(9, (6,)))
    motion = RigidTransform.random((6,), generator=generator, max_translation=3.0, dtype=F64)
    value = getattr(divergence, name)(p.transformed(motion), q.transformed(motion))
    torch.testing.assert_close(value, getattr(divergence, name)(p, q), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in ESTIMATES if n != "kl_same_index"])
def test_order_of_components_does_not_matter(name):
    p, q = (mixture(a) for a in pair(10, (6,), 4, 4))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = GaussianMixture(q.weights[:, order], q.means[:, order], q.covariances[:, order])
    torch.testing.assert_close(getattr(divergence, name)(p, shuffled), getattr(divergence, name)(p, q))


def test_components_without_weight_count_for_nothing():
    f, g = pair(11, (), 4, 4)
    p, q = mixture(f), mixture(g)
    zero = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=F64)
    p0 = GaussianMixture(p.weights * zero / (p.weights * zero).sum(), p.means, p.covariances)
    q0 = GaussianMixture(q.weights * zero / (q.weights * zero).sum(), q.means, q.covariances)
    p1, q1 = (GaussianMixture(m.weights[1:], m.means[1:], m.covariances[1:]) for m in (p0, q0))
    for name in ESTIMATES:
        leaf = p0.weights.clone().requires_grad_()
        value = getattr(divergence, name)(GaussianMixture(leaf, p0.means, p0.covariances), q0)
        torch.testing.assert_close(value.detach(), getattr(divergence, name)(p1, q1), rtol=1e-6, atol=1e-9)
        value.backward()
        assert torch.isfinite(leaf.grad).all(), name
    assert divergence.kl_same_index(p, q0) == math.inf


def test_overlap_measures_survive_any_unit():
    """Cauchy-Schwarz has no unit; L2 is in units of density, also where densities leave the range of float32."""
    p, q = (mixture(a, torch.float32) for a in pair(12, (20,)))
    for scale in (1e-6, 1e6):
        small = [GaussianMixture(m.weights, scale * m.means, scale**2 * m.covariances) for m in (p, q)]
        torch.testing.assert_close(
            divergence.cauchy_schwarz(*small), divergence.cauchy_schwarz(p, q), rtol=1e-4, atol=1e-5
        )
        value = divergence.l2_squared(*small).double() * scale**3
        torch.testing.assert_close(value, divergence.l2_squared(p, q).double(), rtol=1e-4, atol=1e-6)


# -- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATES)
def test_gradients(name):
    rng = np.random.default_rng(13)
    leaves = [
        torch.as_tensor(rng.normal(size=shape) * scale).requires_grad_()
        for _ in range(2)
        for shape, scale in (((3,), 0.3), ((3, 2), 1.0), ((3, 2, 2), 0.4))
    ]
    options = {"iterations": 5} if name in ("kl_variational_upper", "mixture_wasserstein2_entropic") else {}

    def value(*leaves):
        sides = [
            GaussianMixture(torch.softmax(w, -1), m, a @ a.mT + 0.2 * torch.eye(2, dtype=F64))
            for w, m, a in (leaves[:3], leaves[3:])
        ]
        return getattr(divergence, name)(*sides, **options)

    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("name", ESTIMATES)
def test_gradients_stay_finite_for_equal_round_mixtures(name):
    rng = np.random.default_rng(14)
    means = torch.as_tensor(rng.normal(size=(3, 3))).requires_grad_()
    covariances = (0.3 * torch.eye(3, dtype=F64)).repeat(3, 1, 1).requires_grad_()
    weights = torch.full((3,), 1 / 3, dtype=F64).requires_grad_()
    other = GaussianMixture(weights.detach(), means.detach(), covariances.detach())
    getattr(divergence, name)(GaussianMixture(weights, means, covariances), other).backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in (weights, means, covariances))


def test_under_vmap():
    p, q = (mixture(a) for a in pair(15, (4,)))
    for name in ("kl_variational", "kl_unscented", "kl_same_index", "kl_durrieu_upper", "cauchy_schwarz"):
        function = getattr(divergence, name)
        mapped = torch.vmap(lambda *a, f=function: f(GaussianMixture(*a[:3]), GaussianMixture(*a[3:])))
        value = mapped(p.weights, p.means, p.covariances, q.weights, q.means, q.covariances)
        torch.testing.assert_close(value, function(p, q))


# -- bad input ---------------------------------------------------------------------------------------------------


def replaced(part, value):
    parts = dict(
        weights=torch.full((2, 4), 0.25), means=torch.zeros(2, 4, 3), covariances=torch.eye(3).expand(2, 4, 3, 3)
    )
    return GaussianMixture(**(parts | {part: value}))


@pytest.mark.parametrize(
    "name", [*ESTIMATES, "kl_monte_carlo", "kl_stratified", "kl_interval", "jensen_shannon_interval"]
)
@pytest.mark.parametrize(
    ("part", "value", "error", "words"),
    [
        ("weights", torch.full((2, 4), 0.3), InvalidMixture, r"\(2, 4\) must sum to one, off by up to 0.2"),
        ("weights", torch.tensor([[1.5, -0.5, 0, 0]] * 2), InvalidMixture, "-0.5"),
        ("weights", torch.full((2, 4), math.nan), InvalidMixture, "NaN"),
        ("means", torch.full((2, 4, 3), math.nan), InvalidMixture, r"means \(2, 4, 3\) hold 24 NaN"),
        ("covariances", torch.full((2, 4, 3, 3), math.nan), InvalidMixture, "NaN"),
        ("covariances", -torch.eye(3).expand(2, 4, 3, 3), NotPositiveDefinite, r"8 of 8 .* \(2, 4, 3, 3\)"),
        ("covariances", torch.eye(3).roll(1, 0).add(torch.eye(3)).expand(2, 4, 3, 3), InvalidMixture, "symmetric"),
    ],
)
def test_bad_numbers_are_named(name, part, value, error, words):
    good, bad = replaced("means", torch.zeros(2, 4, 3)), replaced(part, value)
    for sides in ((good, bad), (bad, good)):
        with pytest.raises(error, match=words):
            getattr(divergence, name)(*sides)
    assert issubclass(error, ValueError) and issubclass(error, DeepGMRError)


@pytest.mark.parametrize("name", ESTIMATES)
def test_mismatches_are_named(name):
    function, good = getattr(divergence, name), mixture(pair(16, (2,), 4)[0], torch.float32)
    for other, words in (
        (mixture(pair(16, (3,), 4)[0], torch.float32), r"\(2,\) and \(3,\)"),
        (mixture(pair(16, (2,), 4, 4, 2)[0], torch.float32), "same dimension"),
        (mixture(pair(16, (2,), 4)[0]), "float64"),
        ((good.weights, good.means, good.covariances), "tuple"),
    ):
        with pytest.raises(InvalidMixture, match=words):
            function(good, other)


def test_bad_options_are_named():
    p, q = (mixture(a) for a in pair(17, (), 3, 4))
    with pytest.raises(InvalidMixture, match="3 and 4"):
        divergence.kl_same_index(p, q)
    with pytest.raises(InvalidMixture, match="at least one component"):
        divergence.kl_variational(p, GaussianMixture(torch.zeros(0), torch.zeros(0, 3), torch.zeros(0, 3, 3)))
    for function in (divergence.kl_variational_upper, divergence.kl_interval, divergence.jensen_shannon_interval):
        with pytest.raises(InvalidInput, match="iteration"):
            function(p, q, iterations=0)
