"""Divergences and distances between Gaussians, Gaussian mixtures, histograms and samples.

Batched, differentiable, and honest about what each number is: exact, a bound, an estimate or a metric. The page
docs/divergences.md chooses between them. Each function is named by what it computes; there is no `method="..."`.

Gaussians (means, covariances of any kind) -- `gaussian`, `generalized`, `wasserstein`. Mixtures (two `GaussianMixture`s)
-- `mixture`, `sampling`, `overlap`, `wasserstein`. Histograms -- `discrete`. Samples of points -- `samples`.
"""

from deepgmr.divergence.gaussian import (
    bhattacharyya_gaussian,
    geometric_jensen_shannon_gaussian,
    hellinger_gaussian,
    jeffreys_gaussian,
    kl_gaussian,
    log_product_integral_gaussian,
    pairwise_kl_gaussian,
    renyi_gaussian,
)
from deepgmr.divergence.generalized import kl_generalized_gaussian
from deepgmr.divergence.histograms import js_histograms, kl_bernoulli, kl_histograms, pairwise_kl_histograms
from deepgmr.divergence.losses import (
    same_index_loss,
    symmetric_same_index_loss,
    symmetric_variational_loss,
    variational_loss,
)
from deepgmr.divergence.mixtures import (
    Interval,
    kl_durrieu,
    kl_durrieu_lower,
    kl_durrieu_upper,
    kl_interval,
    kl_matched,
    kl_matched_soft,
    kl_moment_matched,
    kl_product,
    kl_same_index,
    kl_variational,
    kl_variational_upper,
    kl_vasconcelos,
)
from deepgmr.divergence.monte_carlo import (
    Estimate,
    jeffreys,
    jensen_shannon,
    jensen_shannon_interval,
    jensen_shannon_monte_carlo,
    kl_monte_carlo,
    kl_stratified,
    kl_unscented,
)
from deepgmr.divergence.partial import kl_oriented, kl_partial, largest_partial_divergence, partial_divergence
from deepgmr.divergence.point_sets import chamfer, energy_distance, median_bandwidth, mmd, sliced_wasserstein
from deepgmr.divergence.products import cauchy_schwarz, l2_squared
from deepgmr.divergence.torch_bridge import disable_mixture_kl, enable_mixture_kl
from deepgmr.divergence.transport import (
    frechet_distance,
    mixture_transport_plan,
    mixture_wasserstein2,
    mixture_wasserstein2_entropic,
    wasserstein2_gaussian,
    wasserstein2_squared_gaussian,
)

__all__ = [
    # the exact, between Gaussians
    "kl_gaussian",
    "pairwise_kl_gaussian",
    "jeffreys_gaussian",
    "renyi_gaussian",
    "bhattacharyya_gaussian",
    "hellinger_gaussian",
    "geometric_jensen_shannon_gaussian",
    "log_product_integral_gaussian",
    "kl_generalized_gaussian",
    "wasserstein2_gaussian",
    "wasserstein2_squared_gaussian",
    "frechet_distance",
    # between mixtures: estimates
    "kl_monte_carlo",
    "kl_stratified",
    "kl_unscented",
    "kl_moment_matched",
    "kl_product",
    "kl_vasconcelos",
    "kl_matched",
    "kl_matched_soft",
    "kl_variational",
    "kl_durrieu",
    "jeffreys",
    "jensen_shannon",
    "jensen_shannon_monte_carlo",
    # between mixtures: bounds
    "kl_same_index",
    "kl_variational_upper",
    "kl_durrieu_lower",
    "kl_durrieu_upper",
    "kl_interval",
    "jensen_shannon_interval",
    # between mixtures that share a part
    "kl_partial",
    "partial_divergence",
    "largest_partial_divergence",
    "kl_oriented",
    # between mixtures: exact
    "cauchy_schwarz",
    "l2_squared",
    "mixture_wasserstein2",
    "mixture_wasserstein2_entropic",
    "mixture_transport_plan",
    # between histograms and coins
    "kl_histograms",
    "js_histograms",
    "pairwise_kl_histograms",
    "kl_bernoulli",
    # between samples
    "mmd",
    "median_bandwidth",
    "sliced_wasserstein",
    "energy_distance",
    "chamfer",
    # losses
    "same_index_loss",
    "symmetric_same_index_loss",
    "variational_loss",
    "symmetric_variational_loss",
    # the bridge to torch.distributions, and results
    "enable_mixture_kl",
    "disable_mixture_kl",
    "Estimate",
    "Interval",
]
