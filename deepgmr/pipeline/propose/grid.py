"""Every rotation there is, on a grid, scored by how much the two mixtures overlap.

Needs no descriptor and no surface, but takes the centroids of the clouds to correspond: right for whole shapes, wrong
under cropping, so it is a second opinion beside the matches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.geometry.neighbours import farthest_points
from deepgmr.geometry.transform import RigidTransform, rotation_grid
from deepgmr.mixture import GaussianMixture
from deepgmr.pipeline.propose.given import Prior
from deepgmr.pipeline.scan import Level
from deepgmr.pipeline.settings import ProposeSettings

_CHUNK = 384
_NEGLIGIBLE = 30.0  # nats below the largest term; beyond it exp would underflow to subnormal numbers, ten times slower


def grid_motions(
    source: GaussianMixture, target: GaussianMixture, *, count: int, prior: Prior, rotations: int = 1152, blur: float
) -> RigidTransform:
    """The `count` of a grid of rotations, about the centroids, with the largest overlap integral, best first.

    The overlap of two Gaussians is a Gaussian, so with scalar variances s_j^2 and t_k^2 the integral of the product
    of the mixtures is  sum_jk pi_j omega_k N(R mu_j - nu_k; 0, (s_j^2 + t_k^2 + blur^2) I).
    """
    grid = prior.near(rotation_grid(rotations, dtype=source.dtype))
    a, b = source.means - source.mean, target.means - target.mean  # (J, 3), (K, 3)
    variance = source.variances.unsqueeze(-1) + target.variances + blur**2  # (J, K)
    log_weight = source.weights.log().unsqueeze(-1) + target.weights.log() - 1.5 * variance.log()
    overlap = torch.cat([_overlap(part, a, b, variance, log_weight) for part in grid.split(_CHUNK)])
    chosen = grid[overlap.topk(min(count, len(overlap))).indices]
    return RigidTransform(chosen, target.mean - chosen @ source.mean)


def _overlap(rotations: Tensor, source: Tensor, target: Tensor, variance: Tensor, log_weight: Tensor) -> Tensor:
    moved = source @ rotations.mT  # (G, J, 3)
    squared = source.square().sum(-1, keepdim=True) + target.square().sum(-1) - 2 * moved @ target.T
    exponent = log_weight - squared / (2 * variance)
    return exponent.clamp_min(log_weight.max() - _NEGLIGIBLE).exp().sum((-1, -2))


def coarse(level: Level, settings: ProposeSettings) -> GaussianMixture:
    """A mixture of a few components, enough for the rotation grid."""
    count, rounds, floor = min(settings.mixture, len(level)), settings.rounds, settings.floor

    def fitted() -> GaussianMixture:
        seeds = level.means[farthest_points(level.means[None], count)[0]]
        return GaussianMixture.fit(level.means, count, initial_means=seeds, max_iterations=rounds, floor=floor).mixture

    return level.made(("mixture", count, rounds, floor), fitted)
