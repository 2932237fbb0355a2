"""mixture.py against scipy.stats, torch.distributions and NumPy loops."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import BATCHES, covariances, make_mixture, mixtures
from scipy.stats import chi2
from torch import Tensor

from deepgmr.errors import InvalidMixture, NotPositiveDefinite
from deepgmr.geometry.transform import RigidTransform
from deepgmr.mixture import GaussianMixture

F64 = torch.float64


def mixture_of(parts: tuple[np.ndarray, ...], dtype: torch.dtype = F64) -> GaussianMixture:
    return GaussianMixture(*(torch.tensor(part, dtype=dtype) for part in parts))


def simple(**changes: Tensor) -> GaussianMixture:
    parts = {
        "weights": torch.tensor([0.25, 0.75]),
        "means": torch.tensor([[0.0, 0, 0], [1, 2, 3]]),
        "covariances": torch.eye(3).repeat(2, 1, 1),
    }
    return GaussianMixture(**(parts | changes))


def clusters(generator: torch.Generator, *, offset: float = 0.0, count: int = 500, dtype: torch.dtype = F64) -> Tensor:
    """Three well separated clusters of very different sizes, (3 * count, 3)."""
    centres = torch.tensor([[0.0, 0, 0], [8, 0, 0], [0, 9, 1]], dtype=F64)
    sizes = torch.tensor([0.2, 1.0, 0.5], dtype=F64)
    noise = torch.randn(count, 3, 3, generator=generator, dtype=F64)
    return (centres + sizes.unsqueeze(-1) * noise + offset).reshape(-1, 3).to(dtype)


# -- density ---------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(mixtures(), st.integers(0, 2**20))
def test_log_prob_is_scipys_and_torchs(parts: tuple[np.ndarray, ...], seed: int) -> None:
    mixture = mixture_of(parts)
    x = torch.tensor(np.random.default_rng(seed).normal(size=(*mixture.batch_shape, 9, 3)) * 3)
    ours = mixture.log_prob(x)
    joint, posterior = mixture.component_log_prob(x), mixture.responsibilities(x)
    assert ours.shape == (*mixture.batch_shape, 9)
    assert joint.shape == posterior.shape == (*mixture.batch_shape, 9, mixture.components)
    torch.testing.assert_close(posterior.sum(-1), torch.ones_like(ours))
    if not ours.numel():
        return
    for index in np.ndindex(*mixture.batch_shape):
        single = tuple(part[index] for part in parts)
        expected = oracles.joint_log_density(single, x[index].numpy())
        np.testing.assert_allclose(joint[index].numpy(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours[index].numpy(), oracles.log_density(single, x[index].numpy()), rtol=1e-9)
        np.testing.assert_allclose(
            posterior[index].numpy(), np.exp(expected - oracles.log_density(single, x[index].numpy())[:, None])
        )
    torchs = mixture.to_distribution().log_prob(x.movedim(-2, 0)).movedim(0, -1)
    torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_any_dimension(d: int) -> None:
    parts = make_mixture(d=d, seed=1)
    x = np.random.default_rng(1).normal(size=(20, d))
    ours = mixture_of(parts).log_prob(torch.tensor(x)).numpy()
    np.testing.assert_allclose(ours, oracles.log_density(parts, x), rtol=1e-10)
    assert mixture_of(parts).sample(7, generator=torch.Generator()).shape == (7, d)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
def test_float32_far_from_the_origin(offset: float) -> None:
    weights, means, covs = make_mixture(seed=2)
    # The means and points are what float32 can hold there, so that only the computation is measured.
    far_means = (means + offset).astype(np.float32)
    x = (np.random.default_rng(2).normal(size=(200, 3)) * 2 + offset).astype(np.float32)
    ours = mixture_of((weights, far_means, covs), torch.float32).log_prob(torch.from_numpy(x)).double().numpy()
    truth = oracles.log_density((weights, far_means.astype(np.float64), covs), x.astype(np.float64))
    np.testing.assert_allclose(ours, truth, rtol=5e-5, atol=1e-4)


def test_log_prob_gradcheck() -> None:
    mixture = mixture_of(make_mixture(components=3, seed=3))
    x = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))

    def density(weights: Tensor, means: Tensor, root: Tensor, points: Tensor) -> Tensor:
        return GaussianMixture(weights, means, root @ root.mT).log_prob(points)

    root = torch.linalg.cholesky(mixture.covariances)
    inputs = tuple(t.clone().requires_grad_() for t in (mixture.weights, mixture.means, root, x))
    assert torch.autograd.gradcheck(density, inputs, check_forward_ad=True)


def test_an_empty_component_is_absent_and_harmless() -> None:
    weights, means, covs = make_mixture(components=3, seed=4)
    weights = np.array([0.4, 0.6, 0.0])
    full, short = mixture_of((weights, means, covs)), mixture_of((weights[:2], means[:2], covs[:2]))
    x = torch.randn(50, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) * 30
    torch.testing.assert_close(full.log_prob(x), short.log_prob(x))
    assert (full.component_log_prob(x)[:, 2] == -math.inf).all()
    assert (full.responsibilities(x)[:, 2] == 0).all()
    leaves = [part.clone().requires_grad_() for part in (full.weights, full.means, full.covariances)]
    mixture = GaussianMixture(*leaves)
    (mixture.log_prob(x).sum() + mixture.responsibilities(x)[:, 0].sum()).backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


# -- moments, motion, conversion -------------------------------------------------------------------------------


@given(mixtures())
def test_moments(parts: tuple[np.ndarray, ...]) -> None:
    mixture = mixture_of(parts)
    for index in np.ndindex(*mixture.batch_shape):
        mean, covariance = oracles.moments(tuple(part[index] for part in parts))
        np.testing.assert_allclose(mixture.mean[index].numpy(), mean, rtol=0, atol=1e-13)
        np.testing.assert_allclose(mixture.covariance[index].numpy(), covariance, rtol=0, atol=1e-12)
        traces = np.trace(parts[2][index], axis1=-2, axis2=-1)
        np.testing.assert_allclose(mixture.variances[index].numpy(), traces / 3)


@given(mixtures(batches=((), (3, 4), (0,))), st.integers(0, 2**20))
def test_the_density_of_moved_points_is_that_of_the_moved_mixture(parts: tuple[np.ndarray, ...], seed: int) -> None:
    mixture = mixture_of(parts)
    generator = torch.Generator().manual_seed(seed)
    motion = RigidTransform.random(mixture.batch_shape, generator=generator, max_translation=5.0, dtype=F64)
    x = torch.randn(*mixture.batch_shape, 8, 3, generator=generator, dtype=F64)
    moved = mixture.transformed(motion)
    torch.testing.assert_close(moved.log_prob(motion.apply(x)), mixture.log_prob(x), rtol=1e-9, atol=1e-9)
    back = moved.transformed(motion.inverse())
    torch.testing.assert_close(back.means, mixture.means)
    torch.testing.assert_close(back.covariances, mixture.covariances)
    moved.validated()


def test_one_mixture_moved_many_ways_and_many_one_way(generator: torch.Generator) -> None:
    one, many = mixture_of(make_mixture(seed=5)), mixture_of(make_mixture(batch=(6,), seed=5))
    here = RigidTransform.random(generator=generator, dtype=F64)
    ways = RigidTransform.random((6,), generator=generator, dtype=F64)
    assert one.transformed(ways).batch_shape == many.transformed(here).batch_shape == (6,)
    torch.testing.assert_close(one.transformed(ways)[2].covariances, one.transformed(ways[2]).covariances)
    torch.testing.assert_close(many.transformed(here)[2].means, many[2].transformed(here).means)


def test_isotropic_is_the_nearest_in_kl() -> None:
    rng = np.random.default_rng(6)
    cov = covariances((1,), rng)
    mixture = mixture_of((np.ones(1), np.zeros((1, 3)), cov))
    rounded = mixture.isotropic().covariances[0].numpy()
    np.testing.assert_allclose(rounded, np.eye(3) * np.trace(cov[0]) / 3)

    def divergence(scale: float) -> float:
        return oracles.kl_gaussian(np.zeros(3), cov[0], np.zeros(3), rounded * scale)

    assert divergence(1.0) < min(divergence(0.99), divergence(1.01))


@pytest.mark.parametrize("batch", [(), (1,), (3, 4)])  # torch's distributions refuse an empty batch
def test_conversion_to_torch_and_back(batch: tuple[int, ...]) -> None:
    mixture = mixture_of(make_mixture(batch=batch, seed=7))
    again = GaussianMixture.from_distribution(mixture.to_distribution())
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(again, name), getattr(mixture, name))


def test_conversion_from_independent_normals_and_nothing_else() -> None:
    distributions = torch.distributions
    shares = distributions.Categorical(probs=torch.tensor([0.3, 0.7]))
    normals = distributions.Normal(torch.zeros(2, 3), torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    mixture = GaussianMixture.from_distribution(
        distributions.MixtureSameFamily(shares, distributions.Independent(normals, 1))
    )
    torch.testing.assert_close(mixture.covariances[1], torch.diag(torch.tensor([16.0, 25, 36])))
    heavy = distributions.Independent(distributions.StudentT(3.0, torch.zeros(2, 3)), 1)
    with pytest.raises(InvalidMixture, match="components must be multivariate normals, got Independent"):
        GaussianMixture.from_distribution(distributions.MixtureSameFamily(shares, heavy))


def test_indexing_dtype_and_names() -> None:
    mixture = mixture_of(make_mixture(batch=(3, 4), components=5, seed=8))
    assert (mixture.batch_shape, mixture.components, mixture.dimension) == ((3, 4), 5, 3)
    assert mixture[1].batch_shape == (4,)
    torch.testing.assert_close(mixture[1, 2].means, mixture.means[1, 2])
    assert mixture.to(torch.float32).dtype == torch.float32


# -- samples ---------------------------------------------------------------------------------------------------


def test_samples_have_the_moments_and_the_shares() -> None:
    parts = make_mixture(batch=(2,), seed=9)
    mixture, count = mixture_of(parts), 100_000
    x = mixture.sample(count, generator=torch.Generator().manual_seed(0))
    assert x.shape == (2, count, 3)
    for b in range(2):
        centred = x[b] - mixture.mean[b]
        # count * m^T C^-1 m is chi-squared with three degrees of freedom if the mean is right.
        drift = centred.mean(0)
        statistic = count * drift @ torch.linalg.solve(mixture.covariance[b], drift)
        assert chi2.sf(statistic.item(), 3) > 1e-3
        scatter = centred.T @ centred / count
        torch.testing.assert_close(scatter, mixture.covariance[b], rtol=0, atol=0.02 * mixture.covariance[b].max())
        shares = mixture[b].responsibilities(x[b]).mean(0)  # E[posterior] = prior
        torch.testing.assert_close(shares, mixture.weights[b], rtol=0, atol=5e-3)
    # And the whole density: the mean of -log p is torch's estimate of the same entropy.
    torch.manual_seed(0)
    theirs = mixture.to_distribution().sample((count,)).movedim(0, 1)
    difference = mixture.log_prob(x).mean(-1) - mixture.log_prob(theirs).mean(-1)
    assert (difference.abs() < 5 * mixture.log_prob(x).std(-1) * math.sqrt(2 / count)).all()


def test_samples_come_only_from_the_generator() -> None:
    mixture = mixture_of(make_mixture(seed=10))
    torch.manual_seed(1)
    first = mixture.sample(5, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(2)
    assert torch.equal(first, mixture.sample(5, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(first, mixture.sample(5, generator=torch.Generator().manual_seed(4)))


# -- from responsibilities -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch", [(), (2, 2)])
def test_from_responsibilities_is_the_loop(batch: tuple[int, ...], weighted: bool) -> None:
    rng = np.random.default_rng(11)
    points = rng.normal(size=(*batch, 30, 3)) + 4
    posterior = rng.dirichlet(np.ones(4), size=(*batch, 30))
    counts = rng.uniform(0, 2, size=(*batch, 30)) if weighted else None
    mixture = GaussianMixture.from_responsibilities(
        torch.tensor(points),
        torch.tensor(posterior),
        point_weights=None if counts is None else torch.tensor(counts),
        floor=0.0,
    )
    for index in np.ndindex(*batch):
        expected = oracles.maximisation(points[index], posterior[index], None if counts is None else counts[index])
        for ours, theirs in zip((mixture.weights, mixture.means, mixture.covariances), expected, strict=True):
            np.testing.assert_allclose(ours[index].numpy(), theirs, rtol=1e-12, atol=1e-13)


def test_a_zero_point_weight_is_an_absent_point() -> None:
    rng = np.random.default_rng(12)
    points, posterior = torch.tensor(rng.normal(size=(30, 3))), torch.tensor(rng.dirichlet(np.ones(4), size=30))
    kept = (torch.arange(30) < 20).to(F64)
    masked = GaussianMixture.from_responsibilities(points, posterior, point_weights=3 * kept)
    short = GaussianMixture.from_responsibilities(points[:20], posterior[:20])
    torch.testing.assert_close(masked.covariances, short.covariances)


def test_moments_are_kept_and_the_floor_is_a_share_of_the_variance() -> None:
    rng = np.random.default_rng(13)
    points, posterior = torch.tensor(rng.normal(size=(50, 3)) * 7), torch.tensor(rng.dirichlet(np.ones(4), size=50))
    for floor in (0.0, 0.1):
        mixture = GaussianMixture.from_responsibilities(points, posterior, floor=floor)
        scatter = torch.cov(points.T, correction=0)
        # Total variance: hardening or softening the posterior moves no moment of the whole.
        torch.testing.assert_close(mixture.mean, points.mean(0))
        expected = scatter + floor * scatter.diagonal().mean() * torch.eye(3, dtype=F64)
        torch.testing.assert_close(mixture.covariance, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_components_nobody_belongs_to(dtype: torch.dtype) -> None:
    points = torch.tensor(np.random.default_rng(14).normal(size=(40, 3)) + 2, dtype=dtype)
    posterior = torch.zeros(40, 3, dtype=dtype)
    posterior[:, 0] = 1
    posterior[7] = torch.tensor([0.0, 1, 0], dtype=dtype)  # a component of a single point
    posterior.requires_grad_()
    mixture = GaussianMixture.from_responsibilities(points, posterior).validated()
    assert mixture.weights[2] == 0
    torch.testing.assert_close(mixture.means[2], points.mean(0))
    torch.testing.assert_close(mixture.covariances[2], torch.cov(points.T, correction=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixture.means[1], points[7], rtol=1e-4, atol=0)
    total = mixture.log_prob(points).sum() + mixture.means.sum() + mixture.covariances.sum()
    assert torch.isfinite(torch.autograd.grad(total, posterior)[0]).all()


def test_flat_clouds_make_valid_mixtures() -> None:
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    points[:, 2] = 5
    posterior = torch.rand(100, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
    GaussianMixture.from_responsibilities(points, posterior).validated()


def test_from_responsibilities_gradcheck() -> None:
    rng = np.random.default_rng(15)
    arrays = rng.normal(size=(2, 6, 3)), rng.dirichlet(np.ones(3), size=(2, 6)), rng.uniform(0.5, 2, size=(2, 6))

    def outputs(points: Tensor, posterior: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
        mixture = GaussianMixture.from_responsibilities(points, posterior, point_weights=counts)
        return mixture.weights, mixture.means, mixture.covariances

    inputs = tuple(torch.tensor(a, requires_grad=True) for a in arrays)
    assert torch.autograd.gradcheck(outputs, inputs, check_forward_ad=True)


def test_from_responsibilities_far_from_the_origin_in_float32() -> None:
    rng = np.random.default_rng(16)
    points = (rng.normal(size=(200, 3)) + 1e4).astype(np.float32)
    posterior = rng.dirichlet(np.ones(3), size=200)
    mixture = GaussianMixture.from_responsibilities(torch.tensor(points), torch.tensor(posterior).float(), floor=0.0)
    _, _, expected = oracles.maximisation(points.astype(np.float64), posterior)
    np.testing.assert_allclose(mixture.covariances.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_responsibilities_must_match_the_points() -> None:
    with pytest.raises(InvalidMixture, match=r"points \(5, 3\) and responsibilities \(4, 2\) must agree"):
        GaussianMixture.from_responsibilities(torch.zeros(5, 3), torch.zeros(4, 2))


# -- expectation maximisation ----------------------------------------------------------------------------------


def test_em_recovers_separated_clusters(generator: torch.Generator) -> None:
    fit = GaussianMixture.fit(clusters(generator), 3, generator=generator)
    mixture = fit.mixture.validated()
    assert fit.converged
    assert fit.iterations < 20
    order = mixture.variances.argsort()
    torch.testing.assert_close(mixture.weights[order], torch.full((3,), 1 / 3, dtype=F64), rtol=0, atol=1e-3)
    expected = torch.tensor([[0.0, 0, 0], [0, 9, 1], [8, 0, 0]], dtype=F64)
    torch.testing.assert_close(mixture.means[order], expected, rtol=0, atol=0.15)
    torch.testing.assert_close(
        mixture.variances[order].sqrt(), torch.tensor([0.2, 0.5, 1.0]).to(F64), rtol=0.06, atol=0
    )


@settings(max_examples=8)
@given(st.integers(0, 2**20), st.sampled_from([2, 5]))
def test_em_never_loses_likelihood(seed: int, components: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = clusters(generator, count=40)
    likelihoods = [
        GaussianMixture.fit(
            points,
            components,
            generator=torch.Generator().manual_seed(seed),
            max_iterations=n,
            tolerance=0.0,
            floor=0.0,
        ).log_likelihood.item()
        for n in (1, 2, 3, 5, 8, 12)
    ]
    assert (np.diff(likelihoods) > -1e-9).all()


def test_em_reports_what_it_reached(generator: torch.Generator) -> None:
    points = clusters(generator)
    full = GaussianMixture.fit(points, 4)
    torch.testing.assert_close(full.log_likelihood, full.mixture.log_prob(points).mean(-1))
    cut = GaussianMixture.fit(points, 4, max_iterations=1)
    assert cut.iterations == 1
    assert not cut.converged
    torch.testing.assert_close(cut.log_likelihood, cut.mixture.log_prob(points).mean(-1))
    assert cut.log_likelihood < full.log_likelihood


def test_em_of_a_batch(generator: torch.Generator) -> None:
    points = torch.stack([clusters(generator, count=100), clusters(generator, count=100, offset=50.0)]).unsqueeze(0)
    means = points[..., [0, 1, 2], :]  # one of each cluster
    fit = GaussianMixture.fit(points, 3, initial_means=means)
    assert fit.mixture.batch_shape == fit.converged.shape == fit.log_likelihood.shape == (1, 2)
    alone = GaussianMixture.fit(points[0, 1], 3, initial_means=means[0, 1], max_iterations=fit.iterations)
    torch.testing.assert_close(fit.mixture[0, 1].means, alone.mixture.means, rtol=0, atol=1e-3)
    assert GaussianMixture.fit(points[:0], 3).mixture.means.shape == (0, 2, 3, 3)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_em_in_float32_wherever_the_cloud_is(offset: float) -> None:
    points = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0))
    points[:1500, 0] += 12
    points = points + offset
    fit = GaussianMixture.fit(points, 2)
    reference = GaussianMixture.fit(points.double() - offset, 2)
    assert fit.log_likelihood.item() == pytest.approx(reference.log_likelihood.item(), abs=2e-3)
    torch.testing.assert_close(fit.mixture.weights, torch.full((2,), 0.5), rtol=0, atol=1e-3)


def test_k_means_plus_plus_finds_far_clusters_and_repeats_itself(generator: torch.Generator) -> None:
    points = clusters(generator)
    first, second = (GaussianMixture.fit(points, 3, max_iterations=1).mixture for _ in range(2))
    assert torch.equal(first.means, second.means)  # without a generator: a fixed seed, not the global state
    hits = 0
    for seed in range(30):
        mixture = GaussianMixture.fit(
            points, 3, generator=torch.Generator().manual_seed(seed), max_iterations=1
        ).mixture
        hits += bool((mixture.weights - 1 / 3).abs().max() < 0.02)
    assert hits > 24  # drawn uniformly, three seeds fall into three equal clusters in 22 % of draws
    seeded = [
        GaussianMixture.fit(points, 5, generator=torch.Generator().manual_seed(s), max_iterations=1) for s in (1, 1, 2)
    ]
    assert torch.equal(seeded[0].mixture.means, seeded[1].mixture.means)
    assert not torch.equal(seeded[0].mixture.means, seeded[2].mixture.means)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_duplicated_points(dtype: torch.dtype) -> None:
    # Three places, each many times over, and more components than places.
    places = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]], dtype=dtype).repeat(30, 1)
    fit = GaussianMixture.fit(places, 5)
    fit.mixture.validated()
    assert torch.isfinite(fit.log_likelihood)
    near = torch.cdist(places[:3], fit.mixture.means[fit.mixture.weights > 0.01]).amin(1)
    assert (near < 1e-3).all()


def test_as_many_components_as_points() -> None:
    points = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    fit = GaussianMixture.fit(points, 6)
    torch.testing.assert_close(fit.mixture.weights, torch.full((6,), 1 / 6, dtype=F64))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(5, 3), 6), "cannot fit 6 components to 5 points; ask for between 1 and 5"),
        ((torch.zeros(5, 3), 0), "cannot fit 0 components"),
        ((torch.full((5, 3), math.nan), 2), "NaN or infinite points"),
    ],
)
def test_fit_refuses(arguments: tuple[Tensor, int], words: str) -> None:
    with pytest.raises(InvalidMixture, match=words):
        GaussianMixture.fit(*arguments)


def test_fit_needs_an_iteration() -> None:
    with pytest.raises(InvalidMixture, match="at least one iteration, got 0"):
        GaussianMixture.fit(torch.rand(5, 3), 2, max_iterations=0)


# -- bad numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"weights": torch.ones(3) / 3}, r"got \(3,\), \(2, 3\) and \(2, 3, 3\)", id="other J"),
        pytest.param({"means": torch.zeros(2, 2)}, r"\(2, 2\) and \(2, 3, 3\)", id="other d"),
        pytest.param({"covariances": torch.ones(2, 3)}, r"covariances \(\*B, J, d, d\)", id="variances"),
        pytest.param({"covariances": torch.ones(2, 3, 2)}, r"\(2, 3, 2\)", id="not square"),
    ],
)
def test_shapes_are_checked_at_once(changes: dict[str, Tensor], words: str) -> None:
    with pytest.raises(InvalidMixture, match=words):
        simple(**changes)


def test_there_is_at_least_one_component_and_dimension() -> None:
    with pytest.raises(InvalidMixture, match="at least one component"):
        GaussianMixture(torch.zeros(2, 0), torch.zeros(2, 0, 3), torch.zeros(2, 0, 3, 3))
    with pytest.raises(InvalidMixture, match="one dimension"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 0), torch.zeros(1, 0, 0))


INDEFINITE = torch.diag(torch.tensor([1.0, 1, -0.5])).repeat(2, 1, 1)
LOPSIDED = torch.eye(3).repeat(2, 1, 1) + torch.tensor([[0.0, 0.1, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"weights": torch.tensor([math.nan, 1.0])}, InvalidMixture, r"weights \(2,\) hold 1 NaN or infinite"),
        ({"means": torch.full((2, 3), math.inf)}, InvalidMixture, r"means \(2, 3\) hold 6 NaN"),
        ({"covariances": torch.full((2, 3, 3), math.nan)}, InvalidMixture, r"covariances \(2, 3, 3\) hold 18"),
        ({"weights": torch.tensor([-0.5, 1.5])}, InvalidMixture, r"must not be negative, got -0\.5"),
        ({"weights": torch.tensor([0.5, 0.8])}, InvalidMixture, r"sum to one, off by up to 0\.3; divide by their sum"),
        ({"covariances": LOPSIDED}, InvalidMixture, r"symmetric, \|S - S\^T\| reaches 0\.1"),
        ({"covariances": INDEFINITE}, NotPositiveDefinite, r"2 of 2 covariances.*eigenvalue -0\.5\); .*larger floor"),
        ({"covariances": torch.zeros(2, 3, 3)}, NotPositiveDefinite, "not positive definite"),
    ],
)
def test_validation_names_what_is_wrong(changes: dict[str, Tensor], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        simple(**changes).validated()


def test_a_small_component_is_held_to_its_own_size() -> None:
    covs = torch.stack([torch.eye(3) * 1e6, LOPSIDED[0]])
    with pytest.raises(InvalidMixture, match="must be symmetric"):
        simple(covariances=covs).validated()


@pytest.mark.parametrize("batch", BATCHES)
def test_validation_returns_what_is_right(batch: tuple[int, ...]) -> None:
    mixture = mixture_of(make_mixture(batch=batch, seed=17))
    assert mixture.validated() is mixture


def test_a_density_needs_positive_definite_covariances() -> None:
    with pytest.raises(NotPositiveDefinite, match="2 of 2 covariances"):
        simple(covariances=INDEFINITE).log_prob(torch.zeros(1, 3))
