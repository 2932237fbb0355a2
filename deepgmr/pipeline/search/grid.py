"""Every rotation there is, on a grid, scored by how much the two mixtures overlap.

Needs no descriptor and no surface, but takes the centroids of the clouds to correspond: right for whole shapes, wrong
under cropping, so it is a second opinion beside the matches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.geometry.transform import RigidTransform, rotation_grid
from deepgmr.mixture import GaussianMixture
from deepgmr.pipeline.search.prior import Prior

_ROTATIONS = 1152  # within 24 degrees of any rotation, half of them within 12
_CHUNK = 384
_NEGLIGIBLE = 30.0  # nats below the largest term; beyond it exp would underflow to subnormal numbers, ten times slower
_BLUR = 0.04  # standard deviation added to the components: the reach of the grid's spacing


def grid_motions(source: GaussianMixture, target: GaussianMixture, *, count: int, prior: Prior) -> RigidTransform:
    """The `count` rotations about the centroids with the largest overlap integral, best first.

    The overlap of two Gaussians is a Gaussian, so with scalar variances s_j^2 and t_k^2 the integral of the product
    of the mixtures is  sum_jk pi_j omega_k N(R mu_j - nu_k; 0, (s_j^2 + t_k^2 + blur^2) I).
    """
    rotations = prior.near(rotation_grid(_ROTATIONS, dtype=source.dtype))
    a, b = source.means - source.mean, target.means - target.mean  # (J, 3), (K, 3)
    variance = source.variances.unsqueeze(-1) + target.variances + _BLUR**2  # (J, K)
    log_weight = source.weights.log().unsqueeze(-1) + target.weights.log() - 1.5 * variance.log()
    overlap = torch.cat([_overlap(part, a, b, variance, log_weight) for part in rotations.split(_CHUNK)])
    chosen = rotations[overlap.topk(min(count, len(overlap))).indices]
    return RigidTransform(chosen, target.mean - chosen @ source.mean)


def _overlap(rotations: Tensor, source: Tensor, target: Tensor, variance: Tensor, log_weight: Tensor) -> Tensor:
    moved = source @ rotations.mT  # (G, J, 3)
    squared = source.square().sum(-1, keepdim=True) + target.square().sum(-1) - 2 * moved @ target.T
    exponent = log_weight - squared / (2 * variance)
    return exponent.clamp_min(log_weight.max() - _NEGLIGIBLE).exp().sum((-1, -2))
