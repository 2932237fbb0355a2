"""Mixtures that share a part: bounds, limits and what the divergence is, in densities; places with normals; bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import oracles_divergence as oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems_mixtures import mixture, pair

from deepgmr import divergence
from deepgmr.errors import DeepGMRError, InvalidInput, InvalidMixture
from deepgmr.geometry.transform import RigidTransform
from deepgmr.mixture import GaussianMixture

F64 = torch.float64
BATCHES = ((), (2,), (3, 4))
backgrounds = st.floats(1e-6, 1e3)
seeds = st.integers(0, 2**20)


def loop(function, f, g, batch):
    """function of one problem at a time (*B)."""
    out = np.empty(batch)
    for index in itertools.product(*map(range, batch)):
        out[index] = function([a[index] for a in f], [a[index] for a in g])
    return out


def joined(p, q, share):
    """A mixture with the components of both, `share` of the weight for the second."""
    return GaussianMixture(
        torch.cat([(1 - share) * p.weights, share * q.weights], dim=-1),
        torch.cat([p.means, q.means], dim=-2),
        torch.cat([p.covariances, q.covariances], dim=-3),
    )


def shifted(p, shift):
    return GaussianMixture(p.weights, p.means + shift, p.covariances)


# -- against NumPy -----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seeds, st.sampled_from(BATCHES), backgrounds, st.integers(1, 3))
def test_agrees_with_numpy(seed, batch, background, d):
    f, g = pair(seed, batch, 3, 4, d)
    value = divergence.kl_partial(mixture(f), mixture(g), background=background)
    expected = loop(lambda f, g: oracle.partial(f, g, background), f, g, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("background", [1e-20, 1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (torch.float32, 1e-5)])
def test_exact_from_no_divergence_to_an_endless_one(background, dtype, tolerance):
    """Where the exponential is cut off nothing is seen of it, however rare the background."""
    kl = torch.tensor([0.0, 1e-3, 1.0, 15.0, 29.9, 30.1, 40.0, 60.0, 200.0, math.inf], dtype=dtype)
    value = divergence.partial_divergence(kl.unsqueeze(-1), background=background)
    expected = np.log1p(background) - np.logaddexp(-kl.double().numpy(), math.log(background))
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
    assert value[0] == 0 and (value.diff() >= 0).all()


@pytest.mark.parametrize("batch", BATCHES)
def test_batch_is_loop_and_batches_broadcast(batch):
    p, q = (mixture(a) for a in pair(2, (2, *batch)))
    value = divergence.kl_partial(p, q)
    assert value.shape == (2, *batch)
    for index in np.ndindex(2, *batch):
        torch.testing.assert_close(value[index], divergence.kl_partial(p[index], q[index]))
    torch.testing.assert_close(divergence.kl_partial(p[:1], q), divergence.kl_partial(p[[0, 0]], q))
    torch.testing.assert_close(divergence.kl_partial(p, q[1]), divergence.kl_partial(p, q[[1, 1]]))
    assert divergence.kl_partial(p[:0], q[:0]).shape == (0, *batch)


def test_equal_weights_may_be_left_out():
    kl = torch.rand(3, 4, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    even = torch.full((5,), 0.2, dtype=F64)
    torch.testing.assert_close(divergence.partial_divergence(kl), divergence.partial_divergence(kl, even))


# -- what it is --------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(seeds, backgrounds)
def test_bounds(seed, background):
    p, q = (mixture(a) for a in pair(seed, (4,), 3, 5))
    value = divergence.kl_partial(p, q, background=background)
    largest = divergence.largest_partial_divergence(background)
    nearest = divergence.pairwise_kl_gaussian(p.means, p.covariances, q.means, q.covariances).amin(-1)
    assert largest == pytest.approx(math.log((1 + background) / background))
    assert (value > 0).all() and (value <= largest * (1 + 1e-9)).all()
    assert (value <= (p.weights * nearest).sum(-1) / (1 + background) + 1e-12).all()  # log is concave


@pytest.mark.parametrize("background", [0.01, 0.3, 1.0, 5.0])
def test_bounds_the_skew_divergence_of_the_densities(background):
    """KL(p || (r + beta p) / (1 + beta)) <= D, by stratified sampling within four and a half standard errors."""
    generator = torch.Generator().manual_seed(3)
    f, g = pair(11, (60,), 4, 4)
    for scale in (1.0, 0.1):  # far apart, and close
        near = (f[0], f[1] + scale * (g[1] - f[1]), f[2])
        blends = [oracle.counterparts([a[i] for a in f], [a[i] for a in near], background) for i in range(60)]
        blend = mixture([np.stack(arrays) for arrays in zip(*blends, strict=True)])
        truth, error = divergence.kl_stratified(mixture(f), blend, samples=4000, generator=generator)
        bound = divergence.kl_partial(mixture(f), mixture(near), background=background)
        assert (truth <= bound + 4.5 * error).all()
        assert (truth / bound).median() > 0.2  # a bound worth having


def test_the_bound_is_reached_where_all_coincides_and_where_nothing_does():
    """Single Gaussians: the skew divergence itself by quadrature, at no distance, at some, and far away."""
    x = np.linspace(-40, 140, 400_001)
    density = [np.exp(-0.5 * (x - c) ** 2) / math.sqrt(2 * math.pi) for c in (0.0, 0.5, 2.0, 100.0)]
    ratio = []
    for c, q in zip((0.0, 0.5, 2.0, 100.0), density, strict=True):
        truth = np.trapezoid(density[0] * -np.log((q + density[0] + 1e-300) / (2 * density[0] + 1e-300)), x)
        one = torch.ones(1, dtype=F64)
        p, other = (GaussianMixture(one, m * one[None], one[:, None, None]) for m in (0.0, c))
        bound = divergence.kl_partial(p, other).item()
        assert truth <= bound + 1e-9
        ratio.append(truth / bound if bound else 1.0)
    assert ratio[0] == 1 and ratio[3] == pytest.approx(1, abs=1e-9) and 0.5 < min(ratio) < 0.99


@settings(max_examples=20)
@given(seeds, backgrounds)
def test_zero_iff_the_components_are_among_the_others(seed, background):
    p, q = (mixture(a) for a in pair(seed, (3,), 3, 4))
    again = GaussianMixture(p.weights.flip(-1), p.means, p.covariances)  # weights do not matter
    for other in (p, again, joined(p, q, 0.4)):
        assert divergence.kl_partial(p, other, background=background).abs().max() <= 1e-9
    assert (divergence.kl_partial(joined(p, q, 0.4), p, background=background) > 0).all()
    moved = p.means.clone()
    moved[..., 0, 0] += 1e-3
    nudged = GaussianMixture(p.weights, moved, p.covariances)
    assert (divergence.kl_partial(p, nudged, background=background) > 0).all()


def test_components_without_weight_count_for_nothing():
    f, g = pair(4, (), 3, 3)
    weights = np.array([0.0, 0.7, 0.3])
    rest = (weights[1:], f[1][1:], f[2][1:])
    value = divergence.kl_partial(mixture((weights, *f[1:])), mixture(g))
    torch.testing.assert_close(value, divergence.kl_partial(mixture(rest), mixture(g)))


@settings(max_examples=20)
@given(seeds, st.floats(0.01, 0.99), backgrounds)
def test_a_share_without_counterpart_costs_its_share(seed, share, background):
    p, q = (mixture(a) for a in pair(seed, (2,), 3, 2))
    far = shifted(q, 1e6)
    value = divergence.kl_partial(joined(p, far, share), p, background=background)
    expected = share * divergence.largest_partial_divergence(background)
    torch.testing.assert_close(value, value.new_full((2,), expected), rtol=1e-9, atol=1e-12)
    assert (divergence.kl_partial(p, joined(p, far, share), background=background).abs() <= 1e-9).all()


@settings(max_examples=20)
@given(seeds, st.sampled_from(BATCHES))
def test_invariant_under_a_common_rigid_motion_and_any_order(seed, batch):
    p, q = (mixture(a) for a in pair(seed, batch, 3, 5))
    value = divergence.kl_partial(p, q)
    generator = torch.Generator().manual_seed(seed)
    motion = RigidTransform.random(batch, generator=generator, max_translation=5.0, dtype=F64)
    torch.testing.assert_close(
        divergence.kl_partial(p.transformed(motion), q.transformed(motion)), value, rtol=1e-9, atol=1e-11
    )
    shuffled = []
    for m in (p, q):
        order = torch.randperm(m.components, generator=generator)
        shuffled.append(GaussianMixture(m.weights[..., order], m.means[..., order, :], m.covariances[..., order, :, :]))
    torch.testing.assert_close(divergence.kl_partial(*shuffled), value)


@settings(max_examples=20)
@given(seeds, backgrounds)
def test_grows_with_the_distance_along_a_line(seed, background):
    """Of a mixture from itself, moved less far than its components are apart."""
    w, m, s = pair(seed, (), 4, 4, condition=10.0)[0]
    p = mixture((w, 100 * m / np.linalg.norm(m[:, None] - m[None] + 1e9 * np.eye(4)[..., None], axis=-1).min(), s))
    direction = torch.as_tensor(np.random.default_rng(seed).normal(size=3))
    steps = [shifted(p, 0.5 * t * direction / direction.norm()) for t in range(8)]
    values = torch.stack([divergence.kl_partial(p, q, background=background) for q in steps])
    assert (values.diff() >= -1e-12).all() and values[1] > values[0]


def test_no_background_left_is_the_matching_approximation():
    """D rises to sum_j pi_j KL_j; q equally weighted, that is `kl_matched` less log K plus the entropy of the weights."""
    w, m, s = pair(8, (5,), 3, 4)[1]
    p, q = mixture(pair(8, (5,), 3, 4)[0]), mixture((np.full_like(w, 0.25), m, s))
    values = torch.stack([divergence.kl_partial(p, q, background=b) for b in (1.0, 1e-3, 1e-9, 1e-30, 1e-200)])
    assert (values.diff(dim=0) >= 0).all()
    entropy = -(p.weights * p.weights.log()).sum(-1)
    torch.testing.assert_close(values[-1], divergence.kl_matched(p, q) - math.log(4) + entropy, rtol=1e-10, atol=1e-10)
    even = GaussianMixture(torch.full_like(q.weights, 0.25), q.means + 0.1, q.covariances)
    limit = divergence.kl_partial(even, q, background=1e-200)
    torch.testing.assert_close(limit, divergence.kl_matched(even, q), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(limit, divergence.kl_same_index(even, q), rtol=1e-10, atol=1e-12)


# -- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [0.05, 1.0])
def test_gradients(background):
    rng = np.random.default_rng(10)
    logits = torch.as_tensor(rng.normal(size=(2, 3))).requires_grad_()
    m, n = (torch.as_tensor(rng.normal(size=(2, k, 3))).requires_grad_() for k in (3, 4))
    a, b = (torch.as_tensor(rng.normal(size=(2, k, 3, 3)) * 0.15).requires_grad_() for k in (3, 4))
    eye, even = torch.eye(3, dtype=F64), torch.full((2, 4), 0.25, dtype=F64)

    def value(logits, m, a, n, b):
        p = GaussianMixture(logits.softmax(-1), m, eye + a + a.mT)
        return divergence.kl_partial(p, GaussianMixture(even, n, eye + b + b.mT), background=background)

    assert torch.autograd.gradcheck(value, (logits, m, a, n, b))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("distance", [0.0, 1e-20, 1e3, 1e15])
def test_gradients_are_finite_where_all_coincides_and_where_nothing_does(distance, dtype):
    p = mixture(pair(12, (2,))[0], dtype)
    p = GaussianMixture(p.weights, p.means[..., :1, :].expand(p.means.shape), p.covariances)  # coincident means
    leaves = [x.clone().requires_grad_() for x in (p.weights, p.means, p.covariances)]
    value = divergence.kl_partial(GaussianMixture(*leaves), shifted(p, distance))
    value.sum().backward()
    assert torch.isfinite(value).all() and all(torch.isfinite(leaf.grad).all() for leaf in leaves)
    if distance != 1e3:
        assert leaves[1].grad.abs().max() <= 1e-6  # at rest, or out of reach


def test_no_counterpart_has_no_gradient():
    kl = torch.tensor([0.0, 1.0, math.inf], requires_grad=True)
    divergence.partial_divergence(kl).backward()
    torch.testing.assert_close(kl.grad, torch.tensor([0.5, math.exp(-1) / (math.exp(-1) + 1), 0.0]) / 3)


def test_inside_vmap_and_compile():
    kl = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    expected = divergence.partial_divergence(kl)
    torch.testing.assert_close(torch.vmap(divergence.partial_divergence)(kl), expected)
    traced = torch.compile(divergence.partial_divergence, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(kl), expected)


# -- places and normals ------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seeds, st.floats(0.01, 10.0), st.floats(0.1, 3.0))
def test_oriented_is_the_divergence_in_six_dimensions(seed, sigma, sigma_normal):
    """`kl_gaussian` over (place, normal), the better of the two signs."""
    rng = np.random.default_rng(seed)
    x, y = torch.as_tensor(rng.normal(size=(2, 7, 3)))
    m, n = torch.nn.functional.normalize(torch.as_tensor(rng.normal(size=(2, 7, 3))), dim=-1)
    square, cosine = (x - y).square().sum(-1), (m * n).sum(-1)
    value = divergence.kl_oriented(square, cosine, sigma=sigma, sigma_normal=sigma_normal)
    variances = torch.tensor([sigma] * 3 + [sigma_normal] * 3, dtype=F64).square().expand(7, 6)
    signed = [
        divergence.kl_gaussian(torch.cat([x, m], -1), variances, torch.cat([y, sign * n], -1), variances)
        for sign in (1, -1)
    ]
    torch.testing.assert_close(value, torch.minimum(*signed))
    assert (value < torch.maximum(*signed)).all()
    arrays = zip(*(a.numpy() for a in (x, m, y, n)), strict=True)
    np.testing.assert_allclose(value, [oracle.oriented(*each, sigma, sigma_normal) for each in arrays], rtol=1e-9)


def test_oriented_knows_no_sign_and_scales_with_its_unit():
    square, cosine = torch.tensor([0.0, 0.04, 0.04]), torch.tensor([1.0, 0.5, -0.5])
    value = divergence.kl_oriented(square, cosine, sigma=0.2, sigma_normal=0.5)
    torch.testing.assert_close(value, torch.tensor([0.0, 2.5, 2.5]))
    metres = divergence.kl_oriented(square * 1e6, cosine, sigma=torch.full((3,), 200.0), sigma_normal=0.5)
    torch.testing.assert_close(metres, value)
    exact = divergence.kl_oriented(square, cosine, sigma=0.0, sigma_normal=0.5)
    torch.testing.assert_close(exact, torch.tensor([0.0, math.inf, math.inf]))


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [0.0, -1.0, math.nan, math.inf, 1e-320])
def test_bad_backgrounds_are_named(background):
    p, q = (mixture(a) for a in pair(1))
    calls = (
        lambda: divergence.kl_partial(p, q, background=background),
        lambda: divergence.partial_divergence(torch.zeros(3), background=background),
        lambda: divergence.largest_partial_divergence(background),
    )
    for call in calls:
        with pytest.raises(InvalidInput, match="positive likelihood ratio"):
            call()


@pytest.mark.parametrize(
    ("kl", "weights", "error", "words"),
    [
        (torch.tensor([0.0, math.nan]), None, InvalidInput, "NaN"),
        (torch.tensor([0.0, -0.1]), None, InvalidInput, "-0.1"),
        (torch.zeros(4, 0), None, InvalidInput, r"\(4, 0\)"),
        (torch.tensor(1.0), None, InvalidInput, r"\(\)"),
        (torch.zeros(3).int(), None, InvalidInput, "int32"),
        (torch.zeros(3), torch.ones(2) / 2, InvalidInput, r"\(2,\)"),
        (torch.zeros(3), torch.ones(3).double() / 3, InvalidInput, "float64"),
        (torch.zeros(3), torch.ones(3), InvalidInput, "sum to one"),
        (torch.zeros(3), torch.tensor([1.5, -0.5, 0.0]), InvalidInput, "non-negative"),
        (torch.zeros(3), torch.tensor([1.0, math.nan, 0.0]), InvalidInput, "sum to one"),
        (torch.zeros(2, 3), torch.ones(4, 3) / 3, InvalidMixture, r"\(4,\) and \(2,\)"),
    ],
)
def test_bad_divergences_and_weights_are_named(kl, weights, error, words):
    with pytest.raises(error, match=words):
        divergence.partial_divergence(kl, weights)
    assert issubclass(error, ValueError) and issubclass(error, DeepGMRError)


def test_bad_mixtures_and_deviations_are_named():
    p, q = (mixture(a) for a in pair(1))
    with pytest.raises(InvalidMixture, match="sum to one"):
        divergence.kl_partial(GaussianMixture(2 * p.weights, p.means, p.covariances), q)
    with pytest.raises(InvalidMixture, match="float32"):
        divergence.kl_partial(p, q.to(torch.float32))
    for sigma, other in ((-1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (torch.tensor([1.0, math.nan]), 1.0)):
        with pytest.raises(InvalidInput, match="standard deviation"):
            divergence.kl_oriented(torch.zeros(2), torch.ones(2), sigma=sigma, sigma_normal=other)
