"""Gaussian mixtures in torch: any leading batch dimensions, any dimension d (three for clouds).

A `GaussianMixture` is three tensors: `weights` (*B, J), `means` (*B, J, d), `covariances` (*B, J, d, d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgmr.errors import InvalidMixture, NotPositiveDefinite
from deepgmr.geometry.transform import RigidTransform

_WEIGHT_TOLERANCE = 1e-4  # weights of a softmax in half precision sum to one this closely


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture sum_j weights_j N(means_j, covariances_j).

    The constructor checks shapes only, so it is safe inside `vmap`, `torch.compile` and autograd; `validated`
    checks the numbers. Raises `InvalidMixture`.
    """

    weights: Tensor  # (*B, J)
    means: Tensor  # (*B, J, d)
    covariances: Tensor  # (*B, J, d, d)

    def __post_init__(self) -> None:
        weights, means, covariances = self.weights.shape, self.means.shape, self.covariances.shape
        if means[:-1] != weights or covariances[:-1] != means or len(weights) < 1 or covariances[-1:] != means[-1:]:
            raise InvalidMixture(
                "a mixture needs weights (*B, J), means (*B, J, d) and covariances (*B, J, d, d), got "
                f"{tuple(weights)}, {tuple(means)} and {tuple(covariances)}"
            )
        if weights[-1] == 0 or means[-1] == 0:
            raise InvalidMixture(f"a mixture needs at least one component and one dimension, got means {tuple(means)}")

    # -- making one ----------------------------------------------------------------------------------------

    @classmethod
    def from_responsibilities(
        cls,
        points: Tensor,
        responsibilities: Tensor,
        *,
        point_weights: Tensor | None = None,
        floor: float = 1e-6,
    ) -> GaussianMixture:
        """The mixture whose components are the weighted moments of the points.

        The M-step of EM, and the layer by which a network's responsibilities become a mixture (DeepGMR, Yuan et
        al. 2020, eq. 4-6; there with one scalar variance a component, here with whole covariances).

        points            (*B, N, d)
        responsibilities  (*B, N, J), non-negative; the rows of a posterior sum to one
        point_weights     (*B, N), optional, non-negative: how much each point counts
        floor             added to every covariance, as a share of the cloud's own mean variance, so that flat
                          and single-point components stay positive definite

        A component no point belongs to gets weight zero and the mean and covariance of the whole cloud.
        Differentiable in every argument.
        """
        if responsibilities.shape[:-1] != points.shape[:-1]:
            raise InvalidMixture(
                f"points {tuple(points.shape)} and responsibilities {tuple(responsibilities.shape)} must agree in "
                "all but their last dimension"
            )
        if point_weights is None:
            share = torch.full_like(points[..., 0], 1.0 / points.shape[-2])
        else:
            share = point_weights / point_weights.sum(-1, keepdim=True)  # (*B, N)
        d = points.shape[-1]
        centre = (share.unsqueeze(-1) * points).sum(-2, keepdim=True)  # (*B, 1, d)
        x = points - centre
        spread = torch.einsum("...n,...ni,...nk->...ik", share, x, x)  # (*B, d, d)
        mean_variance = spread.diagonal(dim1=-2, dim2=-1).mean(-1)  # (*B)
        mass = share.unsqueeze(-1) * responsibilities  # (*B, N, J)
        total = mass.sum(-2)  # (*B, J)
        prior = torch.finfo(points.dtype).eps  # pulls an empty component to the cloud, and no other
        denominator = (total + prior).unsqueeze(-1)  # (*B, J, 1)
        means = (mass.mT @ x) / denominator  # (*B, J, d)
        deviation = x.unsqueeze(-3) - means.unsqueeze(-2)  # (*B, J, N, d)
        scatter = (mass.mT.unsqueeze(-1) * deviation).mT @ deviation  # (*B, J, d, d)
        covariances = (scatter + prior * spread.unsqueeze(-3)) / denominator.unsqueeze(-1)
        eye = torch.eye(d, dtype=points.dtype, device=points.device)
        covariances = covariances + (floor * mean_variance)[..., None, None, None] * eye
        return cls(total / total.sum(-1, keepdim=True), means + centre, (covariances + covariances.mT) / 2)

    @classmethod
    def fit(
        cls,
        points: Tensor,
        components: int,
        *,
        generator: torch.Generator | None = None,
        initial_means: Tensor | None = None,
        max_iterations: int = 100,
        tolerance: float = 1e-4,
        floor: float = 1e-6,
    ) -> MixtureFit:
        """Fit by expectation maximisation from a k-means++ start (Dempster 1977; Arthur and Vassilvitskii 2007).

        points        (*B, N, d); initial_means (*B, components, d) replaces the k-means++ start
        generator     the only source of chance; without one, a fixed seed
        tolerance     converged when the mean log likelihood of a point gains less than this in an iteration

        Raises `InvalidMixture` if there are fewer points than components or the points are not finite.
        """
        n, d = points.shape[-2:]
        if components < 1 or n < components:
            raise InvalidMixture(f"cannot fit {components} components to {n} points; ask for between 1 and {n}")
        if max_iterations < 1:
            raise InvalidMixture(f"expectation maximisation needs at least one iteration, got {max_iterations}")
        if not torch.isfinite(points).all():
            raise InvalidMixture("cannot fit a mixture to NaN or infinite points; drop them first")
        batch = points.shape[:-2]
        x = points.detach().reshape(-1, n, d)
        origin = x[:, :1]  # distances lose their digits far from zero, and cdist squares them
        x = x - origin
        if initial_means is None:
            seeds = _plus_plus(x, components, generator or torch.Generator(points.device).manual_seed(0))
        else:
            seeds = initial_means.detach().reshape(-1, components, d) - origin
        nearest = torch.cdist(x, seeds).argmin(-1)
        responsibilities = torch.nn.functional.one_hot(nearest, components).to(x.dtype)
        mixture = cls.from_responsibilities(x, responsibilities, floor=floor)
        previous = x.new_full((x.shape[0],), -math.inf)
        converged = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
        iteration = 0
        for iteration in range(1, max_iterations + 1):
            joint = mixture.component_log_prob(x)  # (B, N, J)
            evidence = torch.logsumexp(joint, dim=-1)  # (B, N)
            likelihood = evidence.mean(-1)
            converged = likelihood - previous < tolerance
            if converged.all() or iteration == max_iterations:
                break
            previous = likelihood
            mixture = cls.from_responsibilities(x, (joint - evidence.unsqueeze(-1)).exp(), floor=floor)
        return MixtureFit(
            mixture=cls(
                mixture.weights.reshape(*batch, components),
                (mixture.means + origin).reshape(*batch, components, d),
                mixture.covariances.reshape(*batch, components, d, d),
            ),
            log_likelihood=likelihood.reshape(batch),
            converged=converged.reshape(batch),
            iterations=iteration,
        )

    @classmethod
    def from_distribution(cls, distribution: torch.distributions.MixtureSameFamily) -> GaussianMixture:
        """Read a `MixtureSameFamily` of `MultivariateNormal` components (or `Independent` normals)."""
        parts = distribution.component_distribution
        if isinstance(parts, torch.distributions.MultivariateNormal):
            covariances = parts.covariance_matrix
        elif isinstance(parts, torch.distributions.Independent) and isinstance(
            parts.base_dist, torch.distributions.Normal
        ):
            covariances = torch.diag_embed(parts.variance)
        else:
            raise InvalidMixture(f"components must be multivariate normals, got {type(parts).__name__}")
        return cls(distribution.mixture_distribution.probs, parts.mean, covariances)

    def to_distribution(self) -> torch.distributions.MixtureSameFamily:
        """The same mixture as torch's own distribution object."""
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(probs=self.weights),
            torch.distributions.MultivariateNormal(self.means, self.covariances),
        )

    def validated(self) -> GaussianMixture:
        """Check the numbers and return self. Raises `InvalidMixture` or `NotPositiveDefinite`."""
        for name in ("weights", "means", "covariances"):
            bad = int((~torch.isfinite(getattr(self, name))).sum())
            if bad:
                raise InvalidMixture(f"{name} {tuple(getattr(self, name).shape)} hold {bad} NaN or infinite numbers")
        if (self.weights < 0).any():
            raise InvalidMixture(f"weights must not be negative, got {self.weights.min().item():.3g}")
        if ((self.weights.sum(-1) - 1).abs() > _WEIGHT_TOLERANCE).any():
            worst = self.weights.sum(-1).sub(1).abs().max().item()
            raise InvalidMixture(f"weights must sum to one, off by up to {worst:.3g}; divide by their sum")
        scale = self.covariances.abs().amax(dim=(-2, -1))
        asymmetry = (self.covariances - self.covariances.mT).abs().amax(dim=(-2, -1))  # (*B, J)
        if (asymmetry > 1e-4 * scale).any():
            raise InvalidMixture(f"covariances must be symmetric, |S - S^T| reaches {asymmetry.max().item():.3g}")
        self._cholesky()
        return self

    # -- looking at one ------------------------------------------------------------------------------------

    @property
    def batch_shape(self) -> torch.Size:
        return self.weights.shape[:-1]

    @property
    def components(self) -> int:
        return self.weights.shape[-1]

    @property
    def dimension(self) -> int:
        return self.means.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.means.dtype

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def variances(self) -> Tensor:
        """The scalar variance of each component (*B, J): trace / d, the isotropic Gaussian nearest in KL."""
        return self.covariances.diagonal(dim1=-2, dim2=-1).mean(-1)

    @property
    def mean(self) -> Tensor:
        """The mean (*B, d) of the whole mixture."""
        return (self.weights.unsqueeze(-1) * self.means).sum(-2)

    @property
    def covariance(self) -> Tensor:
        """The covariance (*B, d, d) of the whole mixture: within plus between components."""
        deviation = self.means - self.mean.unsqueeze(-2)
        within = (self.weights[..., None, None] * self.covariances).sum(-3)
        return within + torch.einsum("...j,...ji,...jk->...ik", self.weights, deviation, deviation)

    # -- using one -----------------------------------------------------------------------------------------

    def transformed(self, transform: RigidTransform) -> GaussianMixture:
        """The mixture of the moved points: means move, covariances turn. Batches broadcast."""
        rotation = transform.rotation.unsqueeze(-3)  # (*B, 1, 3, 3)
        means = transform.apply(self.means)
        covariances = rotation @ self.covariances @ rotation.mT
        return GaussianMixture(self.weights.expand(means.shape[:-1]), means, covariances)

    def isotropic(self) -> GaussianMixture:
        """The same mixture with every covariance replaced by its mean variance times the identity."""
        eye = torch.eye(self.dimension, dtype=self.dtype, device=self.device)
        return GaussianMixture(self.weights, self.means, self.variances[..., None, None] * eye)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log(weights_j N(x; means_j, covariances_j)) of points (*B, N, d), as (*B, N, J)."""
        d, components = self.dimension, self.components
        factor = self._cholesky()
        eye = torch.eye(d, dtype=self.dtype, device=self.device).expand_as(factor)
        whitening = torch.linalg.solve_triangular(factor, eye, upper=False)  # (*B, J, d, d)
        stacked = whitening.reshape(*self.batch_shape, components * d, d)
        centre = self.means.mean(-2, keepdim=True)  # keeps the products small: float32 loses digits far from zero
        white = ((x - centre) @ stacked.mT).unflatten(-1, (components, d))  # (*B, N, J, d)
        white_means = (whitening @ (self.means - centre).unsqueeze(-1)).squeeze(-1)  # (*B, J, d)
        squared = (white - white_means.unsqueeze(-3)).square().sum(-1)  # (*B, N, J)
        log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (*B, J)
        present = self.weights != 0  # the logarithm of an empty component is -inf, but its gradient is not NaN
        log_weights = torch.where(present, torch.where(present, self.weights, 1.0).log(), -math.inf)
        constant = log_weights - 0.5 * (log_determinant + d * math.log(2 * math.pi))
        return constant.unsqueeze(-2) - 0.5 * squared

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density (*B, N) at points (*B, N, d)."""
        return torch.logsumexp(self.component_log_prob(x), dim=-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """The posterior (*B, N, J) of the components given points (*B, N, d); rows sum to one."""
        return torch.softmax(self.component_log_prob(x), dim=-1)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw points (*B, count, d). Not differentiable in the weights."""
        flat = self.weights.reshape(-1, self.components)
        index = torch.multinomial(flat, count, replacement=True, generator=generator)
        index = index.reshape(*self.batch_shape, count)
        noise = torch.randn(
            *self.batch_shape,
            count,
            self.dimension,
            generator=generator,
            dtype=self.dtype,
            device=self.device,
        )
        means = self.means.gather(-2, index.unsqueeze(-1).expand(*index.shape, self.dimension))
        wide = index[..., None, None].expand(*index.shape, self.dimension, self.dimension)
        factor = self._cholesky().gather(-3, wide)
        return means + (factor @ noise.unsqueeze(-1)).squeeze(-1)

    def to(self, *args: object, **kwargs: object) -> GaussianMixture:
        """Move to a dtype or device, as `torch.Tensor.to`."""
        moved = [part.to(*args, **kwargs) for part in (self.weights, self.means, self.covariances)]  # type: ignore[call-overload]
        return GaussianMixture(*moved)

    def __getitem__(self, index: object) -> GaussianMixture:
        """Index the leading batch dimensions."""
        return GaussianMixture(self.weights[index], self.means[index], self.covariances[index])  # type: ignore[index]

    def _repr_html_(self) -> str:
        """What a notebook shows: a small picture and a few numbers."""
        from deepgmr.report import mixture_html

        return mixture_html(self)

    def _cholesky(self) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(self.covariances)
        if failed.any():
            lowest = torch.linalg.eigvalsh(self.covariances.detach().double()).min().item()
            raise NotPositiveDefinite(
                f"{int((failed != 0).sum())} of {failed.numel()} covariances are not positive definite (least "
                f"eigenvalue {lowest:.3g}); rebuild the mixture with a larger floor"
            )
        return factor


@dataclass(frozen=True, eq=False)
class MixtureFit:
    """What `GaussianMixture.fit` found, and whether it had settled."""

    mixture: GaussianMixture
    log_likelihood: Tensor  # (*B), mean log likelihood of a point, nats
    converged: Tensor  # (*B) bool
    iterations: int


def _plus_plus(x: Tensor, components: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeds (B, components, d) of points (B, N, d): each new seed drawn by squared distance."""
    batch = torch.arange(x.shape[0], device=x.device)
    first = torch.randint(x.shape[1], (x.shape[0],), generator=generator, device=x.device)
    seeds = [x[batch, first]]
    squared = (x - seeds[0].unsqueeze(1)).square().sum(-1)  # (B, N)
    for _ in range(components - 1):
        # Duplicated points can leave no distance to draw from; any point is then as good a seed as another.
        mass = torch.where(squared.sum(-1, keepdim=True) > 0, squared, torch.ones_like(squared))
        chosen = torch.multinomial(mass, 1, generator=generator).squeeze(-1)
        seeds.append(x[batch, chosen])
        squared = torch.minimum(squared, (x - seeds[-1].unsqueeze(1)).square().sum(-1))
    return torch.stack(seeds, dim=1)
